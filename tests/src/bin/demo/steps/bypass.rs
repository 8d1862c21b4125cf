//! The step with the hostile program: direct attempts past the proxy, all of which must fail.
//!
//! A listener outside the cgroup stands for "somewhere else"; it must see nothing of the agent, and it must see an
//! untagged program, so that its silence means something.

use std::io::Read;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::report::show;
use crate::stage::{LIMIT, Stage};

const PROGRAM: &str = r#"
import socket, struct, sys
host, port = "127.0.0.1", int(sys.argv[1])

def connect(prepare=lambda s: None):
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    s.settimeout(3)
    prepare(s)
    s.connect((host, port))
    s.sendall(b"agent was here")
    if not s.recv(1):
        raise ConnectionError("closed without an answer")

def route(s):
    s.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, bytes([131, 7, 4, 127, 0, 0, 1, 0]))

def fast_open():
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    s.settimeout(3)
    s.sendto(b"agent was here", 0x20000000, (host, port))
    if not s.recv(1):
        raise ConnectionError("closed without an answer")

def datagram():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.sendto(b"agent was here", (host, port))

attempts = {
    "connect to an unregistered address": connect,
    "the same with a source route": lambda: connect(route),
    "data with TCP fast open": fast_open,
    "UDP datagram": datagram,
    "raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "virtual machine socket": lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM),
}
for name, attempt in attempts.items():
    try:
        attempt()
        print(f"OPEN    {name}")
    except OSError as error:
        print(f"closed  {name}: {error}")
"#;

const ATTEMPTS: usize = 7;

/// Tries them as the agent, then one outside.
pub(crate) fn attempts(stage: &mut Stage) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen")?;
    let port = listener.local_addr().context("the listener has no address")?.port().to_string();
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    // Ends with the program: a thread that waits in `accept` needs no farewell.
    std::thread::spawn(move || {
        for mut peer in listener.incoming().flatten() {
            let mut bytes = [0_u8; 64];
            let read =
                peer.set_read_timeout(Some(Duration::from_secs(1))).and_then(|()| peer.read(&mut bytes));
            counter.fetch_add(usize::from(read.is_ok()), Ordering::SeqCst);
        }
    });
    let mut python = stage.agent().python(PROGRAM, &[&port])?;
    let text = show(&stage.typed("python3 escape.py"), &mut python, LIMIT)?.success()?;
    ensure!(!text.contains("OPEN"), "a way out is open");
    let closed = text.lines().filter(|line| line.starts_with("closed")).count();
    ensure!(closed == ATTEMPTS, "{closed} of {ATTEMPTS} attempts were made");
    ensure!(seen.load(Ordering::SeqCst) == 0, "the listener outside heard from the agent");
    let outside = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; echo hello >&3");
    let mut bash = std::process::Command::new("bash");
    show(&format!("bash -c '{outside}'   (outside the cgroup)"), bash.args(["-c", &outside]), LIMIT)?
        .success()?;
    chaperone_tests::wait::until("the untagged program to be heard", Duration::from_secs(5), || {
        Ok((seen.load(Ordering::SeqCst) == 1).then_some(()))
    })?;
    Ok(format!("{closed} attempts closed, nothing arrived; an untagged program is not touched"))
}
