//! The true error for a destination that the daemon could not reach a moment ago.
//!
//! Kernels from 6.1 on let a program choose what `connect` answers; older ones say EPERM whatever we do. The daemon tries by
//! loading which it is, and says so in [`TRUE_ERRORS`]; where it is 0 the call is dead code and the verifier never sees it.
//! INVARIANT: this only ever refuses.

use core::ptr::{addr_of, read_volatile};

use aya_ebpf::helpers::generated::bpf_set_retval;
use proxy_common::unreachable::{DestinationKey, ERRNO_MAX};

use crate::context::boot_ns;
use crate::maps;

/// Whether the kernel takes an error from us; written by the daemon before loading.
#[unsafe(no_mangle)]
static TRUE_ERRORS: u32 = 0;

/// Whether the destination is known to be out of reach; if so, the kernel has been told what to answer.
#[inline(always)]
pub fn is_unreachable(account: u64, address: [u32; 4], port: u16) -> bool {
    let key = DestinationKey { account, address, port: u32::from(port), reserved: 0 };
    let Some(known) = maps::unreachable(&key) else { return false };
    if known.until_ns < boot_ns() || known.errno == 0 || known.errno > ERRNO_MAX {
        return false;
    }
    // SAFETY: a constant of this object, which the daemon may replace before loading and nobody afterwards.
    if unsafe { read_volatile(addr_of!(TRUE_ERRORS)) } != 0 {
        // SAFETY: takes a number and keeps it for the answer.
        let _before = unsafe { bpf_set_retval(-(known.errno as i32)) };
    }
    true
}
