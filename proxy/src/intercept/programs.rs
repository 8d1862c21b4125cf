//! The kernel programs: which there are, how they are loaded and attached, and whether they are in effect.
//!
//! INVARIANT: the packet guard is attached first and the rewriting last, so that at no moment a rewritten or
//! unrewritten connection leaves unguarded. A link that is neither pinned nor held detaches.
//! Refuses to count a pinned link as a guard unless the kernel lists its program for the very cgroup.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfError, EbpfLoader};

use super::cgroup::Cgroup;
use super::error::InterceptError;
use super::maps::{self, Tables};
use super::pins;
use super::security;
use super::sys::{self, SECURITY_HOOK};

/// The kernel programs, as `build.rs` made them.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/chaperone-ebpf"));

/// All that one build puts into the kernel.
pub(super) static OBJECTS: [&[u8]; 2] = [OBJECT, security::OBJECT];

/// A program's name and the number of its hook (`enum bpf_attach_type`).
pub(super) type Hook = (&'static str, u32);

/// Programs on the agents' parent, in the order they are attached.
pub(super) const GUARDS: [Hook; 14] = [
    ("agent_egress", 1),
    ("agent_create", 2),
    ("agent_option", 22),
    ("agent_bind4", 12),
    ("agent_bind6", 13),
    ("agent_sendmsg4", 14),
    ("agent_sendmsg6", 15),
    ("agent_flow", 3),
    ("agent_recvmsg4", 19),
    ("agent_recvmsg6", 20),
    ("agent_peer4", 29),
    ("agent_peer6", 30),
    ("agent_connect4", 10),
    ("agent_connect6", 11),
];

/// A program that tells an agent why its connection failed, if the kernel lets it.
const TELLS_ERRORS: &str = "agent_connect4";

/// Programs on the root of the tree, where every process's sockets meet them.
pub(super) const SENTINEL: [Hook; 4] =
    [("sentinel_conn4", 10), ("sentinel_conn6", 11), ("sentinel_send4", 14), ("sentinel_send6", 15)];

/// The program on the daemon's own cgroup.
pub(super) const ACCEPTED: Hook = ("accepted", 3);

/// Whether one kernel program does its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramStatus {
    /// Its name.
    pub name: &'static str,
    /// Whether the kernel lists it for the cgroup in question.
    pub effective: bool,
    /// Why not, for people.
    pub detail: String,
}

/// Loads the object against the pinned tables, making those that are missing. Whether the kernel takes an error for `connect`
/// from a program (6.1 and later) is found out by loading one that gives it; without it agents get EPERM.
pub(super) fn load(tables: &Tables) -> Result<Ebpf, InterceptError> {
    let mut object = load_with(tables, 1)?;
    match object.program_mut(TELLS_ERRORS).map(load_program) {
        Some(Ok(())) => Ok(object),
        Some(Err(_)) | None => load_with(tables, 0),
    }
}

fn load_with(tables: &Tables, true_errors: u32) -> Result<Ebpf, InterceptError> {
    let mut loader = EbpfLoader::new();
    loader.override_global("TRUE_ERRORS", &true_errors, true);
    for name in maps::ALL {
        loader.map_pin_path(name, tables.pin(name));
    }
    loader.load(OBJECT).map_err(|source| refused("chaperone-ebpf", source))
}

/// Attaches one program to a cgroup and pins its link as `directory/name`.
pub(super) fn attach(
    object: &mut Ebpf,
    hook: Hook,
    cgroup: &Cgroup,
    directory: &Path,
) -> Result<OwnedFd, InterceptError> {
    let (name, _) = hook;
    let failed = |source: ProgramError| refused(name, source.into());
    let program = object.program_mut(name).ok_or_else(|| failed(ProgramError::NotLoaded))?;
    load_once(program).map_err(failed)?;
    fasten(program.fd().map_err(failed)?, hook, cgroup, directory)
}

/// Attaches a program that is loaded and pins its link as `directory/name`.
pub(super) fn fasten(
    program: &impl AsFd,
    (name, attach_type): Hook,
    cgroup: &Cgroup,
    directory: &Path,
) -> Result<OwnedFd, InterceptError> {
    let path = directory.join(name);
    // Two holders: the pin keeps the link when this process ends, the descriptor when the pin is unlinked.
    let link = sys::link(program, &cgroup.directory()?, attach_type)
        .map_err(|source| InterceptError::Attach { program: name, path: cgroup.path().to_owned(), source })?;
    sys::pin(&link, &path).map_err(|source| pins::pin("make", &path, source))?;
    Ok(link)
}

/// Has the kernel accept every program now, so that attaching one later takes no time.
pub(super) fn ready(tables: &Tables) -> Result<Ebpf, InterceptError> {
    let mut object = load(tables)?;
    for (name, _) in GUARDS.into_iter().chain(SENTINEL).chain([ACCEPTED]) {
        let program = object.program_mut(name).ok_or(ProgramError::NotLoaded);
        program.and_then(load_once).map_err(|source| refused(name, source.into()))?;
    }
    Ok(object)
}

pub(super) fn refused(program: &'static str, source: EbpfError) -> InterceptError {
    InterceptError::Load { program, source: Box::new(source) }
}

fn load_once(program: &mut Program) -> Result<(), ProgramError> {
    if program.fd().is_ok() { Ok(()) } else { load_program(program) }
}

fn load_program(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSockopt(program) => program.load(),
        Program::SockOps(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Opens the pinned link of one program if it is attached to this cgroup.
pub(super) fn reopen(hook: Hook, cgroup: &Cgroup, directory: &Path) -> Option<OwnedFd> {
    let (name, attach_type) = hook;
    let link = sys::open_pin(&directory.join(name)).ok()?;
    let facts = sys::link_facts(&link).ok()?;
    facts.is_on(attach_type, Some(cgroup.id())).then_some(link)
}

/// Whether the kernel runs the pinned program for `target`, which is the cgroup it is on or one below.
pub(super) fn status(hook: Hook, target: &Cgroup, directory: &Path) -> ProgramStatus {
    let (name, attach_type) = hook;
    let (effective, detail) = match in_effect(name, attach_type, target, directory) {
        Ok(true) => (true, "in effect".to_owned()),
        Ok(false) => (false, format!("pinned, but not run for `{}`", target.path().display())),
        Err(problem) => (false, problem.to_string()),
    };
    ProgramStatus { name, effective, detail }
}

fn in_effect(name: &str, attach_type: u32, target: &Cgroup, directory: &Path) -> std::io::Result<bool> {
    let link = sys::open_pin(&directory.join(name))?;
    let facts = sys::link_facts(&link)?;
    if !facts.is_on(attach_type, None) {
        return Ok(false);
    }
    if attach_type == SECURITY_HOOK {
        return Ok(security::is_asked());
    }
    let listed = sys::effective_programs(&File::open(target.path())?, attach_type)?;
    Ok(listed.contains(&facts.program_id))
}
