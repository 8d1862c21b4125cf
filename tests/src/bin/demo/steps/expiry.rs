//! The step with a short token: a session works, the token runs out, the session is refused, a new token heals.
//!
//! The daemon allows the usual half minute of clock skew; the token is dated so that the end comes soon anyway.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::report::{say, show};
use crate::stage::{LIMIT, Stage};

/// How long the daemon shall still accept the token.
const LIFE: Duration = Duration::from_secs(15);

const PROGRAM: &str = r#"
import sys, time, psycopg
connection = psycopg.connect(sys.argv[1], autocommit=True)
start = time.monotonic()
good = 0
while time.monotonic() - start < 45:
    try:
        connection.execute("SELECT count(*) FROM orders").fetchone()
        good += 1
    except psycopg.Error as error:
        print(f"after {time.monotonic() - start:.1f} s and {good} good answers: {error.sqlstate} {error}")
        break
    time.sleep(0.5)
else:
    print(f"still answered after {good} queries")
"#;

/// One session across the token's end.
pub(crate) fn mid_session(stage: &mut Stage) -> Result<String> {
    let dsn = chaperone_tests::agent::dsn(&stage.server);
    stage.replace_token(LIFE)?;
    say(&format!("the agent's token now ends in {} s", LIFE.as_secs()));
    // The daemon notices the swapped file by itself.
    std::thread::sleep(Duration::from_secs(2));
    let mut python = stage.agent().python(PROGRAM, &[&dsn])?;
    let shown = show(&stage.typed("python3 poll.py"), &mut python, LIMIT);
    stage.restore_token()?;
    let text = shown?.success()?;
    ensure!(!text.contains("still answered"), "an expired token was still good");
    ensure!(!text.contains(" 0 good answers"), "the session never worked");
    ensure!(
        text.contains("28000") || text.contains("expired"),
        "the error does not say that the identity expired"
    );
    std::thread::sleep(Duration::from_secs(2));
    let healed = show(
        &stage.typed("psql -c \"SELECT count(*) FROM orders\"   (with a new token)"),
        &mut stage.agent().psql(&stage.server, &["SELECT count(*) FROM orders"]),
        LIMIT,
    )?;
    ensure!(healed.stdout.trim() == "1000", "a new token does not help");
    let line = text.lines().next().unwrap_or_default();
    Ok(format!("{line}; a new token works again"))
}
