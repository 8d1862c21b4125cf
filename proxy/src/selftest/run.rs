//! The run: starts a hostile process for each launch method, has it try everything, and notes what the witness saw.
//!
//! Controls come first and are given time to fall silent, so that their last packets are nobody else's; so is what was sent to
//! open sockets beforehand. INVARIANT: between two attempts of an agent no frame is dropped unread, but for those that open
//! what an outsider passes on; a late one counts against the attempt that runs.
//! Limits: one attempt at a time; an agent that does not answer within [`ANSWER`] ends the run.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::attempts::{name, stream};
use super::catalogue::{self, Control, Passes, Proof, Vector};
use super::report::{Expected, Method, Report, Row, Seen, Shown};
use super::stage::{Stage, step};
use super::witness::RESET;
use super::{AGENT_UID, FAR4, HELD_PORT, SelftestError, StageArgs, UNTRIED};
use crate::intercept::raw::{self, Outgoing};

/// Longest wait for an answer; emulated machines are slow.
const ANSWER: Duration = Duration::from_secs(30);
/// How long a frame may be on its way.
const SETTLE: Duration = Duration::from_millis(30);
/// How long the controls' last packets are waited for.
const SILENCE: Duration = Duration::from_millis(400);
/// How often that is done again while there still are some.
const SILENCES_MAX: usize = 10;
/// How often something that must be seen is looked for; a busy machine is slow.
const LOOKS_MAX: usize = 60;
/// How often the far side dials in until the attempt is over.
const DIALS_MAX: usize = 40;
/// First of the ports that belong to one attempt each; any account may listen on them.
const PORT_FIRST: u16 = 2000;
/// An outsider may not be able to do this on this machine at all.
const IMPOSSIBLE: [&str; 12] = [
    "-EINVAL",
    "-EAFNOSUPPORT",
    "-EPROTONOSUPPORT",
    "-ESOCKTNOSUPPORT",
    "-ENOPROTOOPT",
    "-EOPNOTSUPP",
    "-ENOSYS",
    "-ENODEV",
    "-ENOENT",
    "-EPERM",
    "-EACCES",
    "-EADDRNOTAVAIL",
];

/// Does everything and reports.
pub(super) fn all(args: &StageArgs) -> Result<Report, SelftestError> {
    let mut stage = Stage::build(&args.name, args.installed())?;
    stage.without(&args.without)?;
    let chosen: Vec<(u16, &Vector)> = (PORT_FIRST..)
        .zip(catalogue::all())
        .filter(|(_, vector)| args.only.is_empty() || args.only.iter().any(|name| name == vector.name))
        .collect();
    fall_silent(&stage);
    let mut rows: Vec<Row> = chosen.iter().map(|(_, vector)| blank(vector, &stage)).collect();
    let control = Agent::start(&stage, None)?;
    let _own = stage.witness.take();
    for (row, (port, vector)) in rows.iter_mut().zip(&chosen) {
        if let Control::Outsider = vector.more.control {
            let (seen, told) = control.attempt(&stage, *port, vector)?;
            row.control = shown(seen, &told);
        }
    }
    control.end();
    fall_silent(&stage);
    // To an installed guard every method is one in a namespace that it does not know.
    let foreign = |method| method == Method::Namespace || stage.is_borrowed();
    let methods = methods(args);
    let many = methods.len();
    for (at, method) in (1_usize..).zip(methods) {
        tell(&format!("trying {} ways out by {} ({at} of {many})", chosen.len(), method.name()));
        let agent = Agent::start(&stage, Some(method))?;
        let _own = (stage.witness.take(), stage.sinks.take(), stage.arrivals.take());
        for (row, (port, vector)) in rows.iter_mut().zip(&chosen) {
            let skipped = vector
                .more
                .skips
                .iter()
                .any(|skipped| *skipped == method || (*skipped == Method::Namespace && foreign(method)));
            if !skipped {
                row.seen.push((method, agent.attempt(&stage, *port, vector)?.0));
            }
        }
        agent.end();
        fall_silent(&stage);
    }
    rows.sort_by_key(|row| row.number.parse::<u32>().unwrap_or(u32::MAX));
    Ok(Report {
        kernel: read("/proc/sys/kernel/osrelease"),
        modules: read("/sys/kernel/security/lsm"),
        programs: stage.programs.clone(),
        without: args.without.clone(),
        rows,
        untried: UNTRIED.map(|(number, what, why)| (number.into(), what.into(), why.into())).to_vec(),
    })
}

/// Waits until nothing comes any more of what was before.
fn fall_silent(stage: &Stage) {
    for _ in 0..SILENCES_MAX {
        std::thread::sleep(SILENCE);
        if stage.witness.take().is_empty() {
            break;
        }
    }
}

/// Says how far it is, to whoever watches.
fn tell(words: &str) {
    let mut watched = io::stderr();
    if watched.is_terminal()
        && let Err(problem) = writeln!(watched, "chaperone: {words}")
    {
        tracing::debug!(%problem, "nobody hears how far the test is");
    }
}

fn methods(args: &StageArgs) -> Vec<Method> {
    let named: Vec<Method> = args.methods.iter().filter_map(|name| Method::named(name)).collect();
    if named.is_empty() { Method::ALL.to_vec() } else { named }
}

fn read(path: &str) -> String {
    let text = std::fs::read_to_string(path);
    text.map_or_else(|problem| format!("not told: {}", problem.kind()), |text| text.trim().to_owned())
}

fn blank(vector: &Vector, stage: &Stage) -> Row {
    let expected = match vector.expected {
        // An installed guard does not know this namespace, and refuses there.
        Expected::Redirected if stage.is_borrowed() => Expected::Caught,
        expected => expected,
    };
    let control = match vector.more.control {
        Control::Outsider => Shown::Missed("not run".to_owned()),
        Control::None(why) => Shown::None(why.to_owned()),
    };
    Row {
        number: vector.number.to_owned(),
        name: vector.name.to_owned(),
        what: vector.what.to_owned(),
        expected,
        control,
        seen: Vec::new(),
        open: vector.open(stage.secured, stage.scoped),
        layers: vector.layers.to_vec(),
    }
}

fn shown(seen: Seen, told: &str) -> Shown {
    match seen {
        Seen::Out(how) => Shown::Seen(how),
        Seen::Redirected => Shown::Missed("it was redirected".to_owned()),
        Seen::Refused(why) if IMPOSSIBLE.contains(&told) => Shown::Impossible(why),
        Seen::Refused(why) | Seen::Silent(why) => Shown::Missed(why),
    }
}

/// A hostile process and the way to talk to it.
#[derive(Debug)]
struct Agent {
    child: Child,
    line: OwnedFd,
    /// How it was started; `None` is the outsider.
    method: Option<Method>,
    /// Sockets that were open before it was an agent; ours stay open so that closing them is not its doing.
    _early: [OwnedFd; 5],
}

impl Agent {
    /// Starts one in the way of a method, or as an outsider.
    fn start(stage: &Stage, method: Option<Method>) -> Result<Self, SelftestError> {
        let failed = step("start the hostile process");
        let (line, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .map_err(|problem| failed(problem.into()))?;
        let early = early().map_err(step("open sockets for it beforehand"))?;
        std::thread::sleep(SETTLE);
        let mut command = Command::new(stage.place().join("chaperone"));
        // Wherever this was started, a jail may hide it.
        command.current_dir("/");
        let own = ["selftest-agent".to_owned()].into_iter().chain(surroundings(stage, &early));
        let cgroup = stage.parent.child(&stage.name, method.map_or("none", Method::name))?;
        match method {
            None => command.args(own),
            Some(Method::Slice) => command.args(own).arg("--enter").arg(cgroup.path()),
            Some(Method::Namespace) => command.args(own).arg("--enter").arg(cgroup.path()).arg("--alone"),
            Some(Method::RunRoot | Method::RunUid) => {
                command.arg("run").arg("--config").arg(stage.place().join("chaperone.toml"));
                command.args(["--agent", &stage.name]);
                if method == Some(Method::RunUid) {
                    command.args(["--uid", &AGENT_UID.to_string()]);
                }
                command.arg("--").arg(stage.place().join("chaperone")).args(own)
            }
        };
        let said = stage.place().join("said");
        let notes = File::create(&said).map_err(&failed)?;
        command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::from(notes));
        let child = command.spawn().map_err(&failed)?;
        // It holds the other end of the line, whose end would then never be seen.
        drop(command);
        let agent = Self { child, line, method, _early: early };
        agent.limit().map_err(&failed)?;
        if let Err(problem) = agent.heard() {
            let words = std::fs::read_to_string(&said).unwrap_or_default();
            return Err(failed(io::Error::other(format!("{problem}; it said `{}`", words.trim()))));
        }
        if method == Some(Method::Namespace) {
            stage.connect(agent.child.id()).map_err(step("lay a cable into the agent's namespace"))?;
            fall_silent(stage);
        }
        Ok(agent)
    }

    /// Has one attempt made; what was seen of it, and what the agent was told.
    fn attempt(&self, stage: &Stage, port: u16, vector: &Vector) -> Result<(Seen, String), SelftestError> {
        let failed = step("have an attempt made");
        let passed = passed(vector.more.passes).map_err(step("open what an outsider passes on"))?;
        if passed.is_some() {
            // Opening it made packets of our own.
            std::thread::sleep(SETTLE);
            let _own = stage.witness.take();
        }
        self.say(&format!("{} {port}", vector.name), passed.as_ref()).map_err(&failed)?;
        // A connection that the agent was refused would say goodbye when nobody else has it. The message holds the others now, and
        // what closing them sends is the agent's.
        let kept = passed.filter(|_| vector.more.passes == Passes::Connected);
        let dialling = if vector.more.provoked {
            self.dial_in(stage, port).map_err(step("dial in"))?
        } else {
            Vec::new()
        };
        let told = self.heard().map_err(&failed)?;
        let seen = self.seen(stage, port, vector, &told);
        drop(dialling);
        if self.method.is_none() && vector.joins() {
            // Leaving is announced as well, and would prove the next one.
            std::thread::sleep(SETTLE * 2);
            let _left = stage.witness.take();
        }
        if let Some(kept) = kept {
            drop(kept);
            std::thread::sleep(SETTLE);
            let _own = stage.witness.take();
        }
        Ok((seen, told))
    }

    /// Looks for what came of an attempt; again, if it made something that must be seen.
    fn seen(&self, stage: &Stage, port: u16, vector: &Vector, told: &str) -> Seen {
        let lands = if vector.more.lands == 0 { port } else { vector.more.lands };
        let must = match self.method {
            None => true,
            Some(Method::Namespace) => false,
            Some(Method::Slice | Method::RunRoot | Method::RunUid) => {
                vector.expected == Expected::Redirected && !stage.is_borrowed()
            }
        };
        let mut looks = 0_usize;
        loop {
            std::thread::sleep(SETTLE);
            let mut frames = stage.witness.take();
            if vector.more.provoked {
                // A port that is closed answers by itself.
                frames.retain(|frame| !frame.contains(RESET));
            }
            let reached = stage.sinks.take();
            let arrived = stage.arrivals.take().iter().any(|destination| destination.port() == lands);
            let seen = judge(vector, told, (frames, reached, arrived));
            looks = looks.saturating_add(1);
            if !must || looks >= LOOKS_MAX || !matches!(seen, Seen::Silent(_)) {
                return seen;
            }
        }
    }

    /// Has the far side dial in until the agent has said what came of its attempt; the sockets that did.
    fn dial_in(&self, stage: &Stage, port: u16) -> io::Result<Vec<OwnedFd>> {
        let mut dialling = Vec::new();
        let pause = u16::try_from(SETTLE.as_millis()).unwrap_or(u16::MAX).saturating_mul(4);
        for _ in 0..DIALS_MAX {
            let mut answer = [PollFd::new(self.line.as_fd(), PollFlags::POLLIN)];
            if poll(&mut answer, PollTimeout::from(pause))? > 0 {
                break;
            }
            dialling.extend(stage.dial_in(port)?);
        }
        Ok(dialling)
    }

    fn say(&self, command: &str, passed: Option<&OwnedFd>) -> io::Result<()> {
        let control = passed.map(|one| raw::rights(&[one.as_fd()])).unwrap_or_default();
        let message = Outgoing { payload: command.as_bytes(), control: &control, ..Outgoing::default() };
        raw::send(&self.line, message).map(drop)
    }

    fn heard(&self) -> io::Result<String> {
        let mut buffer = [0_u8; 128];
        let received = raw::receive(&self.line, &mut buffer)?;
        let bytes = buffer.get(..received.length).unwrap_or_default();
        if bytes.is_empty() {
            return Err(io::Error::other("the hostile process ended"));
        }
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    fn limit(&self) -> io::Result<()> {
        let mut value = ANSWER.as_secs().to_ne_bytes().to_vec();
        value.extend_from_slice(&0_u64.to_ne_bytes());
        raw::set_option(&self.line, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &value)
    }

    /// Hangs up and sees it end.
    fn end(self) {
        let Self { mut child, line, _early, .. } = self;
        drop(line);
        std::thread::sleep(SETTLE);
        // It ends by itself; if it does not, it is ended.
        let left = matches!(child.try_wait(), Ok(Some(_)));
        let ended = if left { Ok(()) } else { child.kill() };
        if let Err(problem) = ended.and_then(|()| child.wait().map(drop)) {
            tracing::debug!(%problem, "a hostile process may still be there");
        }
    }
}

fn judge(vector: &Vector, told: &str, (frames, reached, arrived): (Vec<String>, usize, bool)) -> Seen {
    let word = told.get(1..).unwrap_or_default().to_owned();
    let worked = told.starts_with('+');
    match frames.into_iter().next() {
        Some(frame) => Seen::Out(frame),
        None if reached > 0 => Seen::Out("a server outside was reached".to_owned()),
        None if vector.more.proof == Proof::Success && worked => Seen::Out(word),
        None if arrived => Seen::Redirected,
        None if worked => Seen::Silent(word),
        None => Seen::Refused(word),
    }
}

/// TCP, UDP, raw, TCP again, and a connection that stands.
fn early() -> io::Result<[OwnedFd; 5]> {
    let kinds = [Passes::Stream, Passes::Datagram, Passes::Raw, Passes::Stream, Passes::Connected];
    let made = kinds.map(|kind| passed(kind)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound)));
    let [one, two, three, four, five] = made;
    let sockets = [one?, two?, three?, four?, five?];
    for socket in &sockets {
        fcntl(socket, FcntlArg::F_SETFD(FdFlag::empty()))?;
    }
    Ok(sockets)
}

/// What an outsider passes on.
fn passed(kind: Passes) -> io::Result<Option<OwnedFd>> {
    let far = name(std::net::SocketAddr::new(FAR4, HELD_PORT));
    match kind {
        Passes::Nothing => Ok(None),
        Passes::Stream => stream(libc::AF_INET).map(Some),
        Passes::Datagram => raw::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).map(Some),
        Passes::Raw => raw::socket(libc::AF_INET, libc::SOCK_RAW, 253).map(Some),
        Passes::ConnectedDatagram => {
            let socket = raw::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
            raw::connect(&socket, &far)?;
            Ok(Some(socket))
        }
        Passes::Connected => {
            let socket = stream(libc::AF_INET)?;
            super::attempts::started(raw::connect(&socket, &far))?;
            std::thread::sleep(SETTLE);
            Ok(Some(socket))
        }
    }
}

/// What the hostile process is told about where it is.
fn surroundings(stage: &Stage, early: &[OwnedFd; 5]) -> Vec<String> {
    let numbers: Vec<String> = early.iter().map(|one| one.as_raw_fd().to_string()).collect();
    let [.., connected] = early;
    vec![
        format!("--early={}", numbers.join(",")),
        format!("--outsider={}", std::process::id()),
        format!("--held={}", connected.as_raw_fd()),
        format!("--elsewhere={}", stage.outside.path().display()),
        format!("--door={}", stage.name),
    ]
}
