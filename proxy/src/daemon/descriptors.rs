//! How many connections the daemon has descriptors for.
//!
//! A service manager gives 1024 to a program that does not ask for more, and one busy agent needs as many. So the daemon takes
//! what it may have, and serves no more connections than that is enough for: it must never be without one for its own record.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What one connection needs: the agent's end and the resource's, and as many again while it is set up or cancelled.
const FOR_A_CONNECTION: u64 = 4;
/// The record, the kernel's tables, the parser's processes, other namespaces and the control socket.
const FOR_THE_DAEMON: u64 = 512;
/// A connection waits in memory too: more than this is no host's load.
const CONNECTIONS_MAX: u64 = 65_536;

/// Takes as many descriptors as the system gives, and says for how many connections they are enough; at least two.
pub(super) fn connections() -> usize {
    let limit = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < hard => match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(error) => {
                tracing::warn!(%error, soft, hard, "no more descriptors than the soft limit");
                soft
            }
        },
        Ok((soft, _)) => soft,
        Err(error) => {
            tracing::warn!(%error, "the limit of descriptors cannot be read");
            0
        }
    };
    enough_for(limit)
}

fn enough_for(descriptors: u64) -> usize {
    let connections = descriptors.saturating_sub(FOR_THE_DAEMON) / FOR_A_CONNECTION;
    usize::try_from(connections.clamp(2, CONNECTIONS_MAX)).unwrap_or(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_the_daemon_its_own_descriptors() {
        assert_eq!(enough_for(1024), 128);
        assert_eq!(enough_for(524_288), 65_536);
        assert_eq!(enough_for(100), 2);
    }
}
