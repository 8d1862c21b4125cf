//! Into a network namespace: find the one that an agent's process is in, and open the proxy's port there.
//!
//! A namespace belongs to a thread, so a thread of its own enters, makes the sockets and ends; the daemon's other threads
//! never leave the host's namespace. Sockets keep the namespace and the cgroup they were made in: the daemon's cgroup.
//! Refuses: a process that is not, or no longer, below the agents' parent. Everything about a process is read through its
//! directory, opened once, so that a pid that is used again yields errors and not another process's namespace.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};

use proxy_common::names::SLOTS;

use super::listener::lacks_ipv6;
use super::namespaces::NamespaceError;
use super::sys;

/// Which namespace: device and inode of its file. Unique as long as something holds the namespace.
pub(super) type Place = (u64, u64);

/// The namespace of one agent's process, held open.
#[derive(Debug)]
pub(super) struct Found {
    /// Which it is.
    pub(super) place: Place,
    /// Name of the cgroup right below the agents' parent that the process is in.
    pub(super) account: String,
    netns: File,
}

/// The daemon's sockets in one namespace. What else is to listen there is made in [`Found::open`], too.
#[derive(Debug)]
pub(super) struct Inside {
    pub(super) cookie: u64,
    pub(super) v4: TcpListener,
    /// Absent where the kernel has no IPv6.
    pub(super) v6: Option<TcpListener>,
    /// The resolver's ports, none where it is switched off.
    pub(super) names: Vec<UdpSocket>,
}

/// The namespace that this process is in: the host's.
pub(super) fn own() -> io::Result<Place> {
    place_of(Path::new("/proc/self/ns/net"))
}

/// The namespace behind a file of `/proc`.
pub(super) fn place_of(file: &Path) -> io::Result<Place> {
    fs::metadata(file).map(|facts| (facts.dev(), facts.ino()))
}

impl Found {
    /// Looks at the process, or thread, whose directory this is. `parent` is the agents' parent below the cgroup2 mount.
    pub(super) fn of(directory: &Path, parent: &Path) -> Result<Self, NamespaceError> {
        let gone = |source| NamespaceError::Process { path: directory.to_owned(), source };
        let directory_file = File::open(directory).map_err(gone)?;
        let through =
            |name: &str| PathBuf::from(format!("/proc/self/fd/{}/{name}", directory_file.as_raw_fd()));
        let account = || {
            let text = fs::read_to_string(through("cgroup")).map_err(gone)?;
            account_in(&text, parent).ok_or_else(|| NamespaceError::NotAnAgent { path: directory.to_owned() })
        };
        let before = account()?;
        let netns = File::open(through("ns/net")).map_err(gone)?;
        // Whoever was moved out meanwhile may have changed its namespace since.
        if account()? != before {
            return Err(NamespaceError::NotAnAgent { path: directory.to_owned() });
        }
        let facts = netns.metadata().map_err(gone)?;
        Ok(Self { place: (facts.dev(), facts.ino()), account: before, netns })
    }

    /// Opens the proxy's port in it, and the resolver's from `names` on.
    pub(super) fn open(self, port: u16, names: Option<u16>) -> Result<Inside, NamespaceError> {
        let enter = |action, source| NamespaceError::Enter { action, source };
        let thread = std::thread::Builder::new().name("namespace".to_owned()).spawn(move || {
            setns(&self.netns, CloneFlags::CLONE_NEWNET)
                .map_err(|source| enter("enter it", source.into()))?;
            listen_here(port, names)
        });
        let thread = thread.map_err(|source| enter("start a thread for it", source))?;
        thread.join().unwrap_or_else(|_| Err(enter("enter it", io::Error::other("its thread ended early"))))
    }
}

fn listen_here(port: u16, names: Option<u16>) -> Result<Inside, NamespaceError> {
    let port_taken =
        |address: SocketAddr| move |source: io::Error| NamespaceError::Port { port: address.port(), source };
    let (v4, v6) =
        (SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port)));
    let first = listener(v4).map_err(port_taken(v4))?;
    let second = match listener(v6) {
        Ok(listener) => Some(listener),
        Err(problem) if lacks_ipv6(&problem) => None,
        Err(source) => return Err(port_taken(v6)(source)),
    };
    let cookie = sys::netns_cookie(&first)
        .map_err(|source| NamespaceError::Enter { action: "ask for its cookie", source })?;
    let names = names.map_or_else(|| Ok(Vec::new()), |first| questions(first, second.is_some()))?;
    Ok(Inside { cookie, v4: first, v6: second, names })
}

/// The resolver's ports on loopback.
fn questions(first: u16, six: bool) -> Result<Vec<UdpSocket>, NamespaceError> {
    let slots = u16::try_from(SLOTS).unwrap_or(u16::MAX);
    let hosts = [Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), six.then_some(IpAddr::V6(Ipv6Addr::LOCALHOST))];
    let ports = first..first.saturating_add(slots);
    let addresses =
        ports.flat_map(|port| hosts.into_iter().flatten().map(move |ip| SocketAddr::new(ip, port)));
    addresses
        .map(|address| {
            let opened = made(address, SockType::Datagram).map(UdpSocket::from);
            opened.map_err(|source| NamespaceError::Port { port: address.port(), source })
        })
        .collect()
}

/// A listener at an address that need not be there yet: a new namespace's loopback is down until somebody raises it.
fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = made(address, SockType::Stream)?;
    listen(&socket, Backlog::MAXCONN)?;
    Ok(TcpListener::from(socket))
}

fn made(address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket: OwnedFd = socket(family, kind, flags, None)?;
    setsockopt(&socket, sockopt::IpFreebind, &true)?;
    // A restarted daemon must not wait for the old one's finished connections. Datagrams have none, and two that share a port would
    // take each other's.
    setsockopt(&socket, sockopt::ReuseAddr, &(kind == SockType::Stream))?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
}

/// The name right below `parent` in a process's `/proc/PID/cgroup`; `None` outside.
pub(super) fn account_in(text: &str, parent: &Path) -> Option<String> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let parent = Path::new("/").join(parent.strip_prefix("/").unwrap_or(parent));
    let below = Path::new(path).strip_prefix(parent).ok()?;
    // A process right in the parent has the account with the empty name.
    Some(below.iter().next().map_or_else(String::new, |name| name.to_string_lossy().into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_processes_below_the_parent_have_an_account() {
        let of = |text| account_in(text, Path::new("a/agents.slice"));
        assert_eq!(of("1:name=x:/\n0::/a/agents.slice/reporter/1\n").as_deref(), Some("reporter"));
        assert_eq!(of("0::/a/agents.slice\n").as_deref(), Some(""));
        assert_eq!(of("0::/a/agents.slice-daemon\n"), None);
        assert_eq!(of("0::/a/agents.slice (deleted)/x\n"), None);
        assert_eq!(of("0::/\n"), None);
        assert_eq!(of(""), None);
    }

    #[test]
    fn a_process_that_is_no_agent_has_no_namespace_for_us() {
        let own = PathBuf::from(format!("/proc/{}", std::process::id()));
        let found = Found::of(&own, Path::new("no-such-parent.slice"));
        assert!(matches!(found, Err(NamespaceError::NotAnAgent { .. })));
        let none = Found::of(Path::new("/proc/0"), Path::new("no-such-parent.slice"));
        assert!(matches!(none, Err(NamespaceError::Process { .. })));
    }
}
