//! The hostile process: does what it is told over a local socket, one attempt after the other, and says what came of it.
//!
//! A throw-away process in the agents' cgroup, or outside for controls. It holds nothing worth taking, and ends with its
//! teller. Refuses: names that the catalogue does not have.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

use super::attempts::{Scene, dial, stream};
use super::catalogue;
use crate::intercept::raw::{self, Outgoing};

/// Longest command: a name and a port.
const COMMAND_BYTES: usize = 128;

/// Where the hostile process goes and what it is told about its surroundings.
#[derive(Debug, clap::Args)]
pub struct AgentArgs {
    /// The cgroup to enter first.
    #[arg(long)]
    enter: Option<PathBuf>,
    /// Take namespaces of its own.
    #[arg(long)]
    alone: bool,
    /// Numbers of sockets that are open already.
    #[arg(long, value_delimiter = ',')]
    early: Vec<i32>,
    /// A process outside.
    #[arg(long, default_value_t = 0)]
    outsider: u32,
    /// Number of its connection.
    #[arg(long, default_value_t = -1)]
    held: i32,
    /// A cgroup outside.
    #[arg(long)]
    elsewhere: Option<PathBuf>,
    /// An abstract address outside.
    #[arg(long)]
    door: Option<String>,
    /// Start a grandchild that connects to this port, and leave it.
    #[arg(long)]
    orphan: Option<u16>,
    /// Connect to this port.
    #[arg(long)]
    dial: Option<u16>,
}

/// Runs until the teller goes away.
///
/// # Errors
/// When it cannot get where it was told to go.
pub fn agent(args: &AgentArgs) -> io::Result<()> {
    if let Some(port) = args.orphan {
        let own = std::env::current_exe()?;
        let child = std::process::Command::new(own)
            .args(["selftest-agent", "--dial", &port.to_string()])
            .stdin(std::process::Stdio::null())
            .spawn()?;
        // Not waited for: it is to outlive its parent.
        drop(child);
        return Ok(());
    }
    let scene = Scene {
        port: Cell::new(args.dial.unwrap_or(0)),
        passed: RefCell::new(Vec::new()),
        early: args.early.as_slice().try_into().unwrap_or([-1; 5]),
        outsider: (args.outsider, args.held),
        elsewhere: args.elsewhere.clone().unwrap_or_default(),
        door: args.door.clone().unwrap_or_default(),
    };
    if args.dial.is_some() {
        return dial(&stream(nix::libc::AF_INET)?, &scene.at(super::FAR4)).map(drop);
    }
    if let Some(cgroup) = &args.enter {
        fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())?;
    }
    if args.alone {
        // Whoever has no right over the host's namespaces gets all of them over new ones.
        setgroups(&[])?;
        setgid(Gid::from_raw(super::AGENT_UID))?;
        setuid(Uid::from_raw(super::AGENT_UID))?;
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
    }
    let teller = io::stdin();
    tell(&teller, "ready")?;
    let mut command = [0_u8; COMMAND_BYTES];
    loop {
        let received = match raw::receive(&teller, &mut command) {
            Ok(received) if received.length > 0 => received,
            Ok(_) | Err(_) => return Ok(()),
        };
        let text = command.get(..received.length).and_then(|bytes| std::str::from_utf8(bytes).ok());
        let (name, port) = text.and_then(|text| text.split_once(' ')).unwrap_or_default();
        scene.port.set(port.parse().unwrap_or(0));
        scene.passed.replace(received.descriptors);
        let answer = match catalogue::all().find(|vector| vector.name == name) {
            Some(vector) => (vector.attempt)(&scene),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        scene.passed.take();
        tell(&teller, &spelled(answer))?;
    }
}

fn tell(teller: &io::Stdin, text: &str) -> io::Result<()> {
    raw::send(teller, Outgoing { payload: text.as_bytes(), ..Outgoing::default() }).map(drop)
}

/// `+word` for what worked, `-ERRNO` for what was refused.
fn spelled(answer: io::Result<&'static str>) -> String {
    match answer {
        Ok(word) => format!("+{word}"),
        Err(problem) => match problem.raw_os_error() {
            Some(code) => format!("-{:?}", Errno::from_raw(code)),
            None => format!("-{}", problem.kind()),
        },
    }
}
