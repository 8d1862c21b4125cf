//! Another machine: a network namespace behind a pair of virtual links, with servers in it.
//!
//! Its addresses are random ones of the benchmark network 198.18.0.0/15 (RFC 2544) and of a local IPv6 prefix, so that runs
//! beside each other rarely meet and nothing real is reached. Dropping it ends its servers and takes namespace and links away.
//! Limits: needs root and `ip`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::process::{self, Process};
use crate::{temp, wait};

const LIMIT: Duration = Duration::from_secs(30);

/// The namespace and its servers.
#[derive(Debug)]
pub struct Outside {
    servers: Vec<Process>,
    name: String,
    dir: temp::Dir,
    network: u16,
}

impl Outside {
    /// Makes the namespace and connects it.
    pub fn new() -> Result<Self> {
        let unique = temp::unique();
        let tag = unique.get(..8).context("a unique text is too short")?.to_owned();
        let network = u16::from_str_radix(tag.get(..4).unwrap_or_default(), 16).unwrap_or(0) & 0x7fff;
        let outside = Self {
            servers: Vec::new(),
            name: format!("cht-{tag}"),
            dir: temp::Dir::new("outside")?,
            network,
        };
        let Self { name, .. } = &outside;
        let inside = format!("{name}i");
        ip(&["netns", "add", name])?;
        ip(&["link", "add", name, "type", "veth", "peer", "name", &inside, "netns", name])?;
        for (command, device, v4, v6) in [
            (vec![], name.as_str(), outside.host(), outside.host6()),
            (vec!["-n", name], inside.as_str(), outside.v4(), outside.v6()),
        ] {
            let with = |rest: &[&str]| ip(&[command.as_slice(), rest].concat());
            with(&["addr", "add", &format!("{v4}/30"), "dev", device])?;
            with(&["addr", "add", &format!("{v6}/64"), "dev", device, "nodad"])?;
            with(&["link", "set", device, "up"])?;
        }
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        Ok(outside)
    }

    /// The other machine's IPv4 address.
    #[must_use]
    pub fn v4(&self) -> IpAddr {
        self.address4(2)
    }

    /// The other machine's IPv6 address.
    #[must_use]
    pub fn v6(&self) -> IpAddr {
        self.address6(2)
    }

    /// This machine's IPv4 address towards it.
    #[must_use]
    pub fn host(&self) -> IpAddr {
        self.address4(1)
    }

    fn host6(&self) -> IpAddr {
        self.address6(1)
    }

    fn address4(&self, last: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(0xc612_0000 | u32::from(self.network) << 2 | last))
    }

    fn address6(&self, last: u16) -> IpAddr {
        IpAddr::V6(Ipv6Addr::new(0xfd2c, 0x51a7, self.network, 0, 0, 0, 0, last))
    }

    /// Starts a Python program on the other machine; it must listen on `port` of every address. Its output goes to a file.
    pub fn serve(&mut self, port: u16, script: &str) -> Result<std::path::PathBuf> {
        let file = self.dir.write(&format!("{}.py", temp::unique()), script, 0o644)?;
        let log = self.dir.path().join(format!("{port}.log"));
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name, "/usr/bin/python3", "-Bu"])
            .arg(file)
            .arg(port.to_string());
        let mut server = Process::start("a server outside", &mut command, &log, Signal::SIGTERM)?;
        let listening = || {
            let mut list = Command::new("ip");
            list.args(["netns", "exec", &self.name, "ss", "-Hltn", &format!("sport = :{port}")]);
            Ok((!process::run(&mut list, LIMIT)?.success()?.trim().is_empty()).then_some(()))
        };
        server.wait_ready(LIMIT, listening)?;
        self.servers.push(server);
        Ok(log)
    }

    /// What a server has written, once it has written as many lines as that.
    pub fn lines(&self, log: &std::path::Path, count: usize) -> Result<Vec<String>> {
        wait::until("what a server outside writes", LIMIT, || {
            let text = std::fs::read_to_string(log).context("cannot read a server's output")?;
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            Ok((lines.len() >= count).then_some(lines))
        })
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.servers.clear();
        // The link on this side goes with its other end; an error means that it was never made.
        drop(ip(&["link", "del", &self.name]));
        if let Err(error) = ip(&["netns", "del", &self.name]) {
            eprintln!("cannot remove a network namespace: {error:#}");
        }
    }
}

fn ip(words: &[&str]) -> Result<String> {
    process::run(Command::new("ip").args(words), LIMIT)?
        .success()
        .with_context(|| format!("`ip {}` failed", words.join(" ")))
}
