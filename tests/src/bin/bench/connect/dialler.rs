//! The clients of `bench connect`: started inside or outside the cgroup, they print what they measured.
//!
//! Each prints three numbers; those that have fewer print zeroes. Times are in microseconds.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result};
use chaperone::clock::Clock;

const MESSAGE_BYTES: usize = 64;
const CHUNK_BYTES: usize = 256 * 1024;

/// Connects one after the other, each until the other end is gone: the median of `connect()`, its 99th per cent, and how many
/// whole connections per second.
pub(crate) fn dial(address: &str, count: &str) -> Result<()> {
    let count: u32 = count.parse().context("the number of connections is no number")?;
    let clock = Clock::system();
    let mut taken = Vec::new();
    let begin = clock.instant();
    for _ in 0..count {
        let start = clock.instant();
        let mut stream =
            TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        taken.push(clock.instant().duration_since(start));
        // An end and a reset are the same here: it is over.
        let _over = stream.read(&mut [0; 16]);
    }
    let rate = f64::from(count) / clock.instant().duration_since(begin).as_secs_f64();
    let (half, hundredth) = (part(&mut taken, 50), part(&mut taken, 99));
    println!("{half:.2} {hundredth:.2} {rate:.1}");
    Ok(())
}

/// Connects again and again and waits for nobody: the median of `connect()` and its 99th per cent. Before each it walks over so
/// many bytes of memory, which leaves nothing in the processor's caches if they are more than those hold.
pub(crate) fn knock(address: &str, count: &str, bytes: &str) -> Result<()> {
    let count: u32 = count.parse().context("the number of connections is no number")?;
    let mut memory = vec![0_u8; bytes.parse().context("the number of bytes is no number")?];
    let clock = Clock::system();
    let mut taken = Vec::new();
    for _ in 0..count {
        memory.iter_mut().step_by(64).for_each(|byte| *byte = byte.wrapping_add(1));
        let start = clock.instant();
        let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        taken.push(clock.instant().duration_since(start));
        drop(stream);
    }
    println!("{:.2} {:.2} 0", part(&mut taken, 50), part(&mut taken, 99));
    Ok(())
}

/// Sends 64 bytes and waits for them to come back: the median and the 99th per cent.
pub(crate) fn ping(address: &str, count: &str) -> Result<()> {
    let count: u32 = count.parse().context("the number of round trips is no number")?;
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true).context("cannot set nodelay")?;
    let clock = Clock::system();
    let mut taken = Vec::new();
    let mut message = [7_u8; MESSAGE_BYTES];
    for _ in 0..count {
        let start = clock.instant();
        stream.write_all(&message).context("cannot send")?;
        stream.read_exact(&mut message).context("nothing came back")?;
        taken.push(clock.instant().duration_since(start));
    }
    println!("{:.2} {:.2} 0", part(&mut taken, 50), part(&mut taken, 99));
    Ok(())
}

/// Reads so many bytes: gigabytes per second.
pub(crate) fn bulk(address: &str, bytes: &str) -> Result<()> {
    let wanted: u64 = bytes.parse().context("the number of bytes is no number")?;
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    let clock = Clock::system();
    let start = clock.instant();
    let (mut chunk, mut left) = (vec![0_u8; CHUNK_BYTES], wanted);
    while left > 0 {
        let read = stream.read(&mut chunk).context("cannot read")?;
        anyhow::ensure!(read > 0, "the stream ended {left} bytes early");
        left = left.saturating_sub(u64::try_from(read)?);
    }
    let seconds = clock.instant().duration_since(start).as_secs_f64();
    let billions = f64::from(u32::try_from(wanted / 1_000_000).unwrap_or(u32::MAX)) / 1000.0;
    println!("{:.3} 0 0", billions / seconds);
    Ok(())
}

/// Opens connections, says so, and keeps them until it is ended.
pub(crate) fn hold(address: &str, count: &str) -> Result<()> {
    let count: usize = count.parse().context("the number of connections is no number")?;
    let mut held = Vec::new();
    for _ in 0..count {
        let mut stream =
            TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        // There and back, so that it stands all the way.
        stream.write_all(b"x").context("cannot send")?;
        stream.read_exact(&mut [0; 1]).context("nothing came back")?;
        held.push(stream);
    }
    println!("{} open", held.len());
    std::io::stdout().flush().context("cannot print")?;
    loop {
        std::thread::park();
    }
}

/// The time that this many per cent stayed below, in microseconds.
fn part(taken: &mut [Duration], per_cent: usize) -> f64 {
    taken.sort_unstable();
    let at = taken.len() * per_cent / 100;
    taken.get(at).or(taken.last()).map_or(0.0, |time| time.as_secs_f64() * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_off_the_sorted_times() {
        let mut times: Vec<Duration> = (1..=100).rev().map(Duration::from_micros).collect();
        assert!((part(&mut times, 50) - 51.0).abs() < 0.01);
        assert!((part(&mut times, 99) - 100.0).abs() < 0.01);
    }
}
