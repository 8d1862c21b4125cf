//! The tables that these programs share with the others, and the only functions that touch them.
//!
//! INVARIANT: no verdict depends on `EVENTS`, `COUNTERS` or `ACCOUNTS`.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use proxy_common::account::{Account, Parent};
use proxy_common::event::{COUNTERS as COUNTERS_LEN, Counter, DenyEvent};
use proxy_common::limits::{ACCOUNTS_MAX, EVENTS_BYTES, JAILED_MAX, QUARANTINED_MAX};

#[btf_map]
static PARENT: Array<Parent, 1> = Array::new();

#[btf_map]
static JAILED: HashMap<u64, u32, JAILED_MAX> = HashMap::new();

#[btf_map]
static QUARANTINED: HashMap<u64, u32, QUARANTINED_MAX> = HashMap::new();

#[btf_map]
static ACCOUNTS: HashMap<u64, Account, ACCOUNTS_MAX> = HashMap::new();

#[btf_map]
static EVENTS: RingBuf<DenyEvent, EVENTS_BYTES> = RingBuf::new();

#[btf_map]
static COUNTERS: PerCpuArray<u64, COUNTERS_LEN> = PerCpuArray::new();

/// The agents' parent, once there is one.
#[inline(always)]
pub fn parent() -> Option<Parent> {
    PARENT.get(0).copied().filter(|parent| parent.cgroup_id != 0)
}

/// Whether root closed a jail around the run of this cgroup.
#[inline(always)]
pub fn is_jailed(run: u64) -> bool {
    // SAFETY: the value is not read.
    unsafe { JAILED.get(&run) }.is_some()
}

/// Whether a cgroup is quarantined.
#[inline(always)]
pub fn is_quarantined(cgroup: u64) -> bool {
    // SAFETY: the value is not read.
    unsafe { QUARANTINED.get(&cgroup) }.is_some()
}

/// Counts and reports one denial.
#[inline(always)]
pub fn report(account: u64, event: &DenyEvent) {
    if let Some(counts) = ACCOUNTS.get_ptr_mut(&account) {
        // SAFETY: a live entry, changed by atomic operations alone.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(&raw mut (*counts).denied, 1) };
    }
    count(event.reason);
    if EVENTS.output(event, 0).is_err() {
        count(Counter::EventLost as u32);
    }
}

#[inline(always)]
fn count(index: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: per-CPU slot, programs do not migrate while they run.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
}
