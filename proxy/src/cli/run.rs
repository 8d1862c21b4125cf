//! `chaperone run`: start a process as an agent, with no way around the guard from its first instruction.
//!
//! Refuses to start anything unless the kernel says that every guard program runs for the agent's own cgroup.
//! Then, in this order: enter the cgroup, mark all descriptors above 2 for closing, give up capabilities and
//! ids, forbid new privileges, filter system calls, `exec`. A failure at any step ends this process.
//! Known limits: an agent that stays root keeps the right to write files, cgroup files included, and could move
//! itself out; use `--uid`. The filter kills 32-bit system calls. Sockets of other host daemons stay reachable.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, anyhow, bail};
use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use nix::unistd::{Gid, Uid, User, setgid, setgroups, setuid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::identity::Steps;
use crate::intercept::{self, Cgroup, Settings, Tree};

/// Start a process as an agent.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the agent, as configured.
    #[arg(long)]
    pub agent: String,
    /// What the process is for, in the launcher's words; recorded as a hint.
    #[arg(long)]
    pub step: Option<String>,
    /// User to run as, by name or number, with that user's group and no others, and with that user's home as `HOME`.
    #[arg(long)]
    pub uid: Option<String>,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

/// Everything decided before the point of no return.
#[derive(Debug)]
struct Plan<'a> {
    cgroup: &'a Cgroup,
    account: Option<Account>,
    filters: Vec<BpfProgram>,
    command: &'a [OsString],
}

/// Whom the process becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Account {
    uid: Uid,
    gid: Gid,
    name: String,
    home: PathBuf,
}

/// What a root agent keeps: ordinary file and process rights, and low ports.
const KEPT: [Capability; 8] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
];
/// Bit that marks a system call of the x32 ABI, which the filter's architecture check does not tell apart.
const X32: i64 = 0x4000_0000;
/// Numbers that x32 has of its own: `ptrace`, `process_vm_readv`, `process_vm_writev`, `kexec_load`.
const X32_OWN: [i64; 4] = [521, 539, 540, 528];
/// Calls that reach around the guard, into other processes, or into the kernel's own configuration.
const REFUSED: [i64; 31] = [
    libc::SYS_bpf,
    // A key that is not there makes the kernel start a program of its own, outside every agent's cgroup.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_perf_event_open,
    libc::SYS_io_uring_setup,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_by_handle_at,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_userfaultfd,
    libc::SYS_quotactl,
    libc::SYS_reboot,
];
/// Socket families an agent may use; the kernel's guard sees the internet ones.
const FAMILIES: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// The whole command line of `run`.
#[derive(Debug, clap::Args)]
pub struct Launch {
    #[command(flatten)]
    file: super::ConfigFile,
    #[command(flatten)]
    args: Args,
}

/// Starts a configured agent in place of this process.
///
/// # Errors
/// When the configuration does not name the agent, or the start fails.
pub fn launch(launch: Launch) -> anyhow::Result<ExitCode> {
    let config = launch.file.load()?;
    if !config.identity.agents.iter().any(|agent| agent.name.0 == launch.args.agent) {
        anyhow::bail!("no agent named `{}` is configured", launch.args.agent);
    }
    run(launch.args, &config.intercept, &Steps::new(&config.identity.steps, &config.identity.parent))
}

/// Starts the agent in place of this process.
///
/// # Errors
/// When the name, the user or the command cannot be used, or `exec` fails.
pub fn run(args: Args, settings: &Settings, steps: &Steps) -> anyhow::Result<ExitCode> {
    let account = args.uid.as_deref().map(account).transpose()?;
    let filters = filters().context("could not build the system call filter")?;
    let cgroup = match guarded(settings, &args.agent) {
        Ok(cgroup) => cgroup,
        Err(problem) => {
            eprintln!(
                "chaperone: not started, because nothing would guard it: {}",
                super::told(problem.as_ref())
            );
            return Ok(ExitCode::from(3));
        }
    };
    if account.is_none() && Uid::effective().is_root() {
        eprintln!("chaperone: `{}` runs as root; give it a user of its own with `--uid`", args.agent);
    }
    if let Some(step) = &args.step {
        let mount = Tree::find()?;
        let run = cgroup.path().strip_prefix(mount.mount()).context("the run's cgroup left the tree")?;
        steps.note(run, step).context("could not keep the step")?;
    }
    Err(enter(&Plan { cgroup: &cgroup, account, filters, command: &args.command }))
}

/// A fresh cgroup for this run, which the kernel says is guarded by every program.
fn guarded(settings: &Settings, agent: &str) -> anyhow::Result<Cgroup> {
    let parent = Tree::find()?.open(&settings.parent)?;
    let mut number = [0_u8; 8];
    getrandom::fill(&mut number).map_err(|problem| anyhow!("no random numbers: {problem}"))?;
    let name = format!("{:016x}", u64::from_ne_bytes(number));
    let cgroup = parent.child(agent, &name)?;
    let missing: Vec<&str> = intercept::effective(settings, &cgroup)?
        .iter()
        .filter(|status| !status.effective)
        .map(|status| status.name)
        .collect();
    if missing.is_empty() {
        return Ok(cgroup);
    }
    cgroup.remove()?;
    bail!("kernel programs not in effect: {}", missing.join(", "))
}

/// Becomes the agent. Returns only if a step failed; the caller must then end the process.
fn enter(plan: &Plan<'_>) -> anyhow::Error {
    match prepare(plan) {
        Ok(mut command) => {
            let program = command.get_program().to_string_lossy().into_owned();
            anyhow::Error::new(command.exec()).context(format!("could not start `{program}`"))
        }
        Err(problem) => problem,
    }
}

fn prepare(plan: &Plan<'_>) -> anyhow::Result<Command> {
    let (program, arguments) = plan.command.split_first().context("no command was given")?;
    for stream in [io::stdin().as_raw_fd(), io::stdout().as_raw_fd(), io::stderr().as_raw_fd()] {
        refuse_network(stream)?;
    }
    plan.cgroup.admit(std::process::id())?;
    intercept::close_descriptors_on_exec()?;
    give_up(plan.account.as_ref())?;
    prctl::set_no_new_privs().context("could not forbid new privileges")?;
    for filter in &plan.filters {
        seccompiler::apply_filter(filter).context("could not apply the system call filter")?;
    }
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some(Account { name, home, .. }) = &plan.account {
        // Clients look for their own files at home, and the caller's are closed to this account.
        command.env("HOME", home).env("USER", name).env("LOGNAME", name);
    }
    Ok(command)
}

/// A standard stream that is a network socket would be a way out that nothing guards.
fn refuse_network(stream: RawFd) -> anyhow::Result<()> {
    match getsockname::<SockaddrStorage>(stream) {
        Ok(address) if address.family() == Some(AddressFamily::Unix) => Ok(()),
        Ok(_) => bail!("standard stream {stream} is a network socket"),
        Err(Errno::ENOTSOCK | Errno::EBADF) => Ok(()),
        Err(problem) => Err(problem).with_context(|| format!("could not inspect standard stream {stream}")),
    }
}

/// Capabilities first, while there is the right to drop them; ids after.
fn give_up(account: Option<&Account>) -> anyhow::Result<()> {
    let kept: caps::CapsHashSet = if account.is_some() { caps::CapsHashSet::new() } else { KEPT.into() };
    for capability in caps::runtime::thread_all_supported() {
        if !kept.contains(&capability) && caps::has_cap(None, CapSet::Bounding, capability)? {
            caps::drop(None, CapSet::Bounding, capability)
                .with_context(|| format!("could not give up {capability}"))?;
        }
    }
    caps::clear(None, CapSet::Ambient).context("could not clear the ambient capabilities")?;
    caps::clear(None, CapSet::Inheritable).context("could not clear the inheritable capabilities")?;
    if let Some(&Account { uid, gid, .. }) = account {
        setgroups(&[]).context("could not leave the supplementary groups")?;
        setgid(gid).with_context(|| format!("could not become group {gid}"))?;
        setuid(uid).with_context(|| format!("could not become user {uid}"))?;
    }
    let held = caps::read(None, CapSet::Permitted)?;
    let rest: caps::CapsHashSet = held.intersection(&kept).copied().collect();
    caps::set(None, CapSet::Effective, &rest).context("could not reduce the effective capabilities")?;
    caps::set(None, CapSet::Permitted, &rest).context("could not reduce the permitted capabilities")
}

fn account(text: &str) -> anyhow::Result<Account> {
    let of = |user: User| Account { uid: user.uid, gid: user.gid, name: user.name, home: user.dir };
    let known = match text.parse::<u32>() {
        Ok(number) => {
            let uid = Uid::from_raw(number);
            // A number without an account is a fine user of one's own; its group has the same number.
            let own = || Account { uid, gid: Gid::from_raw(number), name: text.to_owned(), home: "/".into() };
            User::from_uid(uid)?.map_or_else(own, of)
        }
        Err(_not_a_number) => of(User::from_name(text)?.ok_or_else(|| anyhow!("there is no user `{text}`"))?),
    };
    if known.uid.is_root() {
        bail!("`--uid` must name a user other than root");
    }
    Ok(known)
}

/// Three filters, because each has one answer: EPERM, ENOSYS, EAFNOSUPPORT.
fn filters() -> anyhow::Result<Vec<BpfProgram>> {
    let refused = REFUSED.into_iter().chain(X32_OWN.map(|number| number | X32));
    // Without `clone3` the C library falls back to `clone`, which cannot start a process in another cgroup.
    let unknown = [libc::SYS_clone3];
    let foreign = FAMILIES
        .into_iter()
        .map(|family| {
            let family = u64::try_from(family)?;
            Ok(SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family)?)
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let foreign = SeccompRule::new(foreign)?;
    Ok(vec![
        filter(refused.map(|number| (number, Vec::new())), libc::EPERM)?,
        filter(unknown.into_iter().map(|number| (number, Vec::new())), libc::ENOSYS)?,
        filter(
            [libc::SYS_socket, libc::SYS_socketpair].map(|number| (number, vec![foreign.clone()])),
            libc::EAFNOSUPPORT,
        )?,
    ])
}

fn filter(
    rules: impl IntoIterator<Item = (i64, Vec<SeccompRule>)>,
    errno: libc::c_int,
) -> anyhow::Result<BpfProgram> {
    let mut table = BTreeMap::new();
    for (number, rule) in rules {
        table.insert(number | X32, rule.clone());
        table.insert(number, rule);
    }
    let answer = SeccompAction::Errno(u32::try_from(errno)?);
    let arch = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(table, SeccompAction::Allow, answer, arch)?.try_into()?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_filter_compiles() {
        assert_eq!(filters().unwrap().len(), 3);
    }

    #[test]
    fn root_is_not_a_user_of_ones_own() {
        assert!(account("0").is_err());
        assert!(account("root").is_err());
        assert!(account("no-such-user-here").is_err());
    }

    #[test]
    fn a_user_brings_a_home_and_a_number_without_account_has_none() {
        let nobody = User::from_name("nobody").unwrap().unwrap();
        assert_eq!(account("nobody").unwrap().home, nobody.dir);
        assert_eq!(account(&nobody.uid.to_string()).unwrap(), account("nobody").unwrap());
        let number = account("64123").unwrap();
        assert_eq!((number.uid, number.gid), (Uid::from_raw(64_123), Gid::from_raw(64_123)));
        assert_eq!((number.name.as_str(), number.home), ("64123", PathBuf::from("/")));
    }

    #[test]
    fn a_network_socket_is_not_a_standard_stream() {
        let network = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(refuse_network(network.as_raw_fd()).is_err());
        let (local, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        refuse_network(local.as_raw_fd()).unwrap();
        refuse_network(fs::File::open("/dev/null").unwrap().as_raw_fd()).unwrap();
    }

    #[test]
    fn nothing_is_started_without_a_guard() {
        let settings = Settings {
            parent: "chaperone-no-such-parent".into(),
            pin_dir: "/nonexistent/pins".into(),
            port: 15_001,
            sentinel: intercept::Sentinel::Off,
        };
        assert!(guarded(&settings, "reporter").is_err());
    }
}
