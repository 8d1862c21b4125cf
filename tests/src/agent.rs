//! Programs that run as an agent: in a tagged cgroup, through the program's own `chaperone run`.
//!
//! The agent has an account of its own by default, with no way into the build folders or the caller's home, so
//! what it starts must be where every account can read it. Its environment is small and fixed.
//! Limits: one agent name per value; the daemon must know it.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::daemon::Daemon;
use crate::postgres::{self, Server};
use crate::process::{self, Finished, Running};
use crate::{sample, temp};

/// The account of agents: `nobody`.
pub const UID: u32 = 65_534;

const LIMIT: Duration = Duration::from_secs(120);

/// An agent of a daemon.
#[derive(Debug, Clone, Copy)]
pub struct Agent<'a> {
    daemon: &'a Daemon,
    name: &'a str,
    uid: u32,
}

impl<'a> Agent<'a> {
    /// The agent `name` under its usual account.
    #[must_use]
    pub fn new(daemon: &'a Daemon, name: &'a str) -> Self {
        Self { daemon, name, uid: UID }
    }

    /// The same agent under another account.
    #[must_use]
    pub fn with_uid(mut self, uid: u32) -> Self {
        self.uid = uid;
        self
    }

    /// A command that runs `program` as this agent; arguments may be added.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.daemon.command(&["run"]);
        command.args(["--agent", self.name, "--uid", &self.uid.to_string(), "--"]).arg(program);
        command.env_clear().envs([
            ("PATH", "/usr/bin:/bin"),
            ("HOME", "/nonexistent"),
            ("LC_ALL", "C.UTF-8"),
        ]);
        command
    }

    /// Runs a program to its end.
    pub fn run<S: AsRef<OsStr>>(&self, program: &str, args: impl IntoIterator<Item = S>) -> Result<Finished> {
        process::run(self.command(program).args(args), LIMIT)
    }

    /// Starts a program and lets it run.
    pub fn start<S: AsRef<OsStr>>(
        &self,
        program: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Result<Running> {
        Running::start(self.command(program).args(args))
    }

    /// `psql` at the server's own address, without any password; prints rows as `a|b`.
    #[must_use]
    pub fn psql(&self, server: &Server, sql: &[&str]) -> Command {
        let mut command = self.command(postgres::program_path("psql"));
        command.args(["-X", "-A", "-t", "-w", "-d", &dsn(server)]);
        for statement in sql {
            command.args(["-c", statement]);
        }
        command
    }

    /// Runs a Python program with Debian's Python and its drivers; the text may use them all.
    pub fn python(&self, text: &str, args: &[&str]) -> Result<Command> {
        let file = self.daemon.dir().write(&format!("{}.py", temp::unique()), text, 0o644)?;
        let mut command = self.command("/usr/bin/python3");
        command.arg("-B").arg(file).args(args);
        Ok(command)
    }

    /// Runs a Node program with the driver `pg`, which is copied to where the agent can read it.
    pub fn node(&self, text: &str, args: &[&str]) -> Result<Command> {
        let folder = self.daemon.dir().folder("node")?;
        if !folder.join("node_modules").is_dir() {
            let source = tools()?.join("node/node_modules");
            let mut copy = Command::new("cp");
            copy.arg("-r").arg(&source).arg(&folder);
            process::run(&mut copy, LIMIT)?
                .success()
                .context("the Node driver is missing; run `cargo xtask setup`")?;
        }
        let file = self.daemon.dir().write(&format!("node/{}.js", temp::unique()), text, 0o644)?;
        let mut command = self.command("node");
        command.arg(file).args(args);
        Ok(command)
    }
}

/// The connection string that an unsuspecting client uses: the server's own address, no password.
#[must_use]
pub fn dsn(server: &Server) -> String {
    format!("host=127.0.0.1 port={} user={} dbname={}", server.port(), sample::USER, sample::DATABASE)
}

/// The folder that `cargo xtask setup` fills: `CHAPERONE_TOOLS`, else in the user's cache.
fn tools() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("CHAPERONE_TOOLS") {
        return Ok(PathBuf::from(folder));
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    Ok(cache.or_else(home).context("neither XDG_CACHE_HOME nor HOME is set")?.join("chaperone-tools"))
}
