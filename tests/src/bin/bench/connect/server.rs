//! The server behind every way: one port that closes, one that answers, one that never stops sending.
//!
//! Threads of this process, outside the cgroup; they end with it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use anyhow::{Context, Result};

use super::stage::Load;

const CHUNK_BYTES: usize = 256 * 1024;

/// The three ports.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    close: u16,
    echo: u16,
    source: u16,
}

impl Ports {
    /// Starts the server.
    pub(super) fn open() -> Result<Self> {
        Ok(Self { close: serve(drop)?, echo: serve(echo)?, source: serve(source)? })
    }

    pub(super) fn of(self, load: Load) -> u16 {
        match load {
            Load::Close => self.close,
            Load::Echo => self.echo,
            Load::Source => self.source,
        }
    }
}

fn serve(each: fn(TcpStream)) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen")?;
    let port = listener.local_addr().context("no address")?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Small stacks: there are ten thousand of them in the largest load.
            let spawned = std::thread::Builder::new().stack_size(64 * 1024).spawn(move || each(stream));
            if let Err(error) = spawned {
                eprintln!("the server has no thread: {error}");
            }
        }
    });
    Ok(port)
}

fn echo(mut stream: TcpStream) {
    let mut message = [0; 64];
    if stream.set_nodelay(true).is_err() {
        return;
    }
    while let Ok(read @ 1..) = stream.read(&mut message) {
        if message.get(..read).is_none_or(|bytes| stream.write_all(bytes).is_err()) {
            return;
        }
    }
}

fn source(mut stream: TcpStream) {
    let chunk = vec![7_u8; CHUNK_BYTES];
    // Whoever has read enough closes.
    while stream.write_all(&chunk).is_ok() {}
}
