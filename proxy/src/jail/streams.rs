//! Standard streams: the only descriptors an agent inherits, so what they are decides what it can reach through them.
//!
//! Refused: network sockets (nothing guards what was opened outside), folders (a way below the mounts that cover the host) and
//! bare path handles (which can name a socket that is hidden). Pipes, terminals, files and connected unix sockets pass.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use nix::sys::stat::{SFlag, fstat};

use super::error::JailError;

/// Refuses to go on with a stream that would reach around the jail.
pub(super) fn check_all() -> Result<(), JailError> {
    let (input, output, errors) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    [input.as_fd(), output.as_fd(), errors.as_fd()].into_iter().try_for_each(check)
}

fn check(stream: BorrowedFd<'_>) -> Result<(), JailError> {
    let number = stream.as_raw_fd();
    let refuse = |what| Err(JailError::Stream { stream: number, what });
    let facts = match fstat(stream) {
        Ok(facts) => facts,
        // A closed stream leads nowhere.
        Err(Errno::EBADF) => return Ok(()),
        Err(problem) => return Err(JailError::privileges("inspect a standard stream", problem)),
    };
    let flags = fcntl(stream, FcntlArg::F_GETFL)
        .map_err(|problem| JailError::privileges("inspect a standard stream", problem))?;
    if OFlag::from_bits_retain(flags).contains(OFlag::O_PATH) {
        return refuse("a bare path handle");
    }
    match SFlag::from_bits_truncate(facts.st_mode & libc::S_IFMT) {
        SFlag::S_IFDIR => refuse("a folder"),
        SFlag::S_IFSOCK => match getsockname::<SockaddrStorage>(number) {
            Ok(address) if address.family() == Some(AddressFamily::Unix) => Ok(()),
            Ok(_) => refuse("a network socket"),
            Err(problem) => Err(JailError::privileges("inspect a standard stream", problem)),
        },
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_socket_a_folder_and_a_path_handle_are_no_standard_streams() {
        let network = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let what = |fd: BorrowedFd<'_>| match check(fd) {
            Err(JailError::Stream { what, .. }) => what,
            other => panic!("{other:?}"),
        };
        assert_eq!(what(network.as_fd()), "a network socket");
        assert_eq!(what(std::fs::File::open("/").unwrap().as_fd()), "a folder");
        let handle = nix::fcntl::open("/dev/null", OFlag::O_PATH, nix::sys::stat::Mode::empty()).unwrap();
        assert_eq!(what(handle.as_fd()), "a bare path handle");
    }

    #[test]
    fn pipes_files_and_connected_unix_sockets_pass() {
        let (local, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        check(local.as_fd()).unwrap();
        check(std::fs::File::open("/dev/null").unwrap().as_fd()).unwrap();
        check(std::io::pipe().unwrap().0.as_fd()).unwrap();
    }
}
