//! An address that is not loopback and yet leaves no packet out: on the host's loopback device, for the time of a test.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};
use chaperone_tests::{ports, process, temp};

const LIMIT: Duration = Duration::from_secs(30);

/// The address, with a relay behind it. Both are gone when dropped.
pub(crate) struct Far {
    address: SocketAddr,
    target: Arc<OnceLock<Option<SocketAddr>>>,
}

impl Far {
    pub(crate) fn new() -> Result<Self> {
        let random = u16::from_str_radix(temp::unique().get(..4).unwrap_or("1"), 16)?;
        let [high, low] = random.to_be_bytes();
        let ip = IpAddr::V4(Ipv4Addr::new(198, 18, high, low));
        let mut add = Command::new("ip");
        process::run(add.args(["addr", "add", &format!("{ip}/32"), "dev", "lo"]), LIMIT)?.success()?;
        let far = Self { address: SocketAddr::new(ip, ports::free()?), target: Arc::default() };
        let listener = TcpListener::bind(far.address).context("cannot listen at the far address")?;
        let target = Arc::clone(&far.target);
        std::thread::spawn(move || relay(&listener, &target));
        Ok(far)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Says where connections lead to; until then they wait.
    pub(crate) fn lead_to(&self, target: SocketAddr) {
        self.target.get_or_init(|| Some(target));
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.target.get_or_init(|| None);
        let mut delete = Command::new("ip");
        let address = format!("{}/32", self.address.ip());
        if let Err(error) = process::run(delete.args(["addr", "del", &address, "dev", "lo"]), LIMIT) {
            eprintln!("cannot remove {address}: {error:#}");
        }
    }
}

fn relay(listener: &TcpListener, target: &OnceLock<Option<SocketAddr>>) {
    for near in listener.incoming().flatten() {
        let Some(target) = target.wait() else { return };
        if let Ok(far) = TcpStream::connect(target) {
            let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) else { return };
            std::thread::spawn(move || one_way(&near, &far));
            std::thread::spawn(move || one_way(&far_too, &near_too));
        }
    }
}

fn one_way(mut from: &TcpStream, mut to: &TcpStream) {
    if io::copy(&mut from, &mut to).is_err() || to.shutdown(Shutdown::Write).is_err() {
        drop((from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)));
    }
}
