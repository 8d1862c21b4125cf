//! The stage of most tests: the sample server, a daemon in front of it, one agent, two approvers.
//!
//! The agent has no token unless a test gives it one; the default policy permits it by name, masks e-mail addresses,
//! and lets deletes wait for one approver and updates for two.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::agent::{Agent, dsn};
use crate::daemon::{Daemon, Plan};
use crate::postgres::{Options, Server, program_path};
use crate::process::{self, Finished};
use crate::talk::{Reply, Talk};
use crate::{sample, temp, wait};

/// The agent's name.
pub const AGENT: &str = "worker";
/// The resource's name.
pub const RESOURCE: &str = "shop-db";
/// Local accounts of every Debian that may approve here, both in the group `dba`.
pub const APPROVERS: [&str; 2] = ["backup", "games"];
/// A local account that may not.
pub const STRANGER: &str = "man";

/// What holds unless a test says otherwise.
pub const POLICY: &str = r#"
@id("anything-on-shop-db")
permit (principal, action, resource in Resource::"shop-db");

@id("the-unidentified-may-come")
permit (principal == Unidentified::"worker", action, resource in Resource::"shop-db");

@id("emails-are-masked")
@mask("keep-last:4")
forbid (principal, action == Action::"readClear", resource)
when { resource.class == "pii.email" };

@id("deletes-wait")
@approvers("dba") @quorum("1") @window("10m")
forbid (principal, action == Action::"runUnattended", resource)
when { context.effects.contains("delete") };

@id("updates-wait-for-two")
@approvers("dba") @quorum("2") @window("10m")
forbid (principal, action == Action::"runUnattended", resource)
when { context.effects.contains("update") };
"#;

const LIMIT: Duration = Duration::from_secs(60);

/// What a test wants to be different.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Keys at the top of the configuration.
    pub top: String,
    /// Further keys of `[intercept]`.
    pub intercept: String,
    /// Further keys of the agent.
    pub agent: String,
    /// Further keys of the resource.
    pub resource: String,
    /// The policy.
    pub policy: String,
    /// The classes of columns, as a `columns.toml`.
    pub columns: String,
    /// What the superuser runs in the database before the daemon starts.
    pub sql: String,
}

impl Default for Setup {
    fn default() -> Self {
        let empty = String::new;
        let (policy, columns) = (POLICY.to_owned(), sample::columns_toml(RESOURCE));
        Self {
            top: empty(),
            intercept: empty(),
            agent: empty(),
            resource: empty(),
            policy,
            columns,
            sql: empty(),
        }
    }
}

impl Setup {
    /// The usual setup under another policy.
    #[must_use]
    pub fn under(policy: &str) -> Self {
        Self { policy: policy.to_owned(), ..Self::default() }
    }
}

/// Server and daemon.
#[derive(Debug)]
pub struct Shop {
    // Dropped in this order: the daemon goes first.
    /// The daemon.
    pub daemon: Daemon,
    /// The database.
    pub server: Server,
    _dir: temp::Dir,
}

impl Shop {
    /// Starts everything.
    pub fn open(setup: &Setup) -> Result<Self> {
        let mut shop = Self::prepare(setup)?;
        shop.daemon.launch()?;
        Ok(shop)
    }

    /// Starts everything but the daemon.
    pub fn prepare(setup: &Setup) -> Result<Self> {
        let dir = temp::Dir::new("shop")?;
        let server = Server::start(&Options::default())?;
        if !setup.sql.is_empty() {
            server.query(&setup.sql)?;
        }
        let password = dir.write("password", sample::PASSWORD, 0o600)?;
        let mut plan = Plan::default()
            .with(&format!("[[agent]]\nname = \"{AGENT}\"\n{}", setup.agent))
            .with(&format!("{}{}", server.resource(RESOURCE, &password), setup.resource))
            .policy("test.cedar", &setup.policy)
            .policy("columns.toml", &setup.columns);
        for account in APPROVERS {
            plan = plan.with(&format!(
                "[[approver]]\nname = \"{account}-person\"\nuser = \"{account}\"\ngroups = [\"dba\"]\n"
            ));
        }
        plan.top.clone_from(&setup.top);
        plan.intercept.clone_from(&setup.intercept);
        Ok(Self { daemon: Daemon::prepare(&plan)?, server, _dir: dir })
    }

    /// The agent.
    #[must_use]
    pub fn agent(&self) -> Agent<'_> {
        Agent::new(&self.daemon, AGENT)
    }

    /// An open session of the agent.
    pub fn talk(&self) -> Result<Talk> {
        Talk::open(&self.agent(), &self.server)
    }

    /// What an attempt of the agent to open a session brings.
    pub fn hello(&self) -> Result<Reply> {
        Talk::dial(&self.agent(), &self.server).map(|(_, hello)| hello)
    }

    /// `psql` outside the cgroup, with the password that agents do not have.
    pub fn outsider(&self, sql: &str) -> Result<Finished> {
        let mut psql = Command::new(program_path("psql"));
        psql.args(["-X", "-A", "-t", "-w", "-d", &dsn(&self.server), "-c", sql]);
        process::run(psql.env("PGPASSWORD", sample::PASSWORD), LIMIT)
    }

    /// Puts another policy in place; nobody is told.
    pub fn write_policy(&self, text: &str) -> Result<()> {
        std::fs::write(self.daemon.policies().join("test.cedar"), text).context("cannot write the policy")
    }

    /// `status --json`.
    pub fn status(&self) -> Result<Value> {
        let text = self.daemon.cli(&["status", "--json"])?.success()?;
        serde_json::from_str(&text).context("the status is no JSON")
    }

    /// Every ticket ever, as (id, state).
    pub fn tickets(&self) -> Result<Vec<(String, String)>> {
        let text = self.daemon.cli(&["approvals", "list", "--all", "--json"])?.success()?;
        let list: Value = serde_json::from_str(&text).context("the list is no JSON")?;
        let field = |ticket: &Value, key: &str| {
            ticket.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let tickets = list.as_array().context("the list is no list")?;
        Ok(tickets.iter().map(|ticket| (field(ticket, "id"), field(ticket, "state"))).collect())
    }

    /// Waits for the one ticket that is pending.
    pub fn pending(&self) -> Result<String> {
        wait::until("one pending ticket", LIMIT, || {
            let mut pending = self.tickets()?.into_iter().filter(|(_, state)| state == "pending");
            let first = pending.next().map(|(id, _)| id);
            ensure!(pending.next().is_none(), "more than one ticket waits");
            Ok(first)
        })
    }

    /// A vote from a local account.
    pub fn vote(&self, account: &str, vote: &str, ticket: &str) -> Result<Finished> {
        self.daemon.cli_as(account, &["approvals", vote, ticket])
    }

    /// Records of the log of one kind.
    pub fn records(&self, kind: &str) -> Result<Vec<Value>> {
        let text = self.daemon.cli(&["audit", "search", "--json", "--event", kind])?.success()?;
        text.lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("no record: {line}")))
            .collect()
    }

    /// Fails unless the whole log verifies.
    pub fn verify_record(&self) -> Result<()> {
        let verified = self.daemon.cli(&["audit", "verify"])?;
        ensure!(verified.status.success(), "the record does not verify: {}", verified.both());
        Ok(())
    }
}
