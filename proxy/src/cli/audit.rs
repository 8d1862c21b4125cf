//! `chaperone audit verify|search|show`: the auditor's side, on the files themselves and without the daemon.
//!
//! It only reads. Text that agents wrote is printed inert: no record can move the reader's cursor or reverse a line.
//! Exit codes: 0 done; 1 the log does not verify, or the record asked for is not there; 3 the log cannot be read.

mod kernel;

use std::fs;
use std::io::{self, IsTerminal as _, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::{Value, json};

use self::kernel::Comparison;
use crate::approval::inert;
use crate::audit::{Filter, Found, Report, Trust, Verifier, VerifyError, search};
use crate::clock::Clock;
use crate::config::Config;
use crate::model::{SessionId, TicketId, UnixMillis};

/// Reads the record.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Recompute the whole log: every hash, every signature.
    Verify(VerifyArgs),
    /// List records.
    Search(Box<SearchArgs>),
    /// Print one record, or all records of one session or ticket, in full.
    Show(ShowArgs),
}

/// Which log, and how to print.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// Directory of the log, for files that were copied elsewhere.
    #[arg(long, conflicts_with = "config")]
    dir: Option<PathBuf>,
    /// Configuration whose log it is.
    #[arg(long, default_value = "/etc/chaperone/chaperone.toml")]
    config: PathBuf,
    /// Print JSON, one object per line.
    #[arg(long)]
    json: bool,
}

impl Place {
    fn log(&self) -> anyhow::Result<PathBuf> {
        match &self.dir {
            Some(dir) => Ok(dir.clone()),
            None => Ok(Config::load(&self.config)?.audit.dir),
        }
    }
}

/// What to verify against.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    place: Place,
    /// The log's `audit.pub` as it was kept elsewhere.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Checkpoints of the log as they were kept elsewhere.
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Compare with what the kernel of this host counted, too: was every connection recorded?
    #[arg(long, conflicts_with = "dir")]
    kernel: bool,
}

/// What to look for; everything that is given must hold.
#[derive(Debug, clap::Args)]
pub struct SearchArgs {
    #[command(flatten)]
    place: Place,
    /// Name of the agent.
    #[arg(long)]
    agent: Option<String>,
    /// Session id.
    #[arg(long, value_parser = session)]
    session: Option<SessionId>,
    /// Name of the resource.
    #[arg(long)]
    resource: Option<String>,
    /// Ticket id.
    #[arg(long, value_parser = ticket)]
    ticket: Option<TicketId>,
    /// Not before: 30s, 10m, 2h, 7d ago; 2026-01-31; 2026-01-31T12:00:00Z; or Unix milliseconds.
    #[arg(long, value_parser = moment)]
    since: Option<UnixMillis>,
    /// Before; written like `--since`.
    #[arg(long, value_parser = moment)]
    until: Option<UnixMillis>,
    /// Kind of event, such as `request_decided`.
    #[arg(long, value_name = "KIND")]
    event: Option<String>,
    /// What policy decided.
    #[arg(long, value_parser = ["allow", "hold", "deny"])]
    decision: Option<String>,
    /// Print at most so many, the oldest first.
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,
    /// Text to find in any value; letters' case does not matter.
    text: Option<String>,
}

/// Which records to print.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    #[command(flatten)]
    place: Place,
    /// A sequence number, a session id or a ticket id.
    what: String,
}

/// Runs the subcommand.
///
/// # Errors
/// When printing fails, or an argument names a file that cannot be read.
pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let done = execute(command, &mut out).and_then(|code| Ok(out.flush().map(|()| code)?));
    match done {
        // Whoever reads has seen enough (`| head`).
        Err(error) if is_closed_pipe(&error) => Ok(ExitCode::SUCCESS),
        done => done.map(ExitCode::from),
    }
}

const DONE: u8 = 0;
const BAD: u8 = 1;
const UNREADABLE: u8 = 3;

fn execute(command: Command, out: &mut dyn Write) -> anyhow::Result<u8> {
    match command {
        Command::Verify(args) => verify(&args, out),
        Command::Search(args) => list(*args, out),
        Command::Show(args) => show(&args, out),
    }
}

fn verify(args: &VerifyArgs, out: &mut dyn Write) -> anyhow::Result<u8> {
    let text = |path: &PathBuf| {
        fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))
    };
    let trust = Trust {
        key: args.key.as_ref().map(text).transpose()?,
        checkpoints: args.checkpoint.as_ref().map(text).transpose()?,
    };
    let dir = &args.place.log()?;
    if let Err(error) = fs::read_dir(dir) {
        return unreadable(dir, &error);
    }
    let mut progress = Progress::new(dir);
    let verified = read(args, dir, &trust, &mut progress)?;
    progress.end();
    match verified {
        Ok((report, counted)) => {
            if args.place.json {
                let kernel = counted.as_ref().map(Comparison::to_json);
                writeln!(out, "{}", json!({ "valid": true, "report": report, "kernel": kernel }))?;
            } else {
                print_report(&report, out)?;
                counted.iter().try_for_each(|counted| counted.print(out))?;
            }
            Ok(if counted.is_none_or(|counted| counted.is_good()) { DONE } else { BAD })
        }
        Err(VerifyError::File { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
            unreadable(dir, &source)
        }
        Err(error) => {
            if args.place.json {
                writeln!(out, "{}", bad(&error))?;
            } else {
                writeln!(out, "BAD: {}", told(&error))?;
            }
            Ok(BAD)
        }
    }
}

/// Reads the log once, whether the kernel's counts are wanted or not.
fn read(
    args: &VerifyArgs,
    dir: &Path,
    trust: &Trust,
    progress: &mut Progress,
) -> anyhow::Result<Result<(Report, Option<Comparison>), VerifyError>> {
    let mut log = match Verifier::open(dir, trust) {
        Ok(log) => log,
        Err(error) => return Ok(Err(error)),
    };
    if !args.kernel {
        let report = log.read_on(&mut |passed| progress.at(passed.bytes));
        return Ok(report.map(|report| (report, None)));
    }
    let config = Config::load(&args.place.config)?;
    let compared =
        Comparison::make(&mut log, &mut || kernel::seen(&config), &mut |bytes| progress.at(bytes))?;
    Ok(compared.map(|(report, compared)| (report, Some(compared))))
}

fn print_report(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "the log verifies")?;
    writeln!(out, "records      {} in {} files, {} bytes", report.records, report.segments, report.bytes)?;
    let open = report.records.saturating_sub(report.signed);
    writeln!(out, "checkpoints  {}; the last covers all but the newest {open} records", report.checkpoints)?;
    writeln!(out, "gaps         {}", report.gaps)?;
    if let (Some(first), Some(last)) = (report.first, report.last) {
        writeln!(out, "from         {}\nto           {}", date(first), date(last))?;
    }
    writeln!(out, "head         {}\nkey          {}", report.head, report.key)
}

fn bad(error: &VerifyError) -> Value {
    let mut found = json!({ "valid": false, "problem": told(error) });
    if let (VerifyError::Record { segment, offset, sequence, .. }, Some(fields)) =
        (error, found.as_object_mut())
    {
        fields.insert("segment".to_owned(), json!(segment));
        fields.insert("offset".to_owned(), json!(offset));
        fields.insert("sequence".to_owned(), json!(sequence));
    }
    found
}

fn list(args: SearchArgs, out: &mut dyn Write) -> anyhow::Result<u8> {
    let filter = Filter {
        agent: args.agent,
        session: args.session,
        resource: args.resource,
        ticket: args.ticket,
        since: args.since,
        until: args.until,
        kind: args.event,
        decision: args.decision,
        contains: args.text,
        sequence: None,
    };
    let form = if args.place.json { Form::Json } else { Form::Line };
    Ok(print(&args.place.log()?, &filter, (form, args.limit), out)?.map_or(UNREADABLE, |_| DONE))
}

fn show(args: &ShowArgs, out: &mut dyn Write) -> anyhow::Result<u8> {
    let filter = if let Ok(sequence) = args.what.parse() {
        Filter { sequence: Some(sequence), ..Filter::default() }
    } else if let Ok(session) = session(&args.what) {
        Filter { session: Some(session), ..Filter::default() }
    } else {
        let ticket =
            ticket(&args.what).ok().context("give a sequence number, a session id or a ticket id")?;
        Filter { ticket: Some(ticket), ..Filter::default() }
    };
    let form = if args.place.json { Form::Json } else { Form::Full };
    match print(&args.place.log()?, &filter, (form, None), out)? {
        None => Ok(UNREADABLE),
        Some(0) => {
            eprintln!("no record of `{}`", inert(&args.what));
            Ok(BAD)
        }
        Some(_) => Ok(DONE),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Line,
    Full,
    Json,
}

/// Prints what is found and returns how many; `None` if the log cannot be read.
fn print(
    dir: &Path,
    filter: &Filter,
    (form, limit): (Form, Option<u64>),
    out: &mut dyn Write,
) -> anyhow::Result<Option<u64>> {
    let (mut printed, mut failed) = (0_u64, None);
    let searched = search(dir, filter, &mut |found| {
        if limit.is_some_and(|limit| printed >= limit) {
            return ControlFlow::Break(());
        }
        printed = printed.saturating_add(1);
        let written = match form {
            Form::Line => writeln!(out, "{}", line(&found)),
            Form::Json => writeln!(out, "{}", safe_json(&found.record.to_string())),
            Form::Full => writeln!(out, "{}", safe_json(&format!("{:#}", found.record))),
        };
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    if let Some(error) = failed {
        return Err(error.into());
    }
    match searched {
        Ok(searched) => {
            if searched.unreadable > 0 {
                eprintln!("{} lines could not be read; run `chaperone audit verify`", searched.unreadable);
            }
            Ok(Some(printed))
        }
        Err(error) => {
            eprintln!("{}", told(&error));
            Ok(None)
        }
    }
}

/// One record on one line: number, time, kind, who, where, verdict, and the text.
fn line(found: &Found) -> String {
    let record = &found.record;
    let text = |at: &str| record.pointer(at).and_then(Value::as_str).map(inert);
    let mut line = format!("{:>8}  {}  {:<18}", found.sequence, date(found.time), inert(&found.kind));
    for at in ["/agent", "/resource", "/decision/verdict", "/outcome", "/state", "/ticket"] {
        if let Some(text) = text(at) {
            line.push_str("  ");
            line.push_str(&text);
        }
    }
    let policies = record.pointer("/decision/policies").and_then(Value::as_array);
    for policy in policies.into_iter().flatten().filter_map(Value::as_str) {
        line.push_str(&format!("  by `{}`", inert(policy)));
    }
    for at in ["/statement", "/reason", "/problem", "/cause", "/why", "/what", "/destination"] {
        if let Some(text) = text(at) {
            line.push_str("  ");
            line.extend(text.chars().take(LINE_TEXT_CHARS));
            if text.chars().nth(LINE_TEXT_CHARS).is_some() {
                line.push('\u{2026}');
            }
        }
    }
    line
}

/// Characters of a statement in a listing; `show` prints all.
const LINE_TEXT_CHARS: usize = 160;

/// Writes every character that is not safe to show as a JSON escape; the value stays the same.
fn safe_json(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    let mut buffer = [0_u8; 4];
    for character in text.chars() {
        let same = character == '\\' || character == '\n';
        let shown: &str = character.encode_utf8(&mut buffer);
        if same || inert(shown) == shown {
            safe.push(character);
        } else {
            let mut units = [0_u16; 2];
            safe.extend(character.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    safe
}

fn unreadable(dir: &Path, error: &io::Error) -> anyhow::Result<u8> {
    eprintln!("cannot read `{}`: {}", dir.display(), super::told(error));
    Ok(UNREADABLE)
}

fn told(error: &(dyn std::error::Error + 'static)) -> String {
    inert(&super::told(error))
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Per cent on a terminal's standard error while a large log is read.
struct Progress {
    total: u64,
    next: u64,
    shown: bool,
}

/// Smaller logs are done before anybody looks.
const PROGRESS_FROM_BYTES: u64 = 64 * 1024 * 1024;
const PROGRESS_STEP_BYTES: u64 = 16 * 1024 * 1024;

impl Progress {
    fn new(dir: &Path) -> Self {
        let sizes = fs::read_dir(dir).into_iter().flatten().flatten();
        let total = sizes.filter_map(|entry| entry.metadata().ok()).map(|data| data.len()).sum();
        let shown = total >= PROGRESS_FROM_BYTES && io::stderr().is_terminal();
        Self { total, next: 0, shown }
    }

    fn at(&mut self, bytes: u64) {
        if self.shown && bytes >= self.next {
            self.next = bytes.saturating_add(PROGRESS_STEP_BYTES);
            let percent = bytes.saturating_mul(100).checked_div(self.total).unwrap_or(0);
            eprint!("\rverifying {percent} %");
        }
    }

    fn end(&self) {
        if self.shown {
            eprint!("\r               \r");
        }
    }
}

fn session(text: &str) -> Result<SessionId, String> {
    SessionId::try_from(text.to_owned())
}

fn ticket(text: &str) -> Result<TicketId, String> {
    TicketId::try_from(text.to_owned())
}

const DAY_SECONDS: u64 = 24 * 60 * 60;

/// Reads a point in time; a bare length counts back from now.
fn moment(text: &str) -> Result<UnixMillis, String> {
    let unit = |letter| match letter {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(60 * 60),
        'd' => Some(DAY_SECONDS),
        _ => None,
    };
    if let Some((seconds, count)) = text
        .chars()
        .last()
        .and_then(unit)
        .zip(text.get(..text.len().saturating_sub(1)).and_then(|count| count.parse::<u64>().ok()))
    {
        let back = seconds.saturating_mul(count).saturating_mul(1000);
        return Ok(UnixMillis(Clock::system().now().0.saturating_sub(back)));
    }
    let millis = text.parse().ok().or_else(|| parse_date(text));
    millis
        .map(UnixMillis)
        .ok_or_else(|| format!("`{text}` is not a time; write 10m, 2h, 2026-01-31 or 2026-01-31T12:00:00Z"))
}

fn parse_date(text: &str) -> Option<u64> {
    let (day, time) = text.split_once('T').unwrap_or((text, "00:00:00Z"));
    let numbers = |text: &str, separator| -> Option<[u64; 3]> {
        let parts: Option<Vec<u64>> = text.split(separator).map(|part| part.parse().ok()).collect();
        parts?.try_into().ok()
    };
    let [year, month, day] = numbers(day, '-')?;
    let [hour, minute, second] = numbers(time.strip_suffix('Z')?, ':')?;
    let in_range = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    let days = in_range.then(|| days_of(year, month, day))?;
    let seconds = days.checked_mul(DAY_SECONDS)?.checked_add(hour * 3600 + minute * 60 + second)?;
    seconds.checked_mul(1000)
}

/// Days from 1970-01-01, in the Gregorian calendar; years are counted from March so that leap days come last.
fn days_of(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let from_march = (month + 9) % 12;
    let day_of_year = (153 * from_march + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

/// `2026-01-31 12:00:00.000Z`.
fn date(time: UnixMillis) -> String {
    let (seconds, millis) = (time.0 / 1000, time.0 % 1000);
    let days = (seconds / DAY_SECONDS).saturating_add(719_468);
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let of_day = seconds % DAY_SECONDS;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::audit::{Event, Log, Settings};
    use crate::shutdown::Shutdown;

    #[derive(clap::Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    fn parse(words: &[&str]) -> Command {
        let words = std::iter::once("audit").chain(words.iter().copied());
        <Line as clap::Parser>::try_parse_from(words).unwrap().command
    }

    fn call(words: &[&str]) -> (u8, String) {
        let mut out = Vec::new();
        let code = execute(parse(words), &mut out).unwrap();
        (code, String::from_utf8(out).unwrap())
    }

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn filled(name: &str) -> Folder {
        let dir = std::env::temp_dir().join(format!("audit-cli-{}-{name}", std::process::id()));
        let settings = Settings {
            dir: dir.clone(),
            sync_every: Duration::from_millis(5),
            checkpoint_every: Duration::from_secs(60),
        };
        let clock = Clock::fixed(UnixMillis(1_769_860_800_000));
        let log = Log::open(&settings, &clock, &Shutdown::default()).unwrap();
        for problem in ["plain", "evil \u{1b}[2J\u{202e}\u{9b}"] {
            log.appender().append(&Event::PolicyRejected { problem: problem.into() }).unwrap();
        }
        drop(log);
        Folder(dir)
    }

    #[test]
    fn dates_print_as_they_parse() {
        for text in ["1970-01-01", "2024-02-29", "2026-01-31", "2100-03-01", "2000-12-31"] {
            let time = moment(text).unwrap();
            assert_eq!(date(time), format!("{text} 00:00:00.000Z"));
        }
        assert_eq!(moment("2026-01-31T12:00:00Z"), Ok(UnixMillis(1_769_860_800_000)));
        assert!(moment("10m").unwrap() < Clock::system().now());
        for wrong in
            ["", "m", "yesterday", "2026-13-01", "2026-01-31T25:00:00Z", "2026-01-31T12:00:00", "\u{e9}"]
        {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn verify_answers_zero_for_a_good_log_and_one_for_a_bad_one() {
        let folder = filled("verify");
        let dir = folder.0.to_str().unwrap();
        let (code, text) = call(&["verify", "--dir", dir]);
        assert_eq!(code, DONE);
        assert!(text.starts_with("the log verifies\nrecords      2 in 1 files"), "{text}");
        let (code, text) = call(&["verify", "--json", "--dir", dir]);
        let report: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((code, &report["valid"], &report["report"]["records"]), (DONE, &json!(true), &json!(2)));
        let key = folder.0.join("audit.pub");
        assert_eq!(call(&["verify", "--dir", dir, "--key", key.to_str().unwrap()]).0, DONE);

        let path = folder.0.join("records-00000000000000000001.jsonl");
        let changed = fs::read_to_string(&path).unwrap().replace("plain", "plaim");
        fs::write(&path, changed).unwrap();
        let (code, text) = call(&["verify", "--dir", dir]);
        assert_eq!(code, BAD);
        assert!(
            text.starts_with("BAD: record 1 in `records-00000000000000000001.jsonl` at byte 0"),
            "{text}"
        );
        let (code, text) = call(&["verify", "--json", "--dir", dir]);
        let report: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((code, &report["valid"], &report["sequence"]), (BAD, &json!(false), &json!(1)));
    }

    #[test]
    fn a_log_that_is_not_there_is_an_environment_problem() {
        assert_eq!(call(&["verify", "--dir", "/nonexistent"]).0, UNREADABLE);
        assert_eq!(call(&["search", "--dir", "/nonexistent"]).0, UNREADABLE);
    }

    #[test]
    fn listings_print_records_inert() {
        let folder = filled("search");
        let dir = folder.0.to_str().unwrap();
        let (code, text) = call(&["search", "--dir", dir, "EVIL"]);
        assert_eq!(code, DONE);
        assert!(text.ends_with("policy_rejected     evil \\u{1b}[2J\\u{202e}\\u{9b}\n"), "{text}");
        let (_, text) = call(&["search", "--dir", dir, "--json", "--limit", "1"]);
        assert_eq!(text.lines().count(), 1);
        let (code, text) = call(&["show", "--dir", dir, "2"]);
        assert_eq!(code, DONE);
        assert!(text.contains("evil \\u001b[2J\\u202e\\u009b"), "{text}");
        let record: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(record["problem"], json!("evil \u{1b}[2J\u{202e}\u{9b}"));
        assert_eq!(call(&["show", "--dir", dir, "9"]).0, BAD);
    }
}
