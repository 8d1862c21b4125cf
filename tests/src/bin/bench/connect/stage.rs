//! The ways of `bench connect`, and what must run for them.
//!
//! One server behind all of them; Chaperone and HAProxy copy bytes, neither reads them.
//! INVARIANT: the daemon runs with capture, policy and record on, and no address is dialled that a packet could reach.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaperone::intercept::Tree;
use chaperone_tests::agent::Agent;
use chaperone_tests::daemon::{Daemon, Plan};
use chaperone_tests::process::Process;
use chaperone_tests::{ports, temp, wait};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;

use super::server::Ports;

const AGENT: &str = "bench";
const CROWD: u16 = 1000;
/// Agents among them: each may have so many unread connections and no more.
const CROWD_NAMES: u16 = 20;
/// Connections of each, where the daemon may have descriptors for them: it counts on four for one, and its unit gives it enough.
const CROWD_CONNECTIONS: u64 = 10;
const FOR_A_CONNECTION: u64 = 4;
/// Descriptors for all else.
const FOR_THE_REST: u64 = 1024;
const LIMIT: Duration = Duration::from_secs(120);

/// What is asked of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    Close,
    Echo,
    Source,
}

impl Load {
    const ALL: [Self; 3] = [Self::Close, Self::Echo, Self::Source];
}

/// One way to the server, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Direct,
    Refused,
    Passed,
    Haproxy,
}

impl Way {
    pub(super) const ALL: [Self; 4] = [Self::Direct, Self::Refused, Self::Passed, Self::Haproxy];
    /// Those that reach the server.
    pub(super) const TALKING: [Self; 3] = [Self::Direct, Self::Passed, Self::Haproxy];
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Refused => "captured, refused",
            Self::Passed => "captured, passed on",
            Self::Haproxy => "HAProxy",
        })
    }
}

/// Everything that runs.
#[derive(Debug)]
pub(super) struct Stage {
    daemon: Daemon,
    _haproxy: Process,
    server: Ports,
    haproxy_ports: [(Load, u16); 3],
    program: PathBuf,
    /// Open connections of each of the crowd.
    crowd_connections: u64,
    _dir: temp::Dir,
}

fn permit(agent: &str) -> String {
    format!(
        "@id(\"{agent}-passes\")\npermit (principal == Unidentified::\"{agent}\", action, resource in \
         Resource::\"bench-server\");\n\n"
    )
}

impl Stage {
    pub(super) fn set() -> Result<Self> {
        let crowd_connections = crowd_connections()?;
        let dir = temp::Dir::new("bench")?;
        let server = Ports::open()?;
        let mut haproxy_ports = [(Load::Close, 0), (Load::Echo, 0), (Load::Source, 0)];
        for (_, port) in &mut haproxy_ports {
            *port = ports::free()?;
        }
        let haproxy = start_haproxy(&dir, server, &haproxy_ports)?;
        let addresses: Vec<String> =
            Load::ALL.iter().map(|load| format!("\"127.0.0.1:{}\"", server.of(*load))).collect();
        let resource = format!(
            "[[resource]]\nname = \"bench-server\"\nprotocol = \"opaque\"\naddresses = [{}]\n",
            addresses.join(", ")
        );
        let mut plan = Plan::default().with(&format!("[[agent]]\nname = \"{AGENT}\"\n")).with(&resource);
        let mut policy = permit(AGENT);
        for number in 0..CROWD_NAMES {
            let name = format!("crowd-{number}");
            plan =
                plan.with(&format!("[[agent]]\nname = \"{name}\"\nmatch = {{ cgroup = \"*/{name}-*\" }}\n"));
            policy.push_str(&permit(&name));
        }
        let plan = plan.policy("bench.cedar", &policy).policy("columns.toml", "");
        let daemon = Daemon::start(&plan)?;
        let program = dir.path().join("bench");
        std::fs::copy(std::env::current_exe().context("cannot find this very program")?, &program)
            .context("cannot copy this program")?;
        Ok(Self { daemon, _haproxy: haproxy, server, haproxy_ports, program, crowd_connections, _dir: dir })
    }

    /// This program's own client on one way.
    pub(super) fn client(&self, way: Way, load: Load, count: u64) -> Result<Command> {
        let word = match load {
            Load::Close => "dial",
            Load::Echo => "ping",
            Load::Source => "bulk",
        };
        let through = self.haproxy_ports.iter().find(|(of, _)| *of == load).context("no such load")?.1;
        let (address, mut command) = match way {
            Way::Direct => (format!("127.0.0.1:{}", self.server.of(load)), Command::new(&self.program)),
            // A documentation address; nothing there is registered, and no packet leaves.
            Way::Refused => ("192.0.2.1:9".to_owned(), self.agent()),
            Way::Passed => (format!("127.0.0.1:{}", self.server.of(load)), self.agent()),
            Way::Haproxy => (format!("127.0.0.1:{through}"), Command::new(&self.program)),
        };
        command.args([word, &address, &count.to_string()]);
        Ok(command)
    }

    pub(super) fn agent(&self) -> Command {
        Agent::new(&self.daemon, AGENT).command(&self.program)
    }

    /// The agents' parent cgroup, below the mount.
    pub(super) fn parent(&self) -> &str {
        self.daemon.parent()
    }

    /// The folder of the guard's pins.
    pub(super) fn pins(&self) -> PathBuf {
        self.daemon.pins()
    }

    /// This program, where agents can start it.
    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    pub(super) fn daemon_pid(&self) -> Result<i32> {
        self.daemon.pid().context("the daemon is not running")
    }

    /// `VmRSS` of the daemon, in KiB.
    pub(super) fn daemon_memory(&self) -> Result<u64> {
        crate::idle::resident(self.daemon_pid()?)
    }
}

fn start_haproxy(dir: &temp::Dir, server: Ports, through: &[(Load, u16)]) -> Result<Process> {
    let mut text = String::from(
        "global\n  maxconn 4096\ndefaults\n  mode tcp\n  timeout connect 10s\n  timeout client 10m\n  timeout server 10m\n",
    );
    for (load, port) in through {
        text.push_str(&format!(
            "listen {load:?}\n  bind 127.0.0.1:{port}\n  server one 127.0.0.1:{}\n",
            server.of(*load)
        ));
    }
    let config = dir.write("haproxy.cfg", text, 0o644)?;
    let mut command = Command::new("/usr/sbin/haproxy");
    command.arg("-db").arg("-f").arg(&config).current_dir("/");
    let log = dir.path().join("haproxy.log");
    let mut process = Process::start("haproxy", &mut command, &log, Signal::SIGTERM)?;
    let (_, port) = *through.first().context("no ports")?;
    process
        .wait_ready(LIMIT, || Ok(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(())))?;
    Ok(process)
}

/// Measures while a second daemon has its sentinel at the root of the tree.
pub(super) fn with_sentinel<T>(measure: impl FnOnce() -> Result<T>) -> Result<T> {
    let plan = Plan { sentinel: true, ..Plan::default() }
        .with("[[agent]]\nname = \"other\"\n")
        .policy("bench.cedar", &permit("other"))
        .policy("columns.toml", "");
    let _daemon = Daemon::start(&plan)?;
    measure()
}

/// How many connections each of the crowd can have here. Not every root may raise its own limit.
fn crowd_connections() -> Result<u64> {
    let wanted = u64::from(CROWD) * CROWD_CONNECTIONS * FOR_A_CONNECTION + FOR_THE_REST;
    let have = match setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted) {
        Ok(()) => wanted,
        Err(_refused) => {
            getrlimit(Resource::RLIMIT_NOFILE).context("the limit of descriptors cannot be read")?.1
        }
    };
    let each = have.saturating_sub(FOR_THE_REST) / FOR_A_CONNECTION / u64::from(CROWD);
    ensure!(each > 0, "the limit of descriptors, {have}, is too low for a crowd");
    Ok(each.min(CROWD_CONNECTIONS))
}

/// Many agents, each with a process of its own and open connections.
#[derive(Debug)]
pub(super) struct Crowd {
    children: Vec<Child>,
    cgroups: Vec<PathBuf>,
    /// Connections of each.
    each: usize,
}

impl Crowd {
    pub(super) fn gather(stage: &Stage) -> Result<Self> {
        let parent = Tree::find()?.mount().join(stage.daemon.parent());
        let each = usize::try_from(stage.crowd_connections).context("a number does not fit")?;
        let mut crowd = Self { children: Vec::new(), cgroups: Vec::new(), each };
        let address = format!("127.0.0.1:{}", stage.server.of(Load::Echo));
        for number in 0..CROWD {
            let cgroup = parent.join(format!("crowd-{}-{number}", number % CROWD_NAMES));
            std::fs::create_dir(&cgroup).context("cannot make a cgroup")?;
            crowd.cgroups.push(cgroup.clone());
            let script =
                format!("echo $$ > '{}/cgroup.procs' || exit 99; exec \"$0\" \"$@\"", cgroup.display());
            let child = Command::new("sh")
                .args(["-c", &script])
                .arg(&stage.program)
                .args(["hold", &address, &stage.crowd_connections.to_string()])
                .stdout(Stdio::piped())
                .spawn()
                .context("cannot start one of the crowd")?;
            crowd.children.push(child);
        }
        for child in &mut crowd.children {
            let mut line = String::new();
            let stdout = child.stdout.take().context("no output")?;
            BufReader::new(stdout).read_line(&mut line).context("cannot read from one of the crowd")?;
            let expected = format!("{} open", stage.crowd_connections);
            ensure!(line.trim() == expected, "one of the crowd says `{line}`");
        }
        Ok(crowd)
    }

    pub(super) fn agents(&self) -> usize {
        self.children.len()
    }

    pub(super) fn connections(&self) -> usize {
        self.children.len() * self.each
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.children {
            if let Err(error) = child.kill().and_then(|()| child.wait()) {
                eprintln!("one of the crowd stays: {error}");
            }
        }
        for cgroup in &self.cgroups {
            let gone = wait::until("an empty cgroup", LIMIT, || Ok(std::fs::remove_dir(cgroup).ok()));
            if let Err(error) = gone {
                eprintln!("{error:#}");
            }
        }
    }
}
