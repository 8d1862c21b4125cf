//! Programs on the kernel's security hooks: loaded with what the kernel tells of its structures, attached, and asked for a sign.
//!
//! They hang on no cgroup: the kernel asks them for every process, and they look for agents themselves. An object of its own under
//! a licence that the kernel takes, see `proxy-lsm`. INVARIANT: a program counts as in effect only while the kernel asks it: one
//! that boots without `bpf` among its security modules loads and attaches them, and never asks.
//! Known limit: the sign is given by whichever guard's program the kernel asks first.

use std::os::fd::OwnedFd;
use std::path::Path;

use aya::programs::links::FdLink;
use aya::programs::{Lsm, ProgramError};
use aya::{Btf, Ebpf, EbpfError, EbpfLoader};
use nix::libc;
use proxy_common::offsets::PROBE_COMMAND;

use super::btf::Types;
use super::error::InterceptError;
use super::maps::Tables;
use super::pins;
use super::programs::{self, Hook, ProgramStatus};
use super::sys::{self, SECURITY_HOOK};

/// The programs, as `build.rs` made them.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/chaperone-lsm"));

/// The name of all of them together: the kernel takes them all or the layer is left out.
pub(super) const LAYER: &str = "security_hooks";
/// What they are for.
pub(super) const PURPOSE: &str = "sees sockets that are handed over, other families, other processes";

/// Tables that they share with the other programs.
const TABLES: [&str; 6] = ["PARENT", "JAILED", "QUARANTINED", "ACCOUNTS", "EVENTS", "COUNTERS"];

/// The programs, in the order they are attached: the first gives the sign.
pub const NAMES: &[&str] = &[
    "secure_bpf",
    "secure_family",
    "secure_bind",
    "secure_connect",
    "secure_listen",
    "secure_accept",
    "secure_send",
    "secure_hear",
    "secure_option",
    "secure_ask",
    "secure_file",
    "secure_stream",
    "secure_dgram",
    "secure_trace",
    "secure_kill",
    "secure_table",
];

/// Whether every program on a security hook is among these and in effect.
#[must_use]
pub fn secured(programs: &[ProgramStatus]) -> bool {
    NAMES.iter().all(|name| programs.iter().any(|program| program.name == *name && program.effective))
}

/// The programs, as hooks.
pub(super) fn hooks() -> impl Iterator<Item = Hook> {
    NAMES.iter().map(|name| (*name, SECURITY_HOOK))
}

/// What the kernel calls the hook of a program.
fn hook_of(name: &str) -> &'static str {
    match name {
        "secure_family" => "socket_create",
        "secure_bind" => "socket_bind",
        "secure_connect" => "socket_connect",
        "secure_listen" => "socket_listen",
        "secure_accept" => "socket_accept",
        "secure_send" => "socket_sendmsg",
        "secure_hear" => "socket_recvmsg",
        "secure_option" => "socket_setsockopt",
        "secure_ask" => "socket_getsockopt",
        "secure_file" => "file_receive",
        "secure_stream" => "unix_stream_connect",
        "secure_dgram" => "unix_may_send",
        "secure_trace" => "ptrace_access_check",
        "secure_kill" => "task_kill",
        "secure_table" => "bpf_map",
        _ => "bpf",
    }
}

/// The object, loaded as far as it can be without attaching anything.
#[derive(Debug)]
pub(super) struct Ready {
    object: Ebpf,
    types: Btf,
}

impl Ready {
    /// Reads the kernel's type information and makes the object fit it.
    pub(super) fn read(tables: &Tables) -> Result<Self, InterceptError> {
        let kernel = |action| move |source| InterceptError::Kernel { action, source };
        // Asked first: the rest takes a while.
        sys::takes_security_hooks().map_err(kernel("load programs for security hooks"))?;
        let offsets = Types::of_kernel()
            .and_then(|types| types.offsets())
            .map_err(kernel("find the kernel's structures"))?;
        let failed = |source| programs::refused("chaperone-lsm", source);
        let types = Btf::from_sys_fs().map_err(|problem| failed(problem.into()))?;
        let mut loader = EbpfLoader::new();
        loader.override_global("OFFSETS", &offsets, true);
        for name in TABLES {
            loader.map_pin_path(name, tables.pin(name));
        }
        let object = loader.load(OBJECT).map_err(failed)?;
        Ok(Self { object, types })
    }

    /// Attaches one program and pins its link as `directory/name`. The first one must be attached first.
    pub(super) fn attach(&mut self, name: &'static str, directory: &Path) -> Result<OwnedFd, InterceptError> {
        let failed = |source: EbpfError| programs::refused(name, source);
        let program: &mut Lsm = self
            .object
            .program_mut(name)
            .ok_or(ProgramError::NotLoaded)
            .and_then(TryInto::try_into)
            .map_err(|problem| failed(problem.into()))?;
        let link: FdLink = program
            .load(hook_of(name), &self.types)
            .and_then(|()| program.attach())
            .and_then(|id| program.take_link(id))
            .map_err(|problem| failed(problem.into()))?
            .into();
        require_asked()?;
        let path = directory.join(name);
        link.pin(&path).map_err(|source| pins::pin("make", &path, std::io::Error::other(source)))?;
        sys::open_pin(&path).map_err(|source| pins::pin("open", &path, source))
    }
}

/// Whether the kernel asks programs on security hooks. Another answer than ours is somebody else's program's, which comes first.
pub(super) fn is_asked() -> bool {
    sys::answer_to(PROBE_COMMAND).raw_os_error() != Some(libc::EINVAL)
}

/// Refuses to count the layer as in effect while nobody asks it.
pub(super) fn require_asked() -> Result<(), InterceptError> {
    if is_asked() { Ok(()) } else { Err(not_asked()) }
}

/// Whether a layer is pinned in this generation.
pub(super) fn stands_in(generation: &Path) -> bool {
    let link = sys::open_pin(&generation.join("secure_bpf"));
    link.and_then(|link| sys::link_facts(&link)).is_ok_and(|facts| facts.is_on(SECURITY_HOOK, None))
}

fn not_asked() -> InterceptError {
    let told = "it does not ask them: `bpf` is not among its security modules (`lsm=` on its command line)";
    InterceptError::Kernel { action: "put programs on security hooks", source: std::io::Error::other(told) }
}
