//! What can go wrong between the daemon and the kernel.
//!
//! Each variant names the object and the kernel's own answer. None of them opens anything: what was guarded still is.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;

/// A failure of this room. All of them leave the guard as strict as it was, or stricter.
#[derive(Debug, thiserror::Error)]
pub enum InterceptError {
    /// The host has no cgroup2 tree.
    #[error(
        "no cgroup2 file system is mounted (`mount -t cgroup2 none /sys/fs/cgroup`), or this process is not in one"
    )]
    NoCgroup2,
    /// A cgroup could not be read or changed.
    #[error("could not {action} cgroup `{}`", path.display())]
    Cgroup {
        /// What was tried.
        action: &'static str,
        /// On which cgroup.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A name that cannot be a cgroup's.
    #[error("`{name}` is not usable as the name of a cgroup")]
    CgroupName {
        /// The name.
        name: String,
    },
    /// The pin directory is not on bpffs and cannot be.
    #[error("`{}` is not on a bpf file system", path.display())]
    Bpffs {
        /// The directory.
        path: PathBuf,
        /// Why mounting one did not help.
        source: io::Error,
    },
    /// A pin could not be read, made or removed.
    #[error("could not {action} pin `{}`", path.display())]
    Pin {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A program was not attached: above the cgroup, another's program may forbid it.
    #[error("could not attach kernel program `{program}` to `{}`", path.display())]
    Attach {
        /// Its name.
        program: &'static str,
        /// The cgroup.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A program, or the object that holds them all, was not accepted.
    #[error("could not load kernel program `{program}`")]
    Load {
        /// Its name.
        program: &'static str,
        /// What the kernel said.
        source: Box<EbpfError>,
    },
    /// A kernel table could not be used.
    #[error("could not use kernel table `{map}`")]
    Map {
        /// Its name.
        map: &'static str,
        /// What the kernel said.
        source: Box<MapError>,
    },
    /// A system call failed.
    #[error("could not {action}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel may give the port to anybody who connects.
    #[error(
        "port {port} lies in the ephemeral range {first}-{last}: choose a lower one, or add it to \
         `net.ipv4.ip_local_reserved_ports`"
    )]
    PortEphemeral {
        /// The port.
        port: u16,
        /// Start of the range.
        first: u16,
        /// End of the range.
        last: u16,
    },
    /// The proxy's port could not be had, or a connection could not be accepted.
    #[error("could not accept connections on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Programs that must guard a cgroup do not.
    #[error("kernel programs not in effect: {missing}")]
    Unguarded {
        /// Their names, separated by commas.
        missing: String,
    },
}
