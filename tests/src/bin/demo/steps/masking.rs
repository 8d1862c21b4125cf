//! Steps with plain queries: what an agent sees of sensitive columns, and a denial that keeps the session.
//!
//! The same row is first read by the database's owner outside the cgroup, for comparison and as the list of raw
//! values that must not appear in what the agent sees.

use anyhow::{Context, Result, ensure};

use crate::report::{say, show};
use crate::stage::{LIMIT, Stage};

/// The customer that is looked at.
const ID: u32 = 7;

/// The raw values of that customer's sensitive columns.
#[derive(Debug)]
struct Raw {
    email: String,
    national_id: String,
    card: String,
}

impl Raw {
    fn read(stage: &Stage) -> Result<Self> {
        let sql = format!("SELECT email, national_id, card FROM customers WHERE id = {ID}");
        let row = stage.server.query(&sql)?;
        say(&format!("the database's owner, outside the cgroup, sees: {row}"));
        let [email, national_id, card] = row
            .split('|')
            .collect::<Vec<_>>()
            .try_into()
            .map_err(|row: Vec<&str>| anyhow::anyhow!("the sample row has {} columns", row.len()))?;
        Ok(Self { email: email.to_owned(), national_id: national_id.to_owned(), card: card.to_owned() })
    }

    /// Fails when a raw value, or the telling part of one, is in the text.
    fn require_absent(&self, text: &str) -> Result<()> {
        let (lower, name) = (text.to_lowercase(), self.email.split('@').next().unwrap_or_default());
        for raw in [self.email.as_str(), name, &self.national_id, &self.card] {
            ensure!(
                !raw.is_empty() && !lower.contains(&raw.to_lowercase()),
                "the raw value `{raw}` is visible"
            );
        }
        Ok(())
    }
}

/// Simple protocol, text format.
pub(crate) fn psql(stage: &mut Stage) -> Result<String> {
    let raw = Raw::read(stage)?;
    let sql = format!("SELECT id, name, email, national_id, card, city FROM customers WHERE id = {ID}");
    let typed = stage.typed(&format!("psql -h 127.0.0.1 -p {} -c \"{sql}\"", stage.server.port()));
    let seen = show(&typed, &mut stage.agent().psql(&stage.server, &[&sql]), LIMIT)?.success()?;
    let row = seen.lines().next().context("no row came back")?;
    raw.require_absent(&seen)?;
    let cells: Vec<&str> = row.split('|').collect();
    ensure!(cells.len() == 6 && cells.first() == Some(&"7"), "the row has another shape: `{row}`");
    let tail: String = raw.card.chars().skip(raw.card.chars().count().saturating_sub(4)).collect();
    ensure!(
        cells.get(4).is_some_and(|card| card.ends_with(&tail)),
        "the card's last four are missing: `{row}`"
    );
    Ok(format!("agent sees {row}"))
}

const PSYCOPG: &str = r#"
import sys, psycopg
with psycopg.connect(sys.argv[1]) as connection:
    for binary in (False, True):
        cursor = connection.cursor(binary=binary)
        cursor.execute("SELECT id, name, email, national_id, card FROM customers WHERE id = %s", (int(sys.argv[2]),))
        print("binary" if binary else "text", cursor.fetchone())
"#;

/// Extended protocol with a bound value, text and binary results.
pub(crate) fn psycopg(stage: &mut Stage) -> Result<String> {
    let raw = Raw::read(stage)?;
    let dsn = chaperone_tests::agent::dsn(&stage.server);
    let mut python = stage.agent().python(PSYCOPG, &[&dsn, &ID.to_string()])?;
    let seen = show(&stage.typed("python3 report.py"), &mut python, LIMIT)?.success()?;
    raw.require_absent(&seen)?;
    let rows = seen.lines().filter(|line| line.contains("(7, ")).count();
    ensure!(rows == 2, "expected a text and a binary row, got:\n{seen}");
    Ok("text and binary rows arrive, no raw value in either".to_owned())
}

/// Another printed name, an expression, a subquery.
pub(crate) fn alias(stage: &mut Stage) -> Result<String> {
    let raw = Raw::read(stage)?;
    let statements = [
        format!("SELECT email AS contact, card AS number FROM customers WHERE id = {ID}"),
        format!("SELECT upper(email) AS shouting FROM customers WHERE id = {ID}"),
        format!("SELECT x.a FROM (SELECT national_id AS a FROM customers WHERE id = {ID}) AS x"),
    ];
    for sql in &statements {
        let typed = stage.typed(&format!("psql -c \"{sql}\""));
        let done = show(&typed, &mut stage.agent().psql(&stage.server, &[sql]), LIMIT)?;
        raw.require_absent(&done.both())?;
        ensure!(
            done.status.success() && !done.stdout.trim().is_empty(),
            "`{sql}` gave no row: {}",
            done.both()
        );
    }
    Ok(format!("{} disguises, each answered with a masked value", statements.len()))
}

/// A denial through the protocol's own error, and the next statement on the same session.
pub(crate) fn denied_drop(stage: &mut Stage) -> Result<String> {
    let statements = ["DROP TABLE orders", "SELECT count(*) FROM orders"];
    let typed = stage.typed("psql -c \"DROP TABLE orders\" -c \"SELECT count(*) FROM orders\"");
    let done = show(&typed, &mut stage.agent().psql(&stage.server, &statements), LIMIT)?;
    ensure!(done.stderr.contains("ERROR"), "no error was reported");
    ensure!(done.stderr.contains("no-ddl-on-prod"), "the error does not name the policy");
    ensure!(
        !done.stderr.contains("FATAL") && !done.stderr.contains("connection"),
        "the session did not survive"
    );
    ensure!(done.stdout.trim() == "1000", "the next statement on the session did not answer");
    ensure!(stage.server.query("SELECT count(*) FROM orders")? == "1000", "the table is not what it was");
    Ok("ERROR names `no-ddl-on-prod`; same session then counts 1000 orders".to_owned())
}
