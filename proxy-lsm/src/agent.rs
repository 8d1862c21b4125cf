//! Who runs now, and whether that is an agent.
//!
//! INVARIANT: an outsider costs one look-up and one comparison, for these programs run for everybody.

use aya_ebpf::helpers::generated as helpers;
use proxy_common::account::{ANY_QUARANTINED, Parent, QUARANTINE_LEVELS};

use crate::maps;

/// How deep below the parent a run's cgroup lies: below the folder of its agent.
const RUN: u32 = 2;

/// An agent's process.
pub struct Agent {
    pub parent: Parent,
    /// The cgroup right below the parent; 0 for one in the parent itself.
    pub account: u64,
}

impl Agent {
    /// The process that runs now, if it is an agent's.
    #[inline(always)]
    pub fn now() -> Option<Self> {
        let parent = maps::parent()?;
        if ancestor(parent.level) != parent.cgroup_id {
            return None;
        }
        let account = ancestor(parent.level + 1);
        Some(Self { parent, account })
    }

    /// Whether it, or a cgroup between it and the parent, is quarantined: to the depth that the programs on cgroups look.
    #[inline(always)]
    pub fn is_quarantined(&self) -> bool {
        if self.parent.flags & ANY_QUARANTINED == 0 {
            return false;
        }
        let mut below = 1;
        while below <= QUARANTINE_LEVELS {
            if maps::is_quarantined(ancestor(self.parent.level + below)) {
                return true;
            }
            below += 1;
        }
        false
    }

    /// The cgroup of its run.
    #[inline(always)]
    pub fn run(&self) -> u64 {
        ancestor(self.parent.level + RUN)
    }
}

/// Cgroup, process and user that run now.
#[inline(always)]
pub fn caller() -> (u64, u32, u32) {
    // SAFETY: helpers without pointers.
    let (cgroup_id, process, user) = unsafe {
        let process = helpers::bpf_get_current_pid_tgid() >> 32;
        (helpers::bpf_get_current_cgroup_id(), process, helpers::bpf_get_current_uid_gid())
    };
    (cgroup_id, process as u32, user as u32)
}

/// Nanoseconds since boot, sleep included.
#[inline(always)]
pub fn boot_ns() -> u64 {
    // SAFETY: a helper without pointers.
    unsafe { helpers::bpf_ktime_get_boot_ns() }
}

/// The cgroup of the running process's ancestor at this depth; 0 if it is not that deep.
#[inline(always)]
fn ancestor(level: u32) -> u64 {
    // SAFETY: a helper without pointers.
    unsafe { helpers::bpf_get_current_ancestor_cgroup_id(level as i32) }
}
