//! The masking-evasion catalogue, played by a hostile agent against the whole product with a real server.
//!
//! Policy permits the agent everything and the service account is a superuser, so that masking alone is tested. Each
//! row runs over the simple protocol and over the extended one in text and binary, unless it is a protocol trick.
//! A row leaks when a canary, or its hexadecimal, base64, reversed or upper-case form, or six characters of it in a
//! row, stands in any message of the server; a row that is worse than its table states fails the test.
//! Each row also runs against the bare server, in a copy of the database as the same account: one that shows nothing
//! there proves nothing, and fails the test too.
//! Limits: the forms are those; ciphers and arithmetic on values are caught only where the whole value is masked.

#![expect(clippy::tests_outside_test_module, reason = "the whole file is a test program")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a panic here is the failure of the test"
)]

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use chaperone_tests::agent::Agent;
use chaperone_tests::daemon::{Daemon, Plan};
use chaperone_tests::postgres::{Options, Server};
use chaperone_tests::process::{self, Process};
use chaperone_tests::{sample, temp, wait};
use nix::sys::signal::Signal;

#[path = "masking/rows.rs"]
mod rows;

const LIMIT: Duration = Duration::from_secs(240);
const AGENT: &str = "worker";
const RESOURCE: &str = "shop-db";
/// The database as it was before any row.
const PRISTINE: &str = "pristine";
const ATTACK: &str = include_str!("masking/attack.py");

const POLICY: &str = r#"
@id("anything-on-shop-db")
permit (principal == Unidentified::"worker", action, resource in Resource::"shop-db");

@id("nothing-classified-in-clear")
forbid (principal, action == Action::"readClear", resource);
"#;

const CLASSIFIED: &[&str] = &[
    "customers.email",
    "customers.national_id",
    "customers.card",
    "customers.s_num",
    "customers.s_day",
    "customers.s_uuid",
    "customers.s_doc",
    "customers.s_list",
    "customers.s_code",
    "people.email",
    "branches_eu.email",
    "vault1.secret",
    "vault2.secret",
    "vault3.secret",
    "vault4.secret",
    "vault5.secret",
];

const CANARIES: &[&str] = &[
    "qzx7vkw3@jhd5-fyp.example",
    "NX-83W1-77QK-PLV",
    "4917 6130 0821 7759",
    "73914.58623",
    "1931-07-29",
    "b7c1e0d2-93fa-4e6b-8d15-6fa0c37e9b41",
    "HJW-55T-ZKR9",
    "VBX-204-MDQ8",
    "GTR-661-PWC2",
];

/// Binary forms of the number, the day and the uuid.
const BINARY: &[&[u8]] =
    &[&[0, 7, 0x0f, 0x4a, 0x16, 0xe6, 0x0b, 0xb8], &[0xb7, 0xc1, 0xe0, 0xd2, 0x93, 0xfa, 0x4e, 0x6b]];

/// What becomes of an attack, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Status {
    /// Refused.
    Blocked,
    /// Answered without the value.
    Masked,
    /// Answered with the value, or with something that tells it, as the documentation says.
    KnownOpen,
    /// Answered with the value.
    Leaked,
}

/// One attack: its name, the worst it may come to, and what the agent sends.
pub(crate) type Row = (&'static str, Status, &'static [&'static str]);

struct Stage {
    daemon: Daemon,
    // Somebody else's session, whose statement quotes a value.
    _busy: Process,
    server: Server,
    _dir: temp::Dir,
}

impl Stage {
    /// With the fixture, and with what more a family needs.
    fn set(more: &str) -> Result<Self> {
        let dir = temp::Dir::new("masking")?;
        let server = Server::start(&Options::default())?;
        server.query(include_str!("masking/fixture.sql"))?;
        server.query(more)?;
        let password = dir.write("password", sample::PASSWORD, 0o600)?;
        let column = |name: &&str| {
            format!("[[column]]\nresource = \"{RESOURCE}\"\ncolumn = \"public.{name}\"\nclass = \"pii\"\n\n")
        };
        let mut columns: String = CLASSIFIED.iter().map(column).collect();
        columns.push_str(&column(&"x").replace("public.x", "hid.things.label"));
        columns.push_str("[class.\"pii\"]\nmask = \"redact\"\n");
        let plan = Plan::default()
            .with(&format!("[[agent]]\nname = \"{AGENT}\"\n"))
            .with(&server.resource(RESOURCE, &password))
            .policy("test.cedar", POLICY)
            .policy("columns.toml", &columns);
        server.query_in("postgres", &format!("CREATE DATABASE {PRISTINE} TEMPLATE {}", sample::DATABASE))?;
        let mut busy = server.client("psql", "postgres");
        busy.args(["-X", "-c", "SELECT pg_sleep(600) /* NX-83W1-77QK-PLV */"]);
        let busy = Process::start("psql", &mut busy, &dir.path().join("busy.log"), Signal::SIGKILL)?;
        Ok(Self { daemon: Daemon::start(&plan)?, _busy: busy, server, _dir: dir })
    }

    /// Plays the rows through the proxy and returns the status of each, with what the agent saw.
    fn play(&self, rows: &[Row]) -> Result<Vec<(Status, String)>> {
        let port = self.server.port().to_string();
        let file = self.write(rows)?;
        let args = [&port, sample::USER, sample::DATABASE, &file];
        let mut python = Agent::new(&self.daemon, AGENT).python(ATTACK, &args)?;
        statuses(&process::run(&mut python, LIMIT)?.success()?, rows.len())
    }

    /// Plays the rows against the bare server as the same account, each in a state that no other row has changed.
    fn control(&self, rows: &[Row]) -> Result<Vec<(Status, String)>> {
        let file = self.write(rows)?;
        let socket = self.server.socket();
        let socket = socket.to_str().context("the folder's name is no text")?;
        let mut python = Command::new("python3");
        python.args(["-c", ATTACK, socket, sample::USER, "control", &file, PRISTINE]);
        statuses(&process::run(&mut python, LIMIT)?.success()?, rows.len())
    }

    fn write(&self, rows: &[Row]) -> Result<String> {
        let steps: Vec<_> = rows.iter().map(|row| row.2).collect();
        let file = self.daemon.dir().write("rows.json", serde_json::to_string(&steps)?, 0o644)?;
        Ok(file.to_str().context("the folder's name is no text")?.to_owned())
    }
}

/// What the program that attacks has seen, row by row.
fn statuses(text: &str, rows: usize) -> Result<Vec<(Status, String)>> {
    let mut found: BTreeMap<usize, (Status, String)> = BTreeMap::new();
    for line in text.lines() {
        let seen: serde_json::Value = serde_json::from_str(line)?;
        let index = usize::try_from(seen["row"].as_u64().context("no row")?)?;
        let (status, note) = judge(&seen)?;
        let entry = found.entry(index).or_insert((Status::Blocked, String::new()));
        entry.0 = entry.0.max(status);
        entry.1.push_str(&format!("\n      {} {status:?}: {note}", seen["mode"].as_str().unwrap_or("")));
    }
    anyhow::ensure!(found.len() == rows, "only {} of {rows} rows were played", found.len());
    Ok(found.into_values().collect())
}

fn judge(seen: &serde_json::Value) -> Result<(Status, String)> {
    let bytes = |name: &str| unhex(seen[name].as_str().unwrap_or_default());
    let all = [bytes("hex")?, bytes("cells")?];
    let errors = seen["errors"].to_string();
    let rows = seen["rows"].as_u64().unwrap_or(0);
    if let Some(form) = all.iter().find_map(|all| canary(all)) {
        return Ok((Status::Leaked, format!("shows {form}")));
    }
    let status = if rows == 0 && errors != "[]" { Status::Blocked } else { Status::Masked };
    Ok((status, format!("{rows} rows {errors} {}", seen["end"])))
}

/// The form of a canary that stands in the bytes.
fn canary(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes).to_lowercase();
    let exact = String::from_utf8_lossy(bytes);
    for value in CANARIES {
        let lower = value.to_lowercase();
        let letters: Vec<char> = lower.chars().collect();
        // Short values are looked for as a whole: parts of a day stand in many others.
        for window in letters.windows(if letters.len() > 10 { 6 } else { letters.len() }) {
            let forward: String = window.iter().collect();
            let backward: String = window.iter().rev().collect();
            let hexadecimal: String = forward.bytes().map(|byte| format!("{byte:02x}")).collect();
            let upper: String = forward.to_uppercase().bytes().map(|byte| format!("{byte:02x}")).collect();
            if let Some(form) =
                [forward, backward, hexadecimal, upper].into_iter().find(|form| text.contains(form))
            {
                return Some(form);
            }
        }
        for start in [*value, &lower, &value.to_uppercase()] {
            for skip in 0..3 {
                let encoded =
                    base64::engine::general_purpose::STANDARD_NO_PAD.encode(&start.as_bytes()[skip..]);
                if exact.contains(&encoded[..encoded.len().min(10)]) {
                    return Some(encoded);
                }
            }
        }
    }
    BINARY
        .iter()
        .find(|form| bytes.windows(form.len()).any(|part| part == **form))
        .map(|form| format!("{form:02x?}"))
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    (0..text.len()).step_by(2).map(|at| Ok(u8::from_str_radix(&text[at..at + 2], 16)?)).collect()
}

/// Plays a family, prints its table and fails when a row is worse than stated, or shows nothing where nobody masks.
fn family(name: &str, more: &str, rows: &[Row]) {
    let stage = Stage::set(more).unwrap();
    let control = stage.control(rows).unwrap();
    let found = stage.play(rows).unwrap();
    let verbose = std::env::var_os("CHAPERONE_VERBOSE").is_some();
    let mut worse = Vec::new();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    println!("\n== {name} ==");
    for (((attack, stated, _), (status, note)), (bare, seen)) in rows.iter().zip(&found).zip(&control) {
        let open = *stated == Status::KnownOpen;
        let shown = if open { *stated } else { *status };
        *counts.entry(format!("{shown:?}")).or_default() += 1;
        let more = if *status > *stated || verbose { note.as_str() } else { "" };
        println!("  {shown:?} | {attack}{more}");
        if *status > *stated && !open {
            worse.push(format!("{attack}: {status:?} instead of {stated:?}{note}"));
        }
        if *stated != Status::KnownOpen && *bare != Status::Leaked {
            worse.push(format!("{attack}: shows nothing on the bare server either{seen}"));
        }
    }
    println!("  -- {name}: {counts:?}");
    assert!(worse.is_empty(), "\n{}\ndaemon:\n{}", worse.join("\n"), stage.daemon.log().unwrap_or_default());
}

#[test]
fn the_control_finds_canaries_in_every_form() {
    for seen in ["x NX-83W1 y", "vlp-kq77", "4e582d383357", "TlgtODNXMS03N1FLLVBMVg", "QZX7VKW3"] {
        assert!(canary(seen.as_bytes()).is_some(), "{seen}");
    }
    assert!(
        canary(b"customer7@mail.example 4000 0000").is_some_and(|form| form.contains("exampl"))
            || canary(b"customer 7").is_none()
    );
}

#[test]
fn columns_are_masked_under_every_name_and_in_every_shape() {
    family("names and shapes", "", rows::SHAPES);
}

#[test]
fn expressions_over_masked_columns_show_nothing() {
    family("expressions", "", rows::EXPRESSIONS);
}

#[test]
fn views_children_functions_and_catalogs_show_nothing() {
    family("relations and code", "", rows::RELATIONS);
}

#[test]
fn writes_cannot_launder_masked_values() {
    family("laundering", "", rows::LAUNDERING);
}

#[test]
fn messages_other_than_rows_show_nothing() {
    family("side channels", "", rows::MESSAGES);
}

#[test]
fn protocol_tricks_show_nothing() {
    family("protocol", "", rows::PROTOCOL);
}

#[test]
fn code_under_built_in_names_shows_nothing() {
    family("code under built-in names", include_str!("masking/code.sql"), rows::CODE);
}

#[test]
fn a_cast_under_a_built_in_name_shows_nothing() {
    family("casts", include_str!("masking/casts.sql"), rows::CASTS);
}

#[test]
fn the_record_names_what_was_masked() {
    let stage = Stage::set("").unwrap();
    stage.play(&[("plain", Status::Masked, &["SELECT id, email, upper(card) FROM customers"])]).unwrap();
    let words = ["audit", "search", "--json", "--event", "reply_masked"];
    let text = stage.daemon.cli(&words).unwrap().success().unwrap();
    let records: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 3, "one for each of the three ways to ask: {text}");
    for record in &records {
        let masks = record["masks"].as_array().unwrap();
        assert_eq!(masks.len(), 2, "{record}");
        assert_eq!(masks[0]["column"], "public.customers.email");
        assert_eq!((&masks[0]["class"], &masks[0]["strategy"]), (&"pii".into(), &"redact".into()));
        assert_eq!(masks[0]["policies"], serde_json::json!(["nothing-classified-in-clear"]));
        assert_eq!(masks[1]["column"], "column 3 of the result");
    }
    let session = records[0]["request"]["session"].as_str().unwrap();
    let shown = stage.daemon.cli(&["audit", "show", session]).unwrap().success().unwrap();
    assert!(shown.contains("public.customers.email") && shown.contains("reply_masked"), "{shown}");
}

#[test]
fn a_relation_that_somebody_else_renames_or_detaches_keeps_its_class() {
    let stage = Stage::set("").unwrap();
    // The daemon has seen the relations under their first names.
    let before: &[Row] = &[("before", Status::Masked, &["SELECT secret FROM vault1"])];
    assert!(stage.play(before).unwrap()[0].0 < Status::Leaked);
    let rename = "ALTER TABLE vault1 RENAME TO cellar1; ALTER SCHEMA hid RENAME TO seen;\
                  ALTER TABLE seen.things SET SCHEMA public; ALTER TABLE people DETACH PARTITION people_eu";
    stage.server.query(rename).unwrap();
    // Sessions that begin within two seconds share a snapshot.
    std::thread::sleep(Duration::from_millis(2_200));
    let after: &[Row] = &[
        ("renamed", Status::Masked, &["SELECT secret FROM cellar1"]),
        ("renamed, in an expression", Status::Masked, &["SELECT upper(secret) FROM cellar1"]),
        ("detached", Status::Masked, &["SELECT email, upper(email) FROM people_eu"]),
        ("moved twice", Status::Masked, &["SELECT label, upper(label) FROM public.things"]),
    ];
    for (row, (status, note)) in after.iter().zip(stage.play(after).unwrap()) {
        assert_eq!(status, Status::Masked, "{}: {note}", row.0);
    }
}

/// Waits until an agent waits for the lock, gives the name of one relation to another, and lets the agent go on.
const SWAP: &str = "SELECT pg_advisory_lock(7);
DO $$ BEGIN LOOP
    EXIT WHEN EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted);
    PERFORM pg_sleep(0.02);
END LOOP; END $$;
ALTER TABLE notes RENAME TO old_notes;
ALTER TABLE vault1 RENAME COLUMN secret TO t;
ALTER TABLE vault1 RENAME TO notes;
";

#[test]
fn a_statement_prepared_before_somebody_else_swapped_its_relation_is_masked() {
    let stage = Stage::set("").unwrap();
    let steps: &[&str] = &[
        "\\P s|SELECT t, upper(t) FROM notes",
        "\\D Ss",
        "\\S",
        "SELECT pg_advisory_lock(7)",
        "\\B |s",
        "\\E ",
        "\\S",
    ];
    let (status, note) = std::thread::scope(|scope| {
        let swap = scope.spawn(|| stage.server.query(SWAP));
        let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted";
        wait::until("the lock", LIMIT, || Ok((stage.server.query(held)? == "1").then_some(()))).unwrap();
        let mut played = stage.play(&[("swap", Status::Masked, steps)]).unwrap();
        swap.join().unwrap().unwrap();
        played.remove(0)
    });
    assert_eq!(status, Status::Masked, "{note}");
    assert!(note.contains("2 rows"), "the lock and the row: {note}");
    assert_eq!(stage.server.query("SELECT t FROM notes").unwrap(), "NX-83W1-77QK-PLV", "the swap happened");
}
