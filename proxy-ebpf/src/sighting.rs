//! First sight of a network namespace: an agent's process uses sockets where no proxy is.
//!
//! Told when a socket is made, which is earlier than `connect`, so that the daemon can put a proxy there in the meantime;
//! and when `connect` came too early, so that the next one finds it. Decides nothing: whoever has no proxy is denied elsewhere.

use core::intrinsics::cold_path;

use proxy_common::sight::Sight;

use crate::context::{boot_ns, caller_thread};
use crate::maps;

/// Only for programs that run in the caller's context.
#[inline(always)]
pub fn note(netns_cookie: u64) {
    if maps::proxy_port(netns_cookie).is_some() {
        return;
    }
    cold_path();
    let (pid, tid) = caller_thread();
    maps::sight(&Sight { at_ns: boot_ns(), netns_cookie, pid, tid });
}
