//! Unmodified clients, in a tagged cgroup, at the database's own address; and the same programs outside it.
//!
//! The agent holds no password, the server demands SCRAM: whoever gets rows went through the daemon. The agent has no
//! token here, which the policy of these tests permits by name.
//! Limits: the drivers are those that `cargo xtask setup` installs.

#![expect(clippy::tests_outside_test_module, reason = "the whole file is a test program")]

use std::time::Duration;

use anyhow::{Result, ensure};
use chaperone_tests::agent::{Agent, dsn};
use chaperone_tests::daemon::{Daemon, Plan};
use chaperone_tests::postgres::{Options, Server, program_path};
use chaperone_tests::process::{self, Finished};
use chaperone_tests::{sample, temp};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(60);
const AGENT: &str = "worker";
const RESOURCE: &str = "shop-db";
const COUNT: &str = "SELECT count(*) FROM orders";

const POLICY: &str = r#"
@id("anything-on-shop-db")
permit (principal == Unidentified::"worker", action, resource in Resource::"shop-db");

@id("emails-are-masked")
@mask("keep-last:4")
forbid (principal, action == Action::"readClear", resource)
when { resource.class == "pii.email" };
"#;

struct Stage {
    daemon: Daemon,
    server: Server,
    _dir: temp::Dir,
}

impl Stage {
    fn set() -> Result<Self> {
        let dir = temp::Dir::new("clients")?;
        let server = Server::start(&Options::default())?;
        let password = dir.write("password", sample::PASSWORD, 0o600)?;
        let plan = Plan::default()
            .with(&format!("[[agent]]\nname = \"{AGENT}\"\n"))
            .with(&server.resource(RESOURCE, &password))
            .policy("test.cedar", POLICY)
            .policy("columns.toml", &sample::columns_toml(RESOURCE));
        Ok(Self { daemon: Daemon::start(&plan)?, server, _dir: dir })
    }

    fn agent(&self) -> Agent<'_> {
        Agent::new(&self.daemon, AGENT)
    }

    /// `psql` as the agent with this connection string.
    fn psql(&self, dsn: &str, sql: &str) -> Result<Finished> {
        let mut psql = self.agent().command(program_path("psql"));
        process::run(psql.args(["-X", "-A", "-t", "-w", "-d", dsn, "-c", sql]), LIMIT)
    }

    /// The same program outside the cgroup; the server asks it for the password that nobody gave it.
    fn psql_outside(&self) -> Result<Finished> {
        let mut psql = std::process::Command::new(program_path("psql"));
        psql.args(["-X", "-A", "-t", "-w", "-d", &dsn(&self.server), "-c", COUNT]).env_remove("PGPASSWORD");
        process::run(&mut psql, LIMIT)
    }

    fn python(&self, text: &str) -> Result<String> {
        process::run(&mut self.agent().python(text, &[&dsn(&self.server)])?, LIMIT)?.success()
    }
}

/// What every client must have seen: the number of orders, and an e-mail address of which only the end is left.
fn require_rows(seen: &str) {
    assert!(seen.contains("1000"), "the count is missing:\n{seen}");
    assert!(seen.contains("mple") && !seen.contains("customer7"), "the e-mail is not masked:\n{seen}");
}

#[test]
fn psql_works_on_both_families_with_and_without_tls() {
    let stage = Stage::set().unwrap();
    for host in ["127.0.0.1", "::1"] {
        for mode in ["disable", "require"] {
            let dsn = format!(
                "host={host} port={} user={} dbname={} sslmode={mode}",
                stage.server.port(),
                sample::USER,
                sample::DATABASE
            );
            let seen = stage.psql(&dsn, COUNT).unwrap().success().unwrap();
            assert_eq!(seen.trim(), "1000", "{dsn}");
        }
    }
}

#[test]
fn pg_dump_writes_the_schema() {
    let stage = Stage::set().unwrap();
    let mut dump = stage.agent().command(program_path("pg_dump"));
    let seen = process::run(dump.args(["--schema-only", "-w", "-d", &dsn(&stage.server)]), LIMIT).unwrap();
    let seen = seen.success().unwrap();
    assert!(seen.contains("CREATE TABLE public.customers"), "{seen}");
    assert!(seen.contains("CREATE VIEW public.open_orders"), "{seen}");
}

#[test]
fn pgbench_runs_in_every_mode() {
    let stage = Stage::set().unwrap();
    let script =
        stage.daemon.dir().write("look.sql", "SELECT item FROM orders WHERE id = 7;\n", 0o644).unwrap();
    for mode in ["simple", "extended", "prepared"] {
        let mut bench = stage.agent().command(program_path("pgbench"));
        bench.args([
            "-n",
            "-h",
            "127.0.0.1",
            "-p",
            &stage.server.port().to_string(),
            "-U",
            sample::USER,
            "-M",
            mode,
        ]);
        bench.args(["-c", "4", "-j", "2", "-t", "50", "-f"]).arg(&script).arg(sample::DATABASE);
        let seen = process::run(&mut bench, LIMIT).unwrap().success().unwrap();
        assert!(seen.contains("200/200"), "{mode}: {seen}");
    }
}

#[test]
fn psycopg_3_works_in_text_and_binary() {
    let seen = Stage::set().unwrap().python(
        "import sys, psycopg\n\
         with psycopg.connect(sys.argv[1]) as c:\n\
         \x20   print(c.execute('SELECT count(*) FROM orders').fetchone())\n\
         \x20   for binary in (False, True):\n\
         \x20       print(c.cursor(binary=binary).execute('SELECT email FROM customers WHERE id = %s', (7,)).fetchone())\n",
    );
    require_rows(&seen.unwrap());
}

#[test]
fn psycopg_2_works() {
    let seen = Stage::set().unwrap().python(
        "import sys, psycopg2\n\
         c = psycopg2.connect(sys.argv[1]).cursor()\n\
         c.execute('SELECT count(*) FROM orders'); print(c.fetchone())\n\
         c.execute('SELECT email FROM customers WHERE id = %s', (7,)); print(c.fetchone())\n",
    );
    require_rows(&seen.unwrap());
}

#[test]
fn asyncpg_works() {
    let seen = Stage::set().unwrap().python(
        "import sys, asyncio, asyncpg\n\
         d = dict(w.split('=') for w in sys.argv[1].split())\n\
         async def main():\n\
         \x20   c = await asyncpg.connect(host=d['host'], port=int(d['port']), user=d['user'], database=d['dbname'])\n\
         \x20   print(await c.fetchval('SELECT count(*) FROM orders'))\n\
         \x20   print(await c.fetchval('SELECT email FROM customers WHERE id = $1', 7))\n\
         \x20   await c.close()\n\
         asyncio.run(main())\n",
    );
    require_rows(&seen.unwrap());
}

#[test]
fn pg8000_works() {
    let seen = Stage::set().unwrap().python(
        "import sys, pg8000\n\
         d = dict(w.split('=') for w in sys.argv[1].split())\n\
         c = pg8000.connect(host=d['host'], port=int(d['port']), user=d['user'], database=d['dbname']).cursor()\n\
         c.execute('SELECT count(*) FROM orders'); print(c.fetchone())\n\
         c.execute('SELECT email FROM customers WHERE id = %s', (7,)); print(c.fetchone())\n",
    );
    require_rows(&seen.unwrap());
}

#[test]
fn node_pg_works() {
    let stage = Stage::set().unwrap();
    let text = "const { Client } = require('pg');\n\
        const d = Object.fromEntries(process.argv[2].split(' ').map((w) => w.split('=')));\n\
        const c = new Client({ host: d.host, port: +d.port, user: d.user, database: d.dbname });\n\
        (async () => {\n\
          await c.connect();\n\
          console.log((await c.query('SELECT count(*) FROM orders')).rows[0].count);\n\
          console.log((await c.query('SELECT email FROM customers WHERE id = $1', [7])).rows[0].email);\n\
          await c.end();\n\
        })().catch((e) => { console.error(e); process.exit(1); });\n";
    let mut node = stage.agent().node(text, &[&dsn(&stage.server)]).unwrap();
    require_rows(&process::run(&mut node, LIMIT).unwrap().success().unwrap());
}

#[test]
fn tokio_postgres_works() {
    let stage = Stage::set().unwrap();
    // The agent's account may not read the folder that cargo builds into.
    let program = stage.daemon.dir().path().join("tokio-postgres-client");
    std::fs::copy(env!("CARGO_BIN_EXE_tokio-postgres-client"), &program).unwrap();
    let mut client = stage.agent().command(&program);
    require_rows(&process::run(client.arg(dsn(&stage.server)), LIMIT).unwrap().success().unwrap());
}

#[test]
fn programs_outside_the_cgroup_are_not_touched() {
    let stage = Stage::set().unwrap();
    let seen = stage.psql_outside().unwrap();
    assert!(seen.stderr.contains("no password supplied"), "{}", seen.both());
}

#[test]
fn without_the_daemon_agents_reach_nothing_and_others_everything() {
    let mut stage = Stage::set().unwrap();
    let address = dsn(&stage.server);
    assert!(stage.psql(&address, COUNT).unwrap().status.success());
    stage.daemon.stop(Signal::SIGKILL).unwrap();
    let dead = stage.psql(&address, COUNT).unwrap();
    assert!(!dead.status.success() && dead.stdout.is_empty(), "{}", dead.both());
    assert!(stage.psql_outside().unwrap().stderr.contains("no password supplied"));
    stage.daemon.launch().unwrap();
    let again = stage.psql(&address, COUNT).unwrap().success().unwrap();
    assert_eq!(again.trim(), "1000");
}

#[test]
fn a_second_daemon_on_the_same_configuration_refuses_to_start() {
    let check = || -> Result<()> {
        let stage = Stage::set()?;
        let second = stage.daemon.cli(&["daemon"])?;
        ensure!(!second.status.success(), "two daemons run");
        ensure!(stage.psql(&dsn(&stage.server), COUNT)?.status.success(), "the first daemon was disturbed");
        Ok(())
    };
    check().unwrap();
}
