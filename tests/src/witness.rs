//! A witness on the far side of a cable, and senders that try to get there.
//!
//! Two network namespaces of the test's own, joined by a veth pair; nothing else is reachable from the near one. In the far one
//! every packet that arrives is noted with its protocol and port. Senders try all the time, over IPv4 and IPv6: a datagram on a
//! new socket, one on a socket that stays, and a TCP connection. Whoever sends has a port of its own, which tells them apart.
//! Limits: needs root; what carries no TCP or UDP header counts under port 0.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::process::{self, Process};
use crate::{temp, wait};

/// Port that tagged senders use.
pub const TAGGED: u16 = 7001;
/// Port that untagged ones use.
pub const CONTROL: u16 = 7002;

const LIMIT: Duration = Duration::from_secs(30);

/// Joins both namespaces. Arguments: process in the near one, process in the far one.
const CABLE: &str = r#"
near="nsenter --net=/proc/$1/ns/net"; far="nsenter --net=/proc/$2/ns/net"
$near ip link set lo up
$near ip link add near type veth peer name far netns "$2"
for side in "$near|near|1" "$far|far|2"; do
    run=${side%%|*}; rest=${side#*|}; name=${rest%|*}; host=${rest#*|}
    $run ip link set "$name" address "02:00:00:00:00:0$host" up
    $run ip addr add "198.18.7.$host/24" dev "$name"
    $run ip addr add "fd07::$host/64" dev "$name" nodad
done
for to in 198.18.7.2 fd07::2; do $near ip neigh replace "$to" lladdr 02:00:00:00:00:02 dev near nud permanent; done
for to in 198.18.7.1 fd07::1; do $far ip neigh replace "$to" lladdr 02:00:00:00:00:01 dev far nud permanent; done
"#;

/// Prints protocol and port of each packet that arrives, each line in one piece: it is read while it is written.
const WATCH: &str = r#"
import os, socket, struct
taken = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
taken.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)
taken.bind(('far', 0))
print('ready', flush=True)
while True:
    packet, (_, kind, way, *_) = taken.recvfrom(2048)
    if way == 4:
        continue
    if kind == 0x0800 and packet[0] >> 4 == 4:
        protocol, start = packet[9], (packet[0] & 15) * 4
    elif kind == 0x86dd:
        protocol, start = packet[6], 40
        if protocol == 0:
            protocol, start = packet[40], 48 + packet[41] * 8
        # What a kernel says by itself on a new cable: neighbours, routers, groups.
        if protocol == 58 and packet[start] in (133, 134, 135, 136, 143):
            continue
    else:
        protocol, start = kind, len(packet)
    port = struct.unpack_from('!H', packet, start + 2)[0] if protocol in (6, 17) else 0
    os.write(1, f'{protocol} {port}\n'.encode())
"#;

/// A Python program that sends for ever. Arguments: port, pause in milliseconds, file of its counts: attempts, those the kernel let it make.
pub const SEND: &str = r#"
import errno, os, socket, sys, time
port, pause, counts = int(sys.argv[1]), int(sys.argv[2]) / 1000, sys.argv[3]
ways = [(socket.AF_INET, ('198.18.7.2', port)), (socket.AF_INET6, ('fd07::2', port))]
kept = [(socket.socket(family, socket.SOCK_DGRAM), to) for family, to in ways]
tried = done = 0
def attempt(what):
    global tried, done
    tried += 1
    try:
        what()
        done += 1
    except OSError:
        pass
def dial(family, to):
    with socket.socket(family, socket.SOCK_STREAM) as one:
        one.setblocking(False)
        answer = one.connect_ex(to)
        if answer not in (0, errno.EINPROGRESS):
            raise OSError(answer, 'connect')
        try:
            one.send(b'out')
        except OSError:
            pass
def fresh(family, to):
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        one.sendto(b'out', to)
while True:
    for one, to in kept:
        attempt(lambda: one.sendto(b'out', to))
    for family, to in ways:
        attempt(lambda: fresh(family, to))
        attempt(lambda: dial(family, to))
    with open(counts + '.new', 'w') as file:
        file.write(f'{tried} {done}')
    os.rename(counts + '.new', counts)
    time.sleep(pause)
"#;

/// Both namespaces and the witness.
#[derive(Debug)]
pub struct Field {
    // Dropped in this order: the namespaces go with their last process.
    witness: Process,
    near: Process,
    _far: Process,
    dir: temp::Dir,
}

impl Field {
    /// Lays the cable and waits until the witness looks.
    pub fn open() -> Result<Self> {
        let dir = temp::Dir::new("field")?;
        let near = namespace(&dir, "near")?;
        let far = namespace(&dir, "far")?;
        let mut lay = Command::new("sh");
        lay.args(["-ec", CABLE, "sh", &near.pid().to_string(), &far.pid().to_string()]);
        process::run(&mut lay, LIMIT)?.success().context("cannot lay the cable")?;
        let mut watch = within(&far);
        watch.args(["/usr/bin/python3", "-c", WATCH]);
        let mut witness =
            Process::start("the witness", &mut watch, &dir.path().join("seen"), Signal::SIGKILL)?;
        let seen = dir.path().join("seen");
        witness.wait_ready(LIMIT, || Ok(std::fs::read(&seen)?.starts_with(b"ready").then_some(())))?;
        // Accounts without rights write their counts here.
        process::run(Command::new("chmod").arg("1777").arg(dir.path()), LIMIT)?.success()?;
        Ok(Self { witness, near, _far: far, dir })
    }

    /// The words that put a command into the near namespace.
    #[must_use]
    pub fn prefix(&self) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net=/proc/{}/ns/net", self.near.pid()), "--".to_owned()]
    }

    /// How many packets with this port arrived.
    pub fn seen(&self, port: u16) -> Result<usize> {
        let end = format!(" {port}");
        Ok(self.witness.log()?.lines().filter(|line| line.ends_with(&end)).count())
    }

    /// Everything that arrived for no known port: there should be nothing.
    pub fn strange(&self) -> Result<Vec<String>> {
        let ports = [TAGGED, CONTROL].map(|port| format!(" {port}"));
        let known = |line: &str| line == "ready" || ports.iter().any(|end| line.ends_with(end));
        Ok(self.witness.log()?.lines().filter(|line| !known(line)).map(str::to_owned).collect())
    }

    /// A sender's words and the file of its counts; whoever starts it decides whether it is tagged.
    pub fn sender(&self, port: u16, pause_ms: u32) -> Result<(Vec<String>, Counts)> {
        let name = format!("counts-{}", temp::unique());
        let counts = self.dir.path().join(name);
        let file = self.dir.write("send.py", SEND, 0o644)?;
        let words = ["/usr/bin/python3", "-B", &file.display().to_string(), &port.to_string()]
            .map(str::to_owned)
            .into_iter()
            .chain([pause_ms.to_string(), counts.display().to_string()]);
        Ok((words.collect(), Counts(counts)))
    }

    /// An untagged sender that shows that the witness sees.
    pub fn control(&self) -> Result<Process> {
        let (words, _) = self.sender(CONTROL, 20)?;
        let mut command = within(&self.near);
        command.args(words);
        let control =
            Process::start("the control", &mut command, &self.dir.path().join("control"), Signal::SIGKILL)?;
        self.wait_control()?;
        Ok(control)
    }

    /// Waits until the witness saw more of the control than it had: it looks now.
    pub fn wait_control(&self) -> Result<()> {
        let before = self.seen(CONTROL)?;
        wait::until("the control's packets", LIMIT, || Ok((self.seen(CONTROL)? > before + 8).then_some(())))
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// What a sender counts.
#[derive(Debug, Clone)]
pub struct Counts(PathBuf);

impl Counts {
    /// Attempts so far, and how many the kernel let it make.
    pub fn read(&self) -> Result<(u64, u64)> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        let mut numbers = text.split(' ').map_while(|number| number.parse::<u64>().ok());
        Ok(numbers.next().zip(numbers.next()).unwrap_or((0, 0)))
    }

    /// Waits for so many more attempts.
    pub fn wait(&self, more: u64) -> Result<()> {
        let (before, _) = self.read()?;
        wait::until("more attempts", LIMIT, || Ok((self.read()?.0 >= before + more).then_some(())))
    }
}

fn namespace(dir: &temp::Dir, name: &str) -> Result<Process> {
    let mut command = Command::new("unshare");
    command.args(["--net", "sleep", "infinity"]);
    let mut process =
        Process::start(name, &mut command, &dir.path().join(format!("{name}.log")), Signal::SIGKILL)?;
    let own = std::fs::read_link("/proc/self/ns/net").context("cannot read a namespace")?;
    let place = PathBuf::from(format!("/proc/{}/ns/net", process.pid()));
    process.wait_ready(LIMIT, || {
        let its = std::fs::read_link(&place).context("cannot read a namespace")?;
        Ok((its != own).then_some(()))
    })?;
    ensure!(place.exists(), "no namespace");
    Ok(process)
}

fn within(holder: &Process) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{}/ns/net", holder.pid())).arg("--");
    command
}
