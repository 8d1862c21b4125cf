//! Measures what one append to the record costs: `cargo run --release --example append -- DIR`.
//!
//! Prints the mean over many records. A tool for developers, not a test.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

use chaperone::audit::{Event, Log, Settings};
use chaperone::clock::Clock;
use chaperone::model::{
    AgentName, BundleHash, Decision, Operation, Reasons, RequestId, SessionId, UnixMillis, Verdict,
};
use chaperone::shutdown::Shutdown;

const COUNT: u32 = 200_000;

fn main() -> anyhow::Result<()> {
    let dir = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = dir.join(format!("append-{}", std::process::id()));
    let settings = Settings {
        dir: dir.clone(),
        sync_every: Duration::from_millis(20),
        checkpoint_every: Duration::from_secs(1),
    };
    let clock = Clock::system();
    let log = Log::open(&settings, &clock, &Shutdown::default())?;
    let agent = AgentName("reporter".to_owned());
    let decision = Decision {
        verdict: Verdict::Allow,
        reasons: Reasons { policies: vec!["reporter-reads-and-writes-orders".to_owned()], errors: vec![] },
        bundle: BundleHash("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".to_owned()),
    };
    let operation = Operation::unknown();
    let appender = log.appender();
    let start = clock.instant();
    for number in 0..COUNT {
        appender.append(&Event::RequestDecided {
            request: RequestId { session: SessionId(1), number: number.into() },
            agent: Cow::Borrowed(&agent),
            subject: Some("svc_reporter".into()),
            resource: "orders-db".into(),
            statement: "select id, email, total from orders where customer = $1 order by id limit 10".into(),
            values: Cow::Borrowed(&[]),
            operation: Cow::Borrowed(&operation),
            decision: Cow::Borrowed(&decision),
            ticket: None,
            masks: Cow::Borrowed(&[]),
        })?;
    }
    let took = start.elapsed();
    println!("{} ns per append", took.as_nanos() / u128::from(COUNT));
    drop(log);
    let start = clock.instant();
    let report = chaperone::audit::verify(&dir)?;
    let bytes = report.bytes.checked_div(report.records).unwrap_or(0);
    println!("{bytes} bytes per record; verified {} bytes in {:?}", report.bytes, start.elapsed());
    println!("first record at {:?}", report.first.map(|UnixMillis(millis)| millis));
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
