//! `bench dissect`: where the time of a captured `connect()` goes.
//!
//! The listener takes nothing here, the daemon is stopped: what is timed is the kernel's part and nothing of the daemon's.
//! The kernel counts runs and time of each program while somebody asks it to; the asker is a script that runs the client.
//! Times of programs hold the counting itself, some 30 ns a run. Limits: needs root and Debian's Python; x86-64.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use anyhow::{Context, Result};
use chaperone::intercept::Tree;
use chaperone_tests::hand::BPF_CALL;
use chaperone_tests::process;

use super::stage::{Load, Stage, Way};
use super::{LIMIT, median, numbers};

/// Rounds of each way.
const ROUNDS: usize = 5;
/// Connections of each round: fewer than the queue of a listener takes.
const KNOCKS: &str = "2000";
/// Those that find cold caches take ten times as long.
const COLD_KNOCKS: &str = "500";

/// Opens the links below a folder, has the kernel count, runs a command, and prints what each program took for each connection.
const COUNTED: &str = r#"
import glob, subprocess
folder, count = sys.argv[1], int(sys.argv[2])
def opened(path):
    text = ctypes.create_string_buffer(path.encode())
    return bpf(7, struct.pack('QII', ctypes.addressof(text), 0, 0))
def facts(descriptor):
    room = ctypes.create_string_buffer(256)
    bpf(15, struct.pack('IIQ', descriptor, 256, ctypes.addressof(room)))
    return room.raw
programs = {}
for path in glob.glob(folder + '/**', recursive=True):
    if os.path.isfile(path) and '-maps' not in path:
        number, = struct.unpack_from('I', facts(opened(path)), 8)
        programs[os.path.basename(path)] = bpf(13, struct.pack('I', number))
stats = bpf(32, struct.pack('I', 0))
read = lambda: {name: struct.unpack_from('QQ', facts(one), 192) for name, one in programs.items()}
before = read()
said = subprocess.run(sys.argv[3:], check=True, capture_output=True, text=True).stdout
after = read()
rows = [(after[n][0] - before[n][0], after[n][1] - before[n][1], n) for n in programs]
for time, runs, name in sorted(rows, reverse=True):
    if runs:
        print(f'{name:16} {runs / count:6.2f} runs {time / runs:7.0f} ns each {time / count:7.0f} ns')
print(f'{"all":16} {sum(r[1] for r in rows) / count:6.2f} runs {sum(r[0] for r in rows) / count:23.0f} ns')
"#;

/// Measures and prints.
pub(crate) fn run() -> Result<()> {
    let stage = Stage::set()?;
    // Makes the agent's cgroup.
    numbers(&mut stage.client(Way::Refused, Load::Close, 1)?)?;
    for (caches, bytes, count) in [("warm", "0", KNOCKS), ("cold", "8388608", COLD_KNOCKS)] {
        let mut found = [("direct", vec![]), ("no jail", vec![]), ("in a jail", vec![])];
        for _ in 0..ROUNDS {
            let (_server, port) = deaf()?;
            let there = format!("127.0.0.1:{port}");
            let [direct, bare, jailed] = &mut found;
            let mut client = Command::new(stage.program());
            direct.1.push(numbers(client.args(["knock", &there, count, bytes]))?[0]);
            bare.1.push(numbers(&mut knocking(&stage, unjailed(&stage)?, [count, bytes])?)?[0]);
            jailed.1.push(numbers(&mut knocking(&stage, stage.agent(), [count, bytes])?)?[0]);
        }
        for (name, times) in found {
            println!("{caches} caches, {name:12} {:6.2} µs", median(times));
        }
    }
    let client = knocking(&stage, unjailed(&stage)?, [KNOCKS, "0"])?;
    let mut counted = Command::new("/usr/bin/python3");
    counted.args(["-c", &format!("{BPF_CALL}{COUNTED}")]).arg(stage.pins()).arg(KNOCKS);
    counted.arg(client.get_program()).args(client.get_args());
    print!("{}", process::run(&mut counted, LIMIT)?.success()?);
    Ok(())
}

/// A client that connects again and again, while the daemon is stopped.
fn knocking(stage: &Stage, mut client: Command, [count, bytes]: [&str; 2]) -> Result<Command> {
    let pid = stage.daemon_pid()?.to_string();
    let script = "kill -STOP $0; \"$@\"; kill -CONT $0; sleep 1";
    client.args(["knock", "192.0.2.1:9", count, bytes]);
    let mut command = Command::new("sh");
    command.args(["-c", script, &pid]).arg(client.get_program()).args(client.get_args());
    Ok(command)
}

/// A listener that accepts nothing, with as long a queue as the daemon's.
fn deaf() -> Result<(TcpListener, u16)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _inside = runtime.enter();
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let listener = socket.listen(4096)?.into_std()?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

/// The agent's cgroup without a jail.
fn unjailed(stage: &Stage) -> Result<Command> {
    let parent = Tree::find()?.mount().join(stage.parent());
    let mut below = std::fs::read_dir(&parent)?.flatten().map(|entry| entry.path());
    let cgroup = below.find(|path| path.is_dir()).context("no agent ran yet")?;
    let enter = format!("echo $$ > '{}/cgroup.procs' || exit 99; exec \"$0\" \"$@\"", cgroup.display());
    let mut command = Command::new("sh");
    command.args(["-c", &enter]).arg(stage.program());
    Ok(command)
}
