//! A client built on `tokio-postgres`, as agents written in Rust use it; started by `tests/tests/clients.rs` in a tagged cgroup.
//!
//! Takes a connection string, runs a plain and a prepared query over the extended protocol in binary, and prints one value of
//! each. Not part of the product.

use anyhow::{Context, Result};
use tokio_postgres::NoTls;

fn main() -> Result<()> {
    let dsn = std::env::args().nth(1).context("a connection string is missing")?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(query(&dsn))
}

async fn query(dsn: &str) -> Result<()> {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await?;
    let work = async {
        let count: i64 = client.query_one("SELECT count(*) FROM orders", &[]).await?.try_get(0)?;
        println!("{count}");
        let statement = client.prepare("SELECT email FROM customers WHERE id = $1").await?;
        for _ in 0..2 {
            let email: String = client.query_one(&statement, &[&7_i32]).await?.try_get(0)?;
            println!("{email}");
        }
        Ok(())
    };
    tokio::select! {
        result = work => result,
        ended = connection => ended.context("the connection ended").and_then(|()| anyhow::bail!("the connection closed")),
    }
}
