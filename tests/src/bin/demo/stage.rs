//! What the demonstration plays on: server, provider, daemon, agent and approver.
//!
//! The shipped policies are used as they are: they speak of the agent `reporter` and the resource `orders-db`.
//! The approver is another local account; the agent runs under a third.
//! INVARIANT: the agent's account can read neither the backend password nor the identity provider's key.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chaperone::clock::Clock;
use chaperone_tests::agent::Agent;
use chaperone_tests::daemon::{Daemon, Plan, as_account};
use chaperone_tests::postgres::{Options, Server};
use chaperone_tests::{sample, temp};

use crate::issuer::Issuer;
use crate::report::say;

/// The agent and the resource of the shipped policies.
pub(crate) const AGENT: &str = "reporter";
pub(crate) const RESOURCE: &str = "orders-db";

/// A local account of every Debian, here the database administrator on duty.
pub(crate) const APPROVER: &str = "backup";

/// Longest any shown command may take; a hold ends after 50 s by default.
pub(crate) const LIMIT: Duration = Duration::from_secs(75);

const TOKEN_LIFE: Duration = Duration::from_secs(600);
const TOKEN_RENEWAL: Duration = Duration::from_secs(240);

/// Everything that runs.
#[derive(Debug)]
pub(crate) struct Stage {
    // Dropped in this order: the daemon goes first, while everything it talks to still answers.
    pub(crate) daemon: Daemon,
    pub(crate) server: Server,
    issuer: Issuer,
    token_file: PathBuf,
    renewed: Instant,
    /// The ticket of the held write, once there is one.
    pub(crate) ticket: Option<String>,
    pub(crate) dir: temp::Dir,
}

impl Stage {
    /// Starts everything.
    pub(crate) fn set(runtime: &tokio::runtime::Runtime) -> Result<Self> {
        println!("=== the stage ===");
        let dir = temp::Dir::new("demo")?;
        say("starting PostgreSQL 15 with a small shop: 200 customers, 1,000 orders");
        let server = Server::start(&Options::default())?;
        say("starting an OpenID provider");
        let issuer = Issuer::start(runtime)?;
        let token_file = dir.write("reporter.jwt", issuer.token(TOKEN_LIFE)?, 0o600)?;
        let password_file = dir.write("orders-db.password", sample::PASSWORD, 0o600)?;
        let ca_file = dir.write("provider-ca.pem", issuer.ca_pem(), 0o644)?;
        let agent = format!(
            "[[agent]]\nname = \"{AGENT}\"\nidentity = {{ issuer = \"{}\", audience = \"chaperone\", \
             token_file = \"{}\", ca_file = \"{}\" }}\n",
            issuer.url(),
            token_file.display(),
            ca_file.display()
        );
        let approver =
            format!("[[approver]]\nname = \"dba-on-duty\"\nuser = \"{APPROVER}\"\ngroups = [\"dba\"]\n");
        let plan =
            Plan::default().with(&agent).with(&server.resource(RESOURCE, &password_file)).with(&approver);
        say("starting the daemon with the shipped policies");
        let daemon = Daemon::start(&plan)?;
        say(&format!("the database's own address: 127.0.0.1:{} and [::1]:{0}", server.port()));
        say(&format!("the agents' cgroup: {}", daemon.parent()));
        let renewed = Clock::system().instant();
        Ok(Self { daemon, server, issuer, token_file, renewed, ticket: None, dir })
    }

    /// The agent under its usual account.
    pub(crate) fn agent(&self) -> Agent<'_> {
        Agent::new(&self.daemon, AGENT)
    }

    /// How a person would start a program as the agent.
    pub(crate) fn typed(&self, rest: &str) -> String {
        format!("chaperone run --agent {AGENT} -- {rest}")
    }

    /// Gives the agent a token that the daemon stops accepting after the given time.
    pub(crate) fn replace_token(&mut self, life: Duration) -> Result<()> {
        let token = self.issuer.token(life)?;
        let fresh = self.dir.write("reporter.jwt.new", token, 0o600)?;
        std::fs::rename(&fresh, &self.token_file).context("cannot swap the token file")?;
        self.renewed = Clock::system().instant();
        Ok(())
    }

    /// A token with a long life again.
    pub(crate) fn restore_token(&mut self) -> Result<()> {
        self.replace_token(TOKEN_LIFE)
    }

    /// Renews the token from time to time while everything is kept.
    pub(crate) fn refresh_token(&mut self) -> Result<()> {
        if Clock::system().instant().duration_since(self.renewed) < TOKEN_RENEWAL {
            return Ok(());
        }
        self.restore_token()
    }

    /// A subcommand as the approver, on the approver's account.
    pub(crate) fn as_approver(&self, words: &[&str]) -> Result<Command> {
        self.as_account(APPROVER, words)
    }

    /// A subcommand on a local account.
    pub(crate) fn as_account(&self, account: &str, words: &[&str]) -> Result<Command> {
        let mut command = as_account(account)?;
        command
            .arg(self.daemon.program())
            .args(words)
            .arg("--config")
            .arg(self.daemon.config())
            .current_dir("/");
        Ok(command)
    }

    /// Prints what can be tried while everything runs.
    pub(crate) fn print_hints(&self) -> Result<()> {
        let program = self.daemon.program().display();
        let config = self.daemon.config().display();
        let port = self.server.port();
        let (user, database) = (sample::USER, sample::DATABASE);
        println!("\nEverything is left running until Ctrl-C. To try, as root in another terminal:\n");
        println!(
            "  {program} run --config {config} --agent {AGENT} --uid 65534 -- psql -h 127.0.0.1 -p {port} {database} {user}"
        );
        println!("  {program} status --config {config}");
        println!("  {program} approvals list --config {config}");
        println!(
            "  setpriv --reuid {APPROVER} --regid {APPROVER} --clear-groups {program} approvals approve TICKET --config {config}"
        );
        println!("  {program} audit search --config {config}");
        println!("  {program} audit verify --config {config}");
        println!("  policies: {}", self.daemon.policies().display());
        Ok(())
    }
}
