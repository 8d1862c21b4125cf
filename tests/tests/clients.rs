//! Unmodified clients, in a tagged cgroup, at the database's own address; and the same programs outside it.
//!
//! The agent holds no password, the server demands SCRAM: whoever gets rows went through the daemon. The agent has no
//! token here, which the policy of these tests permits by name.
//! Limits: the drivers are those that `cargo xtask setup` installs.

#![expect(clippy::tests_outside_test_module, reason = "the whole file is a test program")]

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
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
    let mut psql = Command::new(program_path("psql"));
    psql.args(["-X", "-A", "-t", "-w", "-d", &dsn(&shop.server), "-c", COUNT]).env_remove("PGPASSWORD");
    process::run(&mut psql, LIMIT)
}

/// Loopback of both families.
const HOSTS: &[&str] = &["127.0.0.1", "::1"];

/// Plain and encrypted connections to the server's own address.
fn ways(shop: &Shop, hosts: &[&str]) -> Vec<String> {
    let (port, user, database) = (shop.server.port(), sample::USER, sample::DATABASE);
    let all = hosts.iter().flat_map(|host| ["disable", "require"].map(|mode| (host, mode)));
    all.map(|(host, mode)| format!("host={host} port={port} user={user} dbname={database} sslmode={mode}"))
        .collect()
}

/// Runs a client on every way and fails unless it sees what it must, encrypted where it asked for it.
fn on_every_way(hosts: &[&str], client: impl Fn(&Shop, &str) -> Result<Command>) -> Result<()> {
    let shop = open()?;
    let ways = ways(&shop, hosts);
    for way in &ways {
        let seen = process::run(&mut client(&shop, way)?, LIMIT)?;
        let seen = seen.success().with_context(|| way.clone())?;
        // The number of orders, and an e-mail address of which only the end is left.
        ensure!(seen.contains("1000"), "{way}: the count is missing:\n{seen}");
        ensure!(
            seen.contains("mple") && !seen.contains("customer7"),
            "{way}: the e-mail is not masked:\n{seen}"
        );
    }
    let opened = shop.records("session_opened")?;
    let encrypted: Vec<bool> = opened.iter().map(|one| one["client_tls"] == true).collect();
    let wanted: Vec<bool> = ways.iter().map(|way| way.ends_with("require")).collect();
    ensure!(encrypted == wanted, "encrypted: {encrypted:?}");
    Ok(())
}

/// The same for a Python program that gets the words of the connection string as `d` and the string as `dsn`.
fn python_on_every_way(hosts: &[&str], text: &str) -> Result<()> {
    let start = "import sys\ndsn = sys.argv[1]\nd = dict(w.split('=') for w in dsn.split())\n\
        tls = d['sslmode'] == 'require'\n";
    on_every_way(hosts, |shop, way| shop.agent().python(&format!("{start}{text}"), &[way]))
}

#[test]
fn psql_works_on_both_families_with_and_without_tls() {
    let sql = "SELECT count(*) FROM orders; SELECT email FROM customers WHERE id = 7";
    on_every_way(HOSTS, |shop, way| {
        let mut psql = shop.agent().command(program_path("psql"));
        psql.args(["-X", "-A", "-t", "-w", "-d", way, "-c", sql]);
        Ok(psql)
    })
    .unwrap();
}

#[test]
fn pg_dump_writes_the_schema() {
    let shop = open().unwrap();
    for way in ways(&shop, HOSTS) {
        let mut dump = shop.agent().command(program_path("pg_dump"));
        let seen = process::run(dump.args(["--schema-only", "-w", "-d", &way]), LIMIT).unwrap();
        let seen = seen.success().unwrap();
        assert!(seen.contains("CREATE TABLE public.customers"), "{way}: {seen}");
        assert!(seen.contains("CREATE VIEW public.open_orders"), "{way}: {seen}");
    }
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
    for way in ways(&shop, HOSTS) {
        for mode in ["simple", "extended", "prepared"] {
            let mut bench = shop.agent().command(program_path("pgbench"));
            bench.args(["-n", "-M", mode, "-c", "4", "-j", "2", "-t", "50", "-f"]).arg(&script).arg(&way);
            let seen = process::run(&mut bench, LIMIT).unwrap().success().unwrap();
            assert!(seen.contains("200/200"), "{way}, {mode}: {seen}");
        }
    }
}

#[test]
fn psycopg_3_works_in_text_and_binary() {
    python_on_every_way(
        HOSTS,
        "import psycopg\n\
         with psycopg.connect(dsn) as c:\n\
         \x20   print(c.execute('SELECT count(*) FROM orders').fetchone())\n\
         \x20   for binary in (False, True):\n\
         \x20       print(c.cursor(binary=binary).execute('SELECT email FROM customers WHERE id = %s', (7,)).fetchone())\n",
    )
    .unwrap();
}

#[test]
fn psycopg_2_works() {
    python_on_every_way(
        HOSTS,
        "import psycopg2\n\
         c = psycopg2.connect(dsn).cursor()\n\
         c.execute('SELECT count(*) FROM orders'); print(c.fetchone())\n\
         c.execute('SELECT email FROM customers WHERE id = %s', (7,)); print(c.fetchone())\n",
    )
    .unwrap();
}

#[test]
fn asyncpg_works() {
    python_on_every_way(
        HOSTS,
        "import asyncio, asyncpg\n\
         async def main():\n\
         \x20   c = await asyncpg.connect(host=d['host'], port=int(d['port']), user=d['user'], database=d['dbname'],\n\
         \x20       ssl=d['sslmode'])\n\
         \x20   print(await c.fetchval('SELECT count(*) FROM orders'))\n\
         \x20   print(await c.fetchval('SELECT email FROM customers WHERE id = $1', 7))\n\
         \x20   await c.close()\n\
         asyncio.run(main())\n",
    )
    .unwrap();
}

#[test]
fn pg8000_works() {
    // This version of the driver opens IPv4 sockets only.
    python_on_every_way(
        &["127.0.0.1"],
        "import pg8000\n\
         c = pg8000.connect(host=d['host'], port=int(d['port']), user=d['user'], database=d['dbname'],\n\
         \x20   ssl=tls).cursor()\n\
         c.execute('SELECT count(*) FROM orders'); print(c.fetchone())\n\
         c.execute('SELECT email FROM customers WHERE id = %s', (7,)); print(c.fetchone())\n",
    )
    .unwrap();
}

#[test]
fn node_pg_works() {
    let text = "const { Client } = require('pg');\n\
        const d = Object.fromEntries(process.argv[2].split(' ').map((w) => w.split('=')));\n\
        const ssl = d.sslmode === 'require' ? { rejectUnauthorized: false } : false;\n\
        const c = new Client({ host: d.host, port: +d.port, user: d.user, database: d.dbname, ssl });\n\
        (async () => {\n\
          await c.connect();\n\
          console.log((await c.query('SELECT count(*) FROM orders')).rows[0].count);\n\
          console.log((await c.query('SELECT email FROM customers WHERE id = $1', [7])).rows[0].email);\n\
          await c.end();\n\
        })().catch((e) => { console.error(e); process.exit(1); });\n";
    on_every_way(HOSTS, |shop, way| shop.agent().node(text, &[way])).unwrap();
}

#[test]
fn tokio_postgres_works() {
    on_every_way(HOSTS, |shop, way| {
        // The agent's account may not read the folder that cargo builds into, nor the daemon's state.
        let dir = shop.daemon.dir().path();
        let (program, authority) = (dir.join("tokio-postgres-client"), dir.join("authority.pem"));
        std::fs::copy(env!("CARGO_BIN_EXE_tokio-postgres-client"), &program)?;
        std::fs::copy(shop.daemon.state().join("ca/ca.pem"), &authority)?;
        let mut client = shop.agent().command(&program);
        client.arg(way).arg(authority);
        Ok(client)
    })
    .unwrap();
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
