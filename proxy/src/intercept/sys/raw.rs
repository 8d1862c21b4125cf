//! Sockets as hostile programs use them: bytes in, the kernel's answer out, nothing checked on the way.
//!
//! The self-test needs calls that no decent library offers: addresses of the wrong family, control messages, options by
//! number, `io_uring`. INVARIANT: every buffer lives in the caller's safe slice for the whole call, and lengths come from
//! the slices. Refuses nothing: whoever calls this owns a throw-away process, or knows what its socket is.

#![expect(unsafe_code, reason = "system calls without a safe wrapper")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{null, null_mut};
use std::time::Duration;

use nix::libc;

/// Descriptors that one message may bring; the self-test passes at most two.
const PASSED_MAX: usize = 4;
/// Room for the control data of a received message, aligned as the kernel wants it.
const CONTROL_WORDS: usize = 16;
/// How often, and how far apart, a ring is looked at.
const RING_LOOKS: usize = 20;
const RING_PAUSE: Duration = Duration::from_millis(10);
/// `SOL_SOCKET` control header before passed descriptors.
const CONTROL_HEAD: usize = 16;

/// A message that came in.
#[derive(Debug)]
pub struct Received {
    /// Bytes of it.
    pub length: usize,
    /// The sender's address as the kernel wrote it.
    pub address: Vec<u8>,
    /// Descriptors it brought.
    pub descriptors: Vec<OwnedFd>,
}

/// Makes a non-blocking socket of any kind.
///
/// # Errors
/// The kernel's.
pub fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    let kind = kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the call takes numbers only.
    // JUSTIFICATION: safe wrappers know a few families and protocols, and the self-test tries all.
    own(unsafe { libc::socket(family, kind, protocol) })
}

/// Binds a socket to an address of any form.
///
/// # Errors
/// The kernel's.
pub fn bind(socket: &impl AsFd, address: &[u8]) -> io::Result<()> {
    // SAFETY: address and length describe one slice.
    // JUSTIFICATION: the address may be of a family that wrappers do not know.
    done(unsafe { libc::bind(number(socket), address.as_ptr().cast(), long(address)?) })
}

/// Connects a socket to an address of any form.
///
/// # Errors
/// The kernel's.
pub fn connect(socket: &impl AsFd, address: &[u8]) -> io::Result<()> {
    // SAFETY: address and length describe one slice.
    // JUSTIFICATION: the address may be of a family that wrappers do not know.
    done(unsafe { libc::connect(number(socket), address.as_ptr().cast(), long(address)?) })
}

/// Listens.
///
/// # Errors
/// The kernel's.
pub fn listen(socket: &impl AsFd) -> io::Result<()> {
    // SAFETY: the call takes numbers only.
    // JUSTIFICATION: the sockets here are of no library's type.
    done(unsafe { libc::listen(number(socket), 8) })
}

/// Accepts a connection.
///
/// # Errors
/// The kernel's.
pub fn accept(socket: &impl AsFd) -> io::Result<OwnedFd> {
    // SAFETY: no address is asked for.
    // JUSTIFICATION: the sockets here are of no library's type.
    own(unsafe {
        libc::accept4(number(socket), null_mut(), null_mut(), libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK)
    })
}

/// Reads an option by number, of four bytes.
///
/// # Errors
/// The kernel's.
pub fn option(socket: &impl AsFd, level: i32, name: i32) -> io::Result<i32> {
    let mut value = 0_i32;
    let mut length = libc::socklen_t::try_from(size_of::<i32>()).map_err(io::Error::other)?;
    // SAFETY: value and length describe one number.
    // JUSTIFICATION: wrappers know the harmless options.
    let answer =
        unsafe { libc::getsockopt(number(socket), level, name, (&raw mut value).cast(), &raw mut length) };
    done(answer).map(|()| value)
}

/// Sets an option by number.
///
/// # Errors
/// The kernel's.
pub fn set_option(socket: &impl AsFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    // SAFETY: value and length describe one slice.
    // JUSTIFICATION: wrappers know the harmless options.
    done(unsafe { libc::setsockopt(number(socket), level, name, value.as_ptr().cast(), long(value)?) })
}

/// What goes into one message.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outgoing<'a> {
    /// Its bytes.
    pub payload: &'a [u8],
    /// Flags of `sendmsg`.
    pub flags: i32,
    /// To whom; empty for nobody named.
    pub address: &'a [u8],
    /// Control messages as the kernel wants them; empty for none.
    pub control: &'a [u8],
}

/// Sends one message.
///
/// # Errors
/// The kernel's.
pub fn send(socket: &impl AsFd, message: Outgoing<'_>) -> io::Result<usize> {
    let mut vector = vector(message.payload);
    let header = header(&mut vector, message.address, message.control)?;
    // SAFETY: the header points to buffers that outlive the call.
    // JUSTIFICATION: wrappers build control messages of known kinds only.
    counted(unsafe { libc::sendmsg(number(socket), &raw const header, message.flags) })
}

/// Receives one message, with the descriptors it brings.
///
/// # Errors
/// The kernel's.
pub fn receive(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut address = [0_u8; 128];
    let mut control = [0_u64; CONTROL_WORDS];
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut header = header(&mut vector, &[], &[])?;
    header.msg_name = address.as_mut_ptr().cast();
    header.msg_namelen = long(&address)?;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control);
    // SAFETY: every buffer in the header is a live local or the caller's slice.
    // JUSTIFICATION: wrappers give descriptors as bare numbers or not at all.
    // Packet sockets refuse every flag that has to do with descriptors.
    let answer = unsafe { libc::recvmsg(number(socket), &raw mut header, 0) };
    let length = counted(answer)?;
    let used = usize::try_from(header.msg_namelen).map_err(io::Error::other)?;
    let address = address.get(..used).unwrap_or_default().to_vec();
    let descriptors = passed(&control, header.msg_controllen).map(adopt).collect();
    Ok(Received { length, address, descriptors })
}

/// The descriptors' numbers in one control message of `SCM_RIGHTS`; the kernel closes what did not fit.
fn passed(control: &[u64; CONTROL_WORDS], used: usize) -> impl Iterator<Item = RawFd> {
    let bytes: Vec<u8> = control.iter().flat_map(|word| word.to_ne_bytes()).take(used).collect();
    let word =
        |at: usize| bytes.get(at..at + 4).and_then(|part| part.try_into().ok()).map(i32::from_ne_bytes);
    let rights = word(8) == Some(libc::SOL_SOCKET) && word(12) == Some(libc::SCM_RIGHTS);
    let length = word(0).and_then(|length| usize::try_from(length).ok()).filter(|_| rights).unwrap_or(0);
    let count = length.saturating_sub(CONTROL_HEAD) / 4;
    let found: Vec<RawFd> = (0..count.min(PASSED_MAX)).filter_map(|at| word(CONTROL_HEAD + at * 4)).collect();
    found.into_iter()
}

/// Control bytes that pass descriptors on.
#[must_use]
pub fn rights(descriptors: &[BorrowedFd<'_>]) -> Vec<u8> {
    let numbers: Vec<u8> = descriptors.iter().flat_map(|fd| fd.as_raw_fd().to_ne_bytes()).collect();
    control(libc::SOL_SOCKET, libc::SCM_RIGHTS, &numbers)
}

/// One control message.
#[must_use]
pub fn control(level: i32, kind: i32, value: &[u8]) -> Vec<u8> {
    let mut bytes = (CONTROL_HEAD + value.len()).to_ne_bytes().to_vec();
    bytes.extend_from_slice(&level.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(size_of::<usize>()), 0);
    bytes
}

/// Takes a descriptor out of another process.
///
/// # Errors
/// The kernel's.
pub fn take_descriptor(pid: u32, descriptor: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers only.
    // JUSTIFICATION: no safe wrapper has it.
    let process = own_long(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the call takes numbers only.
    // JUSTIFICATION: no safe wrapper has it.
    own_long(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), descriptor, 0) })
}

/// Makes a table of kernel programs, of one number.
///
/// # Errors
/// The kernel's.
pub fn make_table() -> io::Result<OwnedFd> {
    const BPF_MAP_CREATE: i32 = 0;
    const ARRAY: u32 = 2;
    // Kind, bytes of a key, bytes of a value, entries.
    let request = [ARRAY, 4, 4, 1];
    // SAFETY: the structure is the start of the kernel's `bpf_attr` for this call, as long as the call says.
    // JUSTIFICATION: aya makes tables of its own programs only.
    own_long(unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, request.as_ptr(), size_of_val(&request)) })
}

/// Seizes a process the way a debugger does, and lets it go again when this process ends.
///
/// # Errors
/// The kernel's.
pub fn seize(pid: u32) -> io::Result<()> {
    const PTRACE_SEIZE: i64 = 0x4206;
    // SAFETY: this request takes numbers only.
    // JUSTIFICATION: the wrapper's feature would be compiled into the daemon for this one call.
    let answer = unsafe { libc::syscall(libc::SYS_ptrace, PTRACE_SEIZE, pid, 0, 0) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Starts a process in another cgroup and ends it at once; whether the kernel did so.
///
/// # Errors
/// The kernel's.
pub fn clone_into(cgroup: &impl AsFd) -> io::Result<()> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut request = [0_u64; 11];
    let [flags, .., target] = &mut request;
    *flags = CLONE_INTO_CGROUP;
    *target = u64::try_from(number(cgroup)).map_err(io::Error::other)?;
    // SAFETY: the structure is the kernel's `clone_args`, and the child ends at once without touching memory.
    // JUSTIFICATION: the C library has no such call.
    let child = unsafe { libc::syscall(libc::SYS_clone3, request.as_ptr(), size_of_val(&request)) };
    match child {
        // SAFETY: ends the child without running anything of the parent's.
        // JUSTIFICATION: a copied process must not unwind.
        0 => unsafe { libc::_exit(0) },
        child if child < 0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Mounts; empty strings for what is not needed.
///
/// # Errors
/// The kernel's.
pub fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: u64) -> io::Result<()> {
    // SAFETY: all strings are terminated and outlive the call.
    // JUSTIFICATION: the safe wrapper's crate feature would pull in more than this one call.
    done(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, null()) })
}

/// One submission to a ring of `io_uring`.
#[derive(Debug, Clone, Copy)]
pub struct Submission<'a> {
    /// Operation.
    pub code: u8,
    /// Flags of the submission, `IOSQE_ASYNC` say.
    pub flags: u8,
    /// On which descriptor, or of which family.
    pub target: i32,
    /// `addr`: bytes, unless empty.
    pub bytes: &'a [u8],
    /// `len`.
    pub length: u32,
    /// `off`.
    pub offset: u64,
}

/// Submits one operation to a fresh ring and waits a moment for its end; the operation's own answer.
///
/// # Errors
/// When there is no ring, or the operation failed.
pub fn ring(submission: &Submission<'_>, setup_flags: u32) -> io::Result<i32> {
    const SUBMISSIONS: libc::off_t = 0;
    const COMPLETIONS: libc::off_t = 0x800_0000;
    const ENTRIES: libc::off_t = 0x1000_0000;
    const WAKE_AND_LOOK: u32 = 3;
    let mut parameters = [0_u32; 30];
    if let Some(flags) = parameters.get_mut(2) {
        *flags = setup_flags;
    }
    // SAFETY: the array is as long as the kernel's `io_uring_params`.
    // JUSTIFICATION: no library for this is among the dependencies.
    let ring = own_long(unsafe { libc::syscall(libc::SYS_io_uring_setup, 4_u32, parameters.as_mut_ptr()) })?;
    let word = |at: usize| parameters.get(at).copied().unwrap_or(0) as usize;
    let (sq_tail, sq_array) = (word(11), word(16));
    let (cq_head, cq_tail, cq_entries) = (word(20), word(21), word(25));
    let submissions = Map::of(&ring, SUBMISSIONS)?;
    let completions = Map::of(&ring, COMPLETIONS)?;
    let entries = Map::of(&ring, ENTRIES)?;
    let address = if submission.bytes.is_empty() { 0 } else { submission.bytes.as_ptr() as u64 };
    let mut entry = [0_u8; 64];
    let fields: [(usize, &[u8]); 6] = [
        (0, &[submission.code, submission.flags]),
        (4, &submission.target.to_ne_bytes()),
        (8, &submission.offset.to_ne_bytes()),
        (16, &address.to_ne_bytes()),
        (24, &submission.length.to_ne_bytes()),
        (32, &7_u64.to_ne_bytes()),
    ];
    for (at, value) in fields {
        for (slot, byte) in entry.iter_mut().skip(at).zip(value) {
            *slot = *byte;
        }
    }
    for (at, part) in entry.chunks_exact(4).enumerate() {
        entries.put(at * 4, part.try_into().map(u32::from_ne_bytes).unwrap_or(0));
    }
    submissions.put(sq_array, 0);
    submissions.put(sq_tail, 1);
    // A worker may wait for minutes where packets are dropped: look, and do not wait with it.
    for submitted in [1_u32].into_iter().chain([0; RING_LOOKS]) {
        // SAFETY: the call takes numbers only; the entry and what it points to outlive the operation, which closing the ring ends.
        // JUSTIFICATION: as above.
        let entered = unsafe {
            let waited_for = 0_u32;
            libc::syscall(
                libc::SYS_io_uring_enter,
                ring.as_raw_fd(),
                submitted,
                waited_for,
                WAKE_AND_LOOK,
                0_usize,
                0_usize,
            )
        };
        if entered < 0 {
            return Err(io::Error::last_os_error());
        }
        if completions.get(cq_head) != completions.get(cq_tail) {
            break;
        }
        std::thread::sleep(RING_PAUSE);
    }
    if completions.get(cq_head) == completions.get(cq_tail) {
        return Err(io::Error::from_raw_os_error(libc::ETIME));
    }
    let answer = i32::from_ne_bytes(completions.get(cq_entries + 8).to_ne_bytes());
    if answer < 0 { Err(io::Error::from_raw_os_error(-answer)) } else { Ok(answer) }
}

/// Makes a socket by way of a ring.
///
/// # Errors
/// When there is no ring, or the kernel's.
pub fn ring_socket(family: i32, kind: u64, protocol: u32) -> io::Result<OwnedFd> {
    const SOCKET: u8 = 45;
    let made =
        Submission { code: SOCKET, flags: 0, target: family, bytes: &[], length: protocol, offset: kind };
    ring(&made, 0).map(adopt)
}

/// A second descriptor of what an inherited number stands for.
///
/// # Errors
/// When nothing was inherited under that number.
pub fn inherited(descriptor: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers only, and makes a descriptor of our own.
    // JUSTIFICATION: what a process inherits has no owner in its own code.
    own(unsafe { libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, 3) })
}

/// A page of a ring.
struct Map {
    start: *mut u32,
}

impl Map {
    const BYTES: usize = 4096;

    fn of(ring: &OwnedFd, offset: libc::off_t) -> io::Result<Self> {
        let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        // SAFETY: a new mapping at a place of the kernel's choice overlaps nothing of ours.
        // JUSTIFICATION: rings are shared memory.
        let start = unsafe { libc::mmap(null_mut(), Self::BYTES, rights, flags, ring.as_raw_fd(), offset) };
        if start == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(Self { start: start.cast() })
        }
    }

    fn slot(&self, offset: usize) -> Option<*mut u32> {
        (offset + 4 <= Self::BYTES).then(|| self.start.wrapping_add(offset / 4))
    }

    fn put(&self, offset: usize, value: u32) {
        if let Some(slot) = self.slot(offset) {
            // SAFETY: the slot lies inside the mapping, which lives as long as `self`.
            // JUSTIFICATION: the kernel reads the other side.
            unsafe { slot.write_volatile(value) };
        }
    }

    fn get(&self, offset: usize) -> u32 {
        // SAFETY: the slot lies inside the mapping, which lives as long as `self`.
        // JUSTIFICATION: the kernel writes the other side.
        self.slot(offset).map_or(0, |slot| unsafe { slot.read_volatile() })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nobody holds a reference into it.
        // JUSTIFICATION: what was mapped by hand is unmapped by hand.
        let _gone = unsafe { libc::munmap(self.start.cast(), Self::BYTES) };
    }
}

fn header(vector: &mut libc::iovec, address: &[u8], control: &[u8]) -> io::Result<libc::msghdr> {
    // SAFETY: all bits zero is a valid header: nothing named, nothing attached.
    // JUSTIFICATION: the structure has private padding on some systems.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = vector;
    header.msg_iovlen = 1;
    if !address.is_empty() {
        header.msg_name = address.as_ptr().cast_mut().cast();
        header.msg_namelen = long(address)?;
    }
    if !control.is_empty() {
        header.msg_control = control.as_ptr().cast_mut().cast();
        header.msg_controllen = control.len();
    }
    Ok(header)
}

fn vector(payload: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() }
}

fn number(fd: &impl AsFd) -> RawFd {
    fd.as_fd().as_raw_fd()
}

fn long(bytes: &[u8]) -> io::Result<libc::socklen_t> {
    libc::socklen_t::try_from(bytes.len()).map_err(io::Error::other)
}

fn done(answer: i32) -> io::Result<()> {
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn counted(answer: isize) -> io::Result<usize> {
    usize::try_from(answer).map_err(|_negative| io::Error::last_os_error())
}

fn own(answer: i32) -> io::Result<OwnedFd> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(adopt(answer)) }
}

fn own_long(answer: i64) -> io::Result<OwnedFd> {
    own(i32::try_from(answer).map_err(io::Error::other)?)
}

/// Takes over a descriptor that the kernel just made for this process.
fn adopt(descriptor: RawFd) -> OwnedFd {
    // SAFETY: the callers pass descriptors that the kernel just gave to this process and to nobody else.
    // JUSTIFICATION: ownership of a raw descriptor can only be claimed.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}
