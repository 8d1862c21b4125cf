//! A real daemon with its own configuration, cgroup, pins, ports and folders; all gone when dropped.
//!
//! Each daemon has a random parent cgroup and a BPF file system of its own, so that many run beside each other and
//! a daemon of the host is never touched. Dropping stops it, removes its pinned guard through the program's own
//! `uninstall`, and unmounts.
//! Limits: needs root; the program is `CHAPERONE_BIN`, else `chaperone` in the folder cargo builds into.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::process::{self, Finished, Process};
use crate::{ports, sample, temp};

/// What the configuration says beyond what every test needs.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// `[[agent]]`, `[[resource]]`, `[[approver]]` and other tables, as TOML.
    pub tables: String,
    /// Keys at the top of the file, as TOML.
    pub top: String,
    /// Further keys of `[intercept]`, as TOML.
    pub intercept: String,
    /// `[jail]`, as TOML; nothing shares `/tmp`, because programs and certificates of the stage lie there.
    pub jail: String,
    /// Keys of `[dns]` beyond its port, as TOML.
    pub names: String,
    /// What the daemon, and nobody else, sees as `/etc/hosts`; empty means the machine's own.
    pub hosts: String,
    /// Whether programs are attached to the root of the tree. Only for tests of that: it touches every process of the machine.
    pub sentinel: bool,
    /// Whether policy is asked about destinations that nobody registered.
    pub observe: bool,
    /// Words before each command line, to start it elsewhere: in another network namespace, say.
    pub prefix: Vec<String>,
    /// Files of the policy folder by name; none means the policies that ship with the project.
    pub policies: Vec<(String, String)>,
}

impl Plan {
    /// Adds TOML tables.
    #[must_use]
    pub fn with(mut self, tables: &str) -> Self {
        self.tables.push_str(tables);
        self.tables.push('\n');
        self
    }

    /// Adds a policy file.
    #[must_use]
    pub fn policy(mut self, name: &str, text: &str) -> Self {
        self.policies.push((name.to_owned(), text.to_owned()));
        self
    }
}

/// A daemon, running or stopped, with everything it needs.
#[derive(Debug)]
pub struct Daemon {
    process: Option<Process>,
    program: PathBuf,
    config: PathBuf,
    hosts: Option<PathBuf>,
    parent: String,
    prefix: Vec<String>,
    dir: temp::Dir,
}

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

impl Daemon {
    /// Writes the configuration, starts the daemon and waits until it is ready.
    pub fn start(plan: &Plan) -> Result<Self> {
        let mut daemon = Self::prepare(plan)?;
        daemon.launch()?;
        Ok(daemon)
    }

    /// Everything but the start, for tests of daemons that must not start.
    pub fn prepare(plan: &Plan) -> Result<Self> {
        let dir = temp::Dir::new("daemon")?;
        let parent = format!("chaperone-test-{}.slice", temp::unique());
        let program = stage_program(&dir)?;
        let policies = dir.folder("policies")?;
        if plan.policies.is_empty() {
            copy_files(&sample::shipped_policies(), &policies)?;
        }
        for (name, text) in &plan.policies {
            dir.write(&format!("policies/{name}"), text, 0o644)?;
        }
        let bpf = dir.folder("bpf")?;
        process::run(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&bpf), COMMAND_LIMIT)?
            .success()
            .context("cannot mount a BPF file system")?;
        // From here on the value exists, so that a failure unmounts again.
        let prefix = plan.prefix.clone();
        let mut daemon =
            Self { process: None, program, config: PathBuf::new(), hosts: None, parent, prefix, dir };
        if !plan.hosts.is_empty() {
            daemon.hosts = Some(daemon.dir.write("hosts", &plan.hosts, 0o644)?);
        }
        daemon.config = daemon.write_config(plan)?;
        Ok(daemon)
    }

    /// Starts the prepared or stopped daemon and waits until its control socket answers.
    pub fn launch(&mut self) -> Result<()> {
        let mut command = self.command(&["daemon"]);
        if let Some(hosts) = &self.hosts {
            // In a mount namespace of its own, so that nobody else's names change.
            let mut inside = Command::new("unshare");
            inside.args(["--mount", "--propagation", "private", "sh", "-c"]);
            inside.arg("mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"");
            inside.arg("sh").arg(hosts).arg(command.get_program()).args(command.get_args()).current_dir("/");
            command = inside;
        }
        let log = self.dir.path().join("daemon.log");
        let mut process = Process::start("the daemon", &mut command, &log, Signal::SIGTERM)?;
        let socket = self.control_socket();
        process.wait_ready(START_LIMIT, || Ok(UnixStream::connect(&socket).is_ok().then_some(())))?;
        self.process = Some(process);
        Ok(())
    }

    /// Starts a guard process of the same configuration and waits until a daemon could follow it.
    pub fn start_guard(&self) -> Result<Process> {
        let log = self.dir.path().join("guard.log");
        let mut process = Process::start("the guard", &mut self.command(&["guard"]), &log, Signal::SIGTERM)?;
        let socket = self.dir.path().join("run-guard/guard.sock");
        process.wait_ready(START_LIMIT, || Ok(UnixStream::connect(&socket).is_ok().then_some(())))?;
        Ok(process)
    }

    /// Stops it with a signal and waits for its end.
    pub fn stop(&mut self, signal: Signal) -> Result<std::process::ExitStatus> {
        let mut process = self.process.take().context("the daemon is not running")?;
        process.stop(signal, STOP_LIMIT)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.as_ref().context("the daemon is not running")?.signal(signal)
    }

    /// Its process id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.process.as_ref().map(|process| process.pid().as_raw())
    }

    /// What it has logged.
    pub fn log(&self) -> Result<String> {
        std::fs::read_to_string(self.dir.path().join("daemon.log")).context("cannot read the daemon's log")
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The staged program, which every account may start.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Puts another program in its place, as an upgrade does; what runs keeps running.
    pub fn replace_program(&mut self, program: PathBuf) {
        self.program = program;
    }

    /// Its temporary folder.
    #[must_use]
    pub fn dir(&self) -> &temp::Dir {
        &self.dir
    }

    /// The folder of its policies.
    #[must_use]
    pub fn policies(&self) -> PathBuf {
        self.dir.path().join("policies")
    }

    /// The folder of its durable state; the record is in `audit` below it.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// The agents' parent cgroup, below the cgroup2 mount.
    #[must_use]
    pub fn parent(&self) -> &str {
        &self.parent
    }

    /// The folder of the guard's pins.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.dir.path().join("bpf/chaperone")
    }

    /// The socket of the control interface.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.dir.path().join("run/control.sock")
    }

    /// A subcommand of the program: the words, then `--config FILE`.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        self.command_of(&self.program, words)
    }

    /// The same of another program.
    #[must_use]
    pub fn command_of(&self, program: &Path, words: &[&str]) -> Command {
        let program = program.as_os_str();
        let mut command = match self.prefix.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.args(words).arg("--config").arg(&self.config).current_dir("/");
        command
    }

    /// Runs a subcommand to its end.
    pub fn cli(&self, words: &[&str]) -> Result<Finished> {
        process::run(&mut self.command(words), COMMAND_LIMIT)
    }

    /// Runs a subcommand under another local account.
    pub fn cli_as(&self, account: &str, words: &[&str]) -> Result<Finished> {
        let mut command = as_account(account)?;
        command.arg(&self.program).args(words).arg("--config").arg(&self.config).current_dir("/");
        process::run(&mut command, COMMAND_LIMIT)
    }

    fn write_config(&self, plan: &Plan) -> Result<PathBuf> {
        let root = self.dir.path().display();
        let text = format!(
            "state_dir = \"{root}/state\"\nruntime_dir = \"{root}/run\"\npolicy_dir = \"{root}/policies\"\n\
             default = \"{default}\"\n{top}\n\n[intercept]\nparent = \"{parent}\"\nport = {port}\n\
             pin_dir = \"{root}/bpf/chaperone\"\nsentinel = {sentinel}\n{intercept}\n\n[dns]\nport = {dns}\n{names}\n\n[jail]\n{jail}\n\n{tables}\n",
            default = if plan.observe { "observe" } else { "deny" },
            intercept = plan.intercept,
            top = plan.top,
            jail = if plan.jail.is_empty() { "private_tmp = false" } else { &plan.jail },
            sentinel = plan.sentinel,
            parent = self.parent,
            port = ports::free()?,
            dns = ports::free_block()?,
            names = plan.names,
            tables = plan.tables,
        );
        self.dir.write("chaperone.toml", text, 0o644)
    }

    /// Removes the pinned guard, the cgroups and the mount.
    fn clean_up(&mut self) -> Result<()> {
        self.process = None;
        let uninstalled = if self.config.is_file() {
            self.cli(&["uninstall", "--force"])
                .and_then(Finished::success)
                .context("`chaperone uninstall` failed")
        } else {
            Ok(String::new())
        };
        let bpf = self.dir.path().join("bpf");
        process::run(Command::new("umount").arg(&bpf), COMMAND_LIMIT)?.success().context("cannot unmount")?;
        uninstalled.map(|_| ())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.clean_up() {
            eprintln!("cleaning up after the daemon: {error:#}");
        }
    }
}

/// The program under test: `CHAPERONE_BIN`, else beside or above this very program in the build folder.
pub fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CHAPERONE_BIN") {
        return Ok(PathBuf::from(path));
    }
    let own = std::env::current_exe().context("cannot find this very program")?;
    let folders = own.ancestors().skip(1).take(2);
    let mut candidates = folders.map(|folder| folder.join("chaperone"));
    candidates.find(|path| path.is_file()).context("`chaperone` is not built; run `cargo build --bins`")
}

/// Copies the program to where every account may start it: build folders are often closed to others.
pub fn stage_program(dir: &temp::Dir) -> Result<PathBuf> {
    let staged = dir.folder("bin")?.join("chaperone");
    let built = program()?;
    std::fs::copy(&built, &staged).with_context(|| format!("cannot copy `{}`", built.display()))?;
    std::fs::set_permissions(&staged, std::fs::Permissions::from_mode(0o755))
        .context("cannot open the program to all")?;
    Ok(staged)
}

/// Writes a copy of a program whose kernel object is another one: one letter of its licence.
pub fn other_build(program: &Path, copy: &Path) -> Result<()> {
    let mut bytes = std::fs::read(program).with_context(|| format!("cannot read `{}`", program.display()))?;
    // Little-endian, and for the machine with number 247, which is BPF.
    let is_object = |object: &[u8]| object.starts_with(b"\x7fELF") && object.get(18..20) == Some(&[247, 0]);
    let object = (0..bytes.len()).find(|at| bytes.get(*at..).is_some_and(is_object));
    let object = object.context("the program has no kernel object")?;
    let inside = bytes.get_mut(object..).context("the kernel object is cut")?;
    let licence = inside.windows(11).position(|window| window == b"Apache-2.0\0");
    let letter = licence.and_then(|licence| inside.get_mut(licence + 9));
    *letter.context("the kernel object has no licence")? = b'1';
    std::fs::write(copy, bytes).with_context(|| format!("cannot write `{}`", copy.display()))?;
    std::fs::set_permissions(copy, std::fs::Permissions::from_mode(0o755))
        .context("cannot open the program to all")
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    let entries = std::fs::read_dir(from).with_context(|| format!("cannot list `{}`", from.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list `{}`", from.display()))?;
        if entry.path().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))
                .with_context(|| format!("cannot copy `{}`", entry.path().display()))?;
        }
    }
    Ok(())
}

/// A command line that runs what follows as a local account, with that account's group and no other.
pub fn as_account(account: &str) -> Result<Command> {
    let user =
        nix::unistd::User::from_name(account)?.with_context(|| format!("there is no account `{account}`"))?;
    let mut command = Command::new("setpriv");
    command.args([
        format!("--reuid={}", user.uid),
        format!("--regid={}", user.gid),
        "--clear-groups".to_owned(),
    ]);
    Ok(command)
}
