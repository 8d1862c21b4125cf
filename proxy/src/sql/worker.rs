//! The parser process: reads statement texts from its standard input, answers analyses on its standard output.
//!
//! Parsing C code on an attacker's bytes happens here, where there is nothing to steal: no environment, no open files but
//! the two pipes, no system calls but memory, reading fd 0 and writing fd 1, bounded memory.
//! INVARIANT: the first text is read only after limits and filter hold; if they cannot be set, the process ends.
//! Frames are a little-endian `u32` length and that many bytes. Must run on the main thread with no other thread alive.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use nix::libc;
use nix::sys::resource::{Resource, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use super::analyse::{TEXT_BYTES_MAX, analyse_text};
use super::facts::Analysis;

/// First frame of a worker: it is confined and ready. The number is the version of the frames.
pub(super) const READY: &[u8] = b"chaperone-sql-worker 1";

/// Largest answer: facts are words of the text, named once in the union and once in their statement.
pub(super) const ANSWER_BYTES_MAX: usize = 8 << 20;

/// Address space: a text of 1 MiB needs about 100 MiB of tree in the worst case.
const MEMORY_BYTES_MAX: u64 = 512 << 20;

/// Standard input, output and error.
const FILES_MAX: u64 = 3;

/// Body of the hidden subcommand `sql-worker`.
#[must_use]
pub fn worker_main() -> ExitCode {
    // A panic is caught per text; its message could carry the text and would need files to print.
    std::panic::set_hook(Box::new(|_| {}));
    // Tables, allocator arenas and the address of the stack are read before the filter forbids it.
    let warm = analyse_text("WITH a AS (SELECT 1) SELECT lower(x) FROM a, b WHERE x = 'y' LIMIT 1");
    if warm.is_unknown() {
        return ExitCode::FAILURE;
    }
    match confine().and_then(|()| serve()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve() -> io::Result<()> {
    let mut input = io::stdin().lock();
    let mut output = io::stdout().lock();
    send(&mut output, READY)?;
    while let Some(text) = receive(&mut input)? {
        let analysis = match String::from_utf8(text) {
            Ok(text) => analyse_text(&text),
            Err(_) => Analysis::unknown("statement text is not UTF-8"),
        };
        send(&mut output, &encoded(&analysis)?)?;
    }
    Ok(())
}

fn encoded(analysis: &Analysis) -> io::Result<Vec<u8>> {
    let bytes = postcard::to_stdvec(analysis).map_err(io::Error::other)?;
    if bytes.len() <= ANSWER_BYTES_MAX {
        return Ok(bytes);
    }
    postcard::to_stdvec(&Analysis::unknown("the facts of this text are too many")).map_err(io::Error::other)
}

fn send(output: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    output.write_all(&length.to_le_bytes())?;
    output.write_all(bytes)?;
    output.flush()
}

/// The next text, or nothing when the daemon closed the pipe.
fn receive(input: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0_u8; 4];
    match input.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)?;
    if length > TEXT_BYTES_MAX {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let mut text = vec![0; length];
    input.read_exact(&mut text)?;
    Ok(Some(text))
}

fn confine() -> io::Result<()> {
    let limits = [
        (Resource::RLIMIT_AS, MEMORY_BYTES_MAX),
        (Resource::RLIMIT_NOFILE, FILES_MAX),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_FSIZE, 0),
        (Resource::RLIMIT_NPROC, 0),
    ];
    for (resource, limit) in limits {
        setrlimit(resource, limit, limit).map_err(io::Error::from)?;
    }
    let filter = filter().map_err(io::Error::other)?;
    seccompiler::apply_filter(&filter).map_err(io::Error::other)
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let free = [
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_brk,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_futex,
        libc::SYS_rt_sigreturn,
        libc::SYS_rt_sigprocmask,
        libc::SYS_sigaltstack,
        libc::SYS_restart_syscall,
        libc::SYS_getrandom,
        libc::SYS_clock_gettime,
        libc::SYS_sched_yield,
    ];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        free.into_iter().map(|call| (call, Vec::new())).collect();
    rules.insert(libc::SYS_read, vec![descriptor_is(0)?]);
    rules.insert(libc::SYS_write, vec![descriptor_is(1)?]);
    rules.insert(libc::SYS_mmap, vec![not_executable()?]);
    rules.insert(libc::SYS_mprotect, vec![not_executable()?]);
    SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?
    .try_into()
}

fn descriptor_is(descriptor: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    let is = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, descriptor)?;
    SeccompRule::new(vec![is])
}

/// The third argument of `mmap` and `mprotect` has no execute bit.
fn not_executable() -> Result<SeccompRule, seccompiler::BackendError> {
    const EXECUTE: u64 = 4;
    let is = SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(EXECUTE), 0)?;
    SeccompRule::new(vec![is])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip_and_the_end_of_the_pipe_is_the_end() {
        let mut pipe = Vec::new();
        send(&mut pipe, b"SELECT 1").unwrap();
        let mut input = pipe.as_slice();
        assert_eq!(receive(&mut input).unwrap().as_deref(), Some(&b"SELECT 1"[..]));
        assert_eq!(receive(&mut input).unwrap(), None);
    }

    #[test]
    fn oversized_and_cut_frames_are_errors() {
        let huge = u32::try_from(TEXT_BYTES_MAX + 1).unwrap().to_le_bytes();
        assert!(receive(&mut huge.as_slice()).is_err());
        assert!(receive(&mut [5_u8, 0, 0, 0, b'x'].as_slice()).is_err());
    }

    #[test]
    fn the_filter_compiles_on_this_machine() {
        assert!(!filter().unwrap().is_empty());
    }
}
