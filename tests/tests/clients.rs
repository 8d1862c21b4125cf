//! Unmodified clients, in a tagged cgroup, at the database's own address; and the same programs outside it.
//!
//! The agent holds no password, the server demands SCRAM: whoever gets rows went through the daemon. The agent has no
//! token here, which the policy of these tests permits by name.
//! Limits: the drivers are those that `cargo xtask setup` installs.

#![expect(clippy::tests_outside_test_module, reason = "the whole file is a test program")]

use std::time::Duration;

use anyhow::{Result, ensure};
use chaperone_tests::agent::dsn;
use chaperone_tests::postgres::program_path;
use chaperone_tests::process::{self, Finished};
use chaperone_tests::sample;
use chaperone_tests::shop::{Setup, Shop};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(60);
const COUNT: &str = "SELECT count(*) FROM orders";

const POLICY: &str = r#"
@id("anything-on-shop-db")
permit (principal == Unidentified::"worker", action, resource in Resource::"shop-db");

@id("emails-are-masked")
@mask("keep-last:4")
forbid (principal, action == Action::"readClear", resource)
when { resource.class == "pii.email" };
"#;

fn open() -> Result<Shop> {
    Shop::open(&Setup::under(POLICY))
}

/// `psql` as the agent with this connection string.
fn psql(shop: &Shop, dsn: &str, sql: &str) -> Result<Finished> {
    let mut psql = shop.agent().command(program_path("psql"));
    process::run(psql.args(["-X", "-A", "-t", "-w", "-d", dsn, "-c", sql]), LIMIT)
}

/// The same program outside the cgroup; the server asks it for the password that nobody gave it.
fn psql_outside(shop: &Shop) -> Result<Finished> {
    let mut psql = std::process::Command::new(program_path("psql"));
    psql.args(["-X", "-A", "-t", "-w", "-d", &dsn(&shop.server), "-c", COUNT]).env_remove("PGPASSWORD");
    process::run(&mut psql, LIMIT)
}

/// What a Python program prints that gets the connection string as its argument.
fn python(text: &str) -> Result<String> {
    let shop = open()?;
    let mut python = shop.agent().python(text, &[&dsn(&shop.server)])?;
    process::run(&mut python, LIMIT)?.success()
}

/// What every client must have seen: the number of orders, and an e-mail address of which only the end is left.
fn require_rows(seen: &str) {
    assert!(seen.contains("1000"), "the count is missing:\n{seen}");
    assert!(seen.contains("mple") && !seen.contains("customer7"), "the e-mail is not masked:\n{seen}");
}

#[test]
fn psql_works_on_both_families_with_and_without_tls() {
    let shop = open().unwrap();
    for host in ["127.0.0.1", "::1"] {
        for mode in ["disable", "require"] {
            let dsn = format!(
                "host={host} port={} user={} dbname={} sslmode={mode}",
                shop.server.port(),
                sample::USER,
                sample::DATABASE
            );
            let seen = psql(&shop, &dsn, COUNT).unwrap().success().unwrap();
            assert_eq!(seen.trim(), "1000", "{dsn}");
        }
    }
}

#[test]
fn pg_dump_writes_the_schema() {
    let shop = open().unwrap();
    let mut dump = shop.agent().command(program_path("pg_dump"));
    let seen = process::run(dump.args(["--schema-only", "-w", "-d", &dsn(&shop.server)]), LIMIT).unwrap();
    let seen = seen.success().unwrap();
    assert!(seen.contains("CREATE TABLE public.customers"), "{seen}");
    assert!(seen.contains("CREATE VIEW public.open_orders"), "{seen}");
}

#[test]
fn psql_copies_a_file_into_a_table() {
    let shop = open().unwrap();
    let lines: String = (5001..=5003).map(|id| format!("{id},1,lamp,1.00,new,2024-01-01\n")).collect();
    let file = shop.daemon.dir().write("orders.csv", lines, 0o644).unwrap();
    let copy = format!("\\copy orders FROM '{}' WITH (FORMAT csv)", file.display());
    let seen = psql(&shop, &dsn(&shop.server), &copy).unwrap().success().unwrap();
    assert_eq!(seen.trim(), "COPY 3");
    assert_eq!(shop.server.query(COUNT).unwrap(), "1003");
    let ended = shop.records("request_ended").unwrap();
    assert!(ended.iter().any(|end| end["tally"]["rows"] == 3), "{ended:?}");
}

#[test]
fn pgbench_runs_in_every_mode() {
    let shop = open().unwrap();
    let script =
        shop.daemon.dir().write("look.sql", "SELECT item FROM orders WHERE id = 7;\n", 0o644).unwrap();
    for mode in ["simple", "extended", "prepared"] {
        let mut bench = shop.agent().command(program_path("pgbench"));
        bench.args([
            "-n",
            "-h",
            "127.0.0.1",
            "-p",
            &shop.server.port().to_string(),
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
    let seen = python(
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
    let seen = python(
        "import sys, psycopg2\n\
         c = psycopg2.connect(sys.argv[1]).cursor()\n\
         c.execute('SELECT count(*) FROM orders'); print(c.fetchone())\n\
         c.execute('SELECT email FROM customers WHERE id = %s', (7,)); print(c.fetchone())\n",
    );
    require_rows(&seen.unwrap());
}

#[test]
fn asyncpg_works() {
    let seen = python(
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
    let seen = python(
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
    let shop = open().unwrap();
    let text = "const { Client } = require('pg');\n\
        const d = Object.fromEntries(process.argv[2].split(' ').map((w) => w.split('=')));\n\
        const c = new Client({ host: d.host, port: +d.port, user: d.user, database: d.dbname });\n\
        (async () => {\n\
          await c.connect();\n\
          console.log((await c.query('SELECT count(*) FROM orders')).rows[0].count);\n\
          console.log((await c.query('SELECT email FROM customers WHERE id = $1', [7])).rows[0].email);\n\
          await c.end();\n\
        })().catch((e) => { console.error(e); process.exit(1); });\n";
    let mut node = shop.agent().node(text, &[&dsn(&shop.server)]).unwrap();
    require_rows(&process::run(&mut node, LIMIT).unwrap().success().unwrap());
}

#[test]
fn tokio_postgres_works() {
    let shop = open().unwrap();
    // The agent's account may not read the folder that cargo builds into.
    let program = shop.daemon.dir().path().join("tokio-postgres-client");
    std::fs::copy(env!("CARGO_BIN_EXE_tokio-postgres-client"), &program).unwrap();
    let mut client = shop.agent().command(&program);
    require_rows(&process::run(client.arg(dsn(&shop.server)), LIMIT).unwrap().success().unwrap());
}

#[test]
fn programs_outside_the_cgroup_are_not_touched() {
    let shop = open().unwrap();
    let seen = psql_outside(&shop).unwrap();
    assert!(seen.stderr.contains("no password supplied"), "{}", seen.both());
}

#[test]
fn without_the_daemon_agents_reach_nothing_and_others_everything() {
    let mut shop = open().unwrap();
    let address = dsn(&shop.server);
    assert!(psql(&shop, &address, COUNT).unwrap().status.success());
    shop.daemon.stop(Signal::SIGKILL).unwrap();
    let dead = psql(&shop, &address, COUNT).unwrap();
    assert!(!dead.status.success() && dead.stdout.is_empty(), "{}", dead.both());
    assert!(psql_outside(&shop).unwrap().stderr.contains("no password supplied"));
    shop.daemon.launch().unwrap();
    let again = psql(&shop, &address, COUNT).unwrap().success().unwrap();
    assert_eq!(again.trim(), "1000");
}

#[test]
fn a_second_daemon_on_the_same_configuration_refuses_to_start() {
    let check = || -> Result<()> {
        let shop = open()?;
        let second = shop.daemon.cli(&["daemon"])?;
        ensure!(!second.status.success(), "two daemons run");
        ensure!(psql(&shop, &dsn(&shop.server), COUNT)?.status.success(), "the first daemon was disturbed");
        Ok(())
    };
    check().unwrap();
}
