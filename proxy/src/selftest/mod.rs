//! The self-test: a hostile process tries every way out, from inside a throw-away agents' cgroup, while a witness looks on.
//!
//! `run` starts a stage in a process of its own: new network and mount namespaces, a cable whose far end no agent can see,
//! the real guard on a new cgroup. Nothing on the host changes but two cgroups, which are removed whatever happens, and the
//! sentinel on the root of the tree for as long as it runs. INVARIANT: every packet is for a range that exists only there.
//! Refuses: to call anything stopped that the witness did not see get out without the guard.
//! An installed guard is tested from a namespace that it does not know, so that connections are refused there and not
//! redirected, and so that nothing ever leaves the stage. Known limits: see `docs/security/bypasses.md`.

mod agent;
mod attempts;
mod catalogue;
mod netlink;
mod report;
mod room;
mod run;
mod stage;
mod witness;

use std::ffi::CString;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

pub use agent::{AgentArgs, agent};
pub use report::{Expected, Layer, Method, Report, Row, Seen, Shown, Verdict};

use crate::intercept::{Ingress, InterceptError, SecurityHooks, Sentinel, Settings, Tree, UnixSockets};

/// Where attempts want to go; only the witness is there.
const FAR4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
const FAR6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 7));
/// The same in IPv6 form.
const MAPPED: IpAddr = IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0xc633, 0x6407));
/// Where clouds keep credentials of the machine.
const METADATA: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));
/// The proxy's port on the stage, where nobody else can have it.
const PROXY_PORT: u16 = 15_432;
/// Servers on loopback.
const SINK_PORT: u16 = 4007;
/// Connections that stand before anything is tried.
const HELD_PORT: u16 = 4100;
/// The near end of every cable.
const DEVICE: &str = "chap0";
const NEAR_MAC: netlink::Mac = [2, 0xc4, 0, 0, 0, 1];
const FAR_MAC: netlink::Mac = [2, 0xc4, 0, 0, 0, 2];
/// An account that nobody has.
const AGENT_UID: u32 = 64_321;
/// How often an empty cgroup is asked to go.
const SWEEPS: usize = 50;
const PAUSE: Duration = Duration::from_millis(40);
/// Longest run; an emulated machine takes a minute.
const RUN_SECONDS_MAX: u32 = 300;

/// How the names of the test's own cgroups begin.
pub const CGROUP: &str = "chaperone-selftest-";

/// Rows of the catalogue that one machine cannot try by itself, and why.
const UNTRIED: [(&str, &str, &str); 12] = [
    (
        "34",
        "move of a delegated subtree",
        "needs a service manager that delegates; the guard refuses such a parent",
    ),
    ("36", "sockets of container runtimes", "needs a container runtime"),
    ("37", "other daemons on unix sockets", "depends on the host; an account of its own is the answer"),
    ("41", "another container's namespace", "the same to the kernel as row 40"),
    ("44", "another agent's identity", "a test of the daemon, in `tests/tests/intercept.rs`"),
    ("56", "name and address that differ", "a matter of the proxy, not of the kernel"),
    ("60", "virtual machines", "needs one"),
    (
        "61",
        "detaching the programs",
        "needs rights that no jailed agent has; root outside the jail is trusted",
    ),
    ("62", "programs on a child cgroup", "needs rights that no jailed agent has"),
    ("65", "flood of half-open connections", "takes minutes; a full table refuses"),
    ("67", "mounts of network file systems", "needs a server; the jail refuses every mount"),
    ("68", "programs with rights of their own", "the jail forbids new privileges"),
];

/// What went wrong with the test itself; never a verdict.
#[derive(Debug, thiserror::Error)]
pub enum SelftestError {
    /// A step failed.
    #[error("could not {what}")]
    Step {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The guard could not be put in place.
    #[error(transparent)]
    Guard(#[from] InterceptError),
    /// The stage ended without a report.
    #[error("the test's own process ended with {status} and no report")]
    NoReport {
        /// How it ended.
        status: String,
    },
}

/// What is to be tried.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Only these rows, by name; all if empty.
    pub only: Vec<String>,
    /// Only these launch methods; all if empty.
    pub methods: Vec<Method>,
    /// Kernel programs to switch off, to see what the others are good for.
    pub without: Vec<String>,
    /// The guard to test; one of its own if there is none.
    pub installed: Option<Settings>,
}

/// The stage's command line.
#[derive(Debug, clap::Args)]
pub struct StageArgs {
    /// Its name, which is the cgroup's too.
    #[arg(long)]
    name: String,
    /// Rows.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Launch methods.
    #[arg(long, value_delimiter = ',')]
    methods: Vec<String>,
    /// Programs to switch off.
    #[arg(long, value_delimiter = ',')]
    without: Vec<String>,
    /// The agents' parent of an installed guard.
    #[arg(long, requires = "pins")]
    parent: Option<PathBuf>,
    /// Its pins.
    #[arg(long)]
    pins: Option<PathBuf>,
    /// Its proxy's port.
    #[arg(long, default_value_t = PROXY_PORT)]
    port: u16,
    /// Whether it has a sentinel.
    #[arg(long)]
    sentinel: bool,
}

impl StageArgs {
    /// The installed guard that is to be tested.
    fn installed(&self) -> Option<Settings> {
        let sentinel = if self.sentinel { Sentinel::On } else { Sentinel::Off };
        let (parent, pin_dir) = (self.parent.clone()?, self.pins.clone()?);
        // What else is configured changes nothing that is tried here.
        let (unix_sockets, ingress, security_hooks) = (UnixSockets::Open, Ingress::Open, SecurityHooks::On);
        let (port, dns_port) = (self.port, None);
        Some(Settings { parent, pin_dir, port, dns_port, sentinel, unix_sockets, ingress, security_hooks })
    }
}

/// Runs the self-test and cleans up behind it, whatever becomes of it.
///
/// # Errors
/// When it could not be run to its end; that says nothing about the guard.
pub fn run(plan: &Plan) -> Result<Report, SelftestError> {
    let mut number = [0_u8; 6];
    getrandom::fill(&mut number)
        .map_err(|problem| stage::step("draw a name")(io::Error::other(problem.to_string())))?;
    let digits: String = number.iter().map(|byte| format!("{byte:02x}")).collect();
    let name = format!("{CGROUP}{digits}");
    // An interrupt ends the stage; this process stays to clean up.
    let mut held = SigSet::empty();
    held.add(Signal::SIGINT);
    held.add(Signal::SIGTERM);
    held.thread_block().map_err(|problem| stage::step("hold signals back")(problem.into()))?;
    let methods: Vec<&str> = plan.methods.iter().map(|method| method.name()).collect();
    let mut command = Command::new("/proc/self/exe");
    command.args(["selftest-stage", "--name", &name]);
    for (option, values) in [
        ("--only", plan.only.join(",")),
        ("--methods", methods.join(",")),
        ("--without", plan.without.join(",")),
    ] {
        if !values.is_empty() {
            command.arg(option).arg(values);
        }
    }
    if let Some(Settings { parent, pin_dir, port, sentinel, .. }) = &plan.installed {
        command.arg("--parent").arg(parent).arg("--pins").arg(pin_dir).args(["--port", &port.to_string()]);
        if *sentinel == Sentinel::On {
            command.arg("--sentinel");
        }
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let parent = plan.installed.as_ref().map(|settings| settings.parent.clone()).unwrap_or_default();
    tidy(&name, &parent);
    held.thread_unblock().map_err(|problem| stage::step("let signals through")(problem.into()))?;
    let output = output.map_err(stage::step("start the test's own process"))?;
    serde_json::from_slice(&output.stdout)
        .map_err(|_no_report| SelftestError::NoReport { status: output.status.to_string() })
}

/// The stage's own process: prints the report as JSON.
///
/// # Errors
/// When the stage cannot be built or an agent does not answer.
pub fn stage(args: &StageArgs) -> Result<Report, SelftestError> {
    SigSet::all().thread_unblock().map_err(|problem| stage::step("let signals through")(problem.into()))?;
    // Ends this process and with it everything that stands on the stage.
    let _none = nix::unistd::alarm::set(RUN_SECONDS_MAX);
    run::all(args)
}

/// Ends what is left in the two cgroups and removes them and the folder. The agents' one lies below the installed parent, or at
/// the root.
fn tidy(name: &str, parent: &Path) {
    let Ok(tree) = Tree::find() else { return };
    for cgroup in [parent.join(name), PathBuf::from(format!("{name}-daemon"))] {
        let path = tree.mount().join(cgroup.strip_prefix("/").unwrap_or(&cgroup));
        if !path.exists() {
            continue;
        }
        if let Err(problem) = fs::write(path.join("cgroup.kill"), "1") {
            tracing::debug!(%problem, "nothing to end in a cgroup of the test");
        }
        for _ in 0..SWEEPS {
            let Ok(found) = tree.open(Path::new(path.strip_prefix(tree.mount()).unwrap_or(&path))) else {
                break;
            };
            let _swept = found.sweep(&[]);
            if found.remove().is_ok() {
                break;
            }
            std::thread::sleep(PAUSE);
        }
    }
    if let Err(problem) = fs::remove_dir(stage::place(name)) {
        tracing::debug!(%problem, "the test's folder was gone already");
    }
}

/// A path for a system call.
fn text(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
