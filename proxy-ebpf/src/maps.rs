//! The kernel's tables and the only functions that touch them.
//!
//! Each table is pinned by the daemon under a path that carries the layout's version, and outlives it.
//! INVARIANT: no verdict depends on `EVENTS`, `COUNTERS`, `SIGHTED` or `SIGHTS`; a failed write there changes nothing else.

use core::intrinsics::{AtomicOrdering, atomic_xadd, cold_path};
use core::ptr::{from_ref, null_mut, read_volatile};

use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock, bpf_sock_tuple};
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf, SkStorage};
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use aya_ebpf::macros::btf_map;
use proxy_common::account::{
    ANY_QUARANTINED, Account, DRAINING, Parent, SENTINEL, UNIX_DENIED, UNIX_DENIED_TO_ROOT,
};
use proxy_common::event::{COUNTERS as COUNTERS_LEN, Counter, DenyEvent};
use proxy_common::flow::{BOUND, DNS, FlowKey, PROXY, Stamp};
use proxy_common::limits::{
    ACCOUNTS_MAX, DATAGRAM_FLOWS_MAX, EVENTS_BYTES, FLOWS_MAX, FLOWS_PER_ACCOUNT_MAX, JAILED_MAX,
    QUARANTINED_MAX, SCOPES_MAX, SIGHTED_MAX, SIGHTS_BYTES, UNREACHABLE_MAX,
};
use proxy_common::names::{DatagramFlow, DatagramKey, Resolvers};
use proxy_common::scope::{EVERYWHERE, Scope};
use proxy_common::sight::{Sight, TOLD_AGAIN_NS};
use proxy_common::unreachable::{DestinationKey, Unreachable};

use crate::context::{Address, release};

/// `BPF_NOEXIST` of `enum bpf_map_update`: make an entry, never replace one.
const BPF_NOEXIST: u64 = 1;

#[btf_map]
static SOCKETS: SkStorage<Stamp> = SkStorage::new();

#[btf_map]
static FLOWS: HashMap<FlowKey, Stamp, FLOWS_MAX> = HashMap::new();

/// The resolvers each socket asked.
#[btf_map]
static RESOLVERS: SkStorage<Resolvers> = SkStorage::new();

#[btf_map]
static DATAGRAMS: LruHashMap<DatagramKey, DatagramFlow, DATAGRAM_FLOWS_MAX> = LruHashMap::new();

#[btf_map]
static SCOPES: HashMap<u64, Scope, SCOPES_MAX> = HashMap::new();

/// When a namespace without a proxy was told last.
#[btf_map]
static SIGHTED: LruHashMap<u64, u64, SIGHTED_MAX> = LruHashMap::new();

#[btf_map]
static SIGHTS: RingBuf<Sight, SIGHTS_BYTES> = RingBuf::new();

#[btf_map]
static PARENT: Array<Parent, 1> = Array::new();

#[btf_map]
static ACCOUNTS: HashMap<u64, Account, ACCOUNTS_MAX> = HashMap::new();

/// Cgroups of which nothing may leave; the value says nothing.
#[btf_map]
static QUARANTINED: HashMap<u64, u32, QUARANTINED_MAX> = HashMap::new();

/// Cgroups of runs around which root closed a jail; the value says nothing.
#[btf_map]
static JAILED: HashMap<u64, u32, JAILED_MAX> = HashMap::new();

#[btf_map]
static UNREACHABLE: LruHashMap<DestinationKey, Unreachable, UNREACHABLE_MAX> = LruHashMap::new();

#[btf_map]
static EVENTS: RingBuf<DenyEvent, EVENTS_BYTES> = RingBuf::new();

#[btf_map]
static COUNTERS: PerCpuArray<u64, COUNTERS_LEN> = PerCpuArray::new();

/// Port of the proxy in a namespace.
#[inline(always)]
pub fn proxy_port(netns_cookie: u64) -> Option<u16> {
    // SAFETY: the value is a plain integer; a torn read is impossible.
    let scope = unsafe { SCOPES.get(netns_cookie) }?;
    let port = scope.proxy_port;
    (port != 0).then_some(port)
}

/// Port of the proxy in all namespaces, those without one included.
#[inline(always)]
pub fn port_everywhere() -> Option<u16> {
    proxy_port(EVERYWHERE)
}

/// Tells the daemon of a namespace without a proxy, unless it was told a moment ago.
#[inline(always)]
pub fn sight(sight: &Sight) {
    // SAFETY: the value is a plain integer; a torn read is impossible.
    if let Some(told) = unsafe { SIGHTED.get(sight.netns_cookie) }
        && sight.at_ns.wrapping_sub(*told) < TOLD_AGAIN_NS
    {
        return;
    }
    // Told once too often or not at all: the next socket tells again.
    if SIGHTED.insert(sight.netns_cookie, sight.at_ns, 0).is_ok() && SIGHTS.output(sight, 0).is_err() {}
}

/// First port of the resolver in a namespace that has one.
#[inline(always)]
pub fn dns_port(netns_cookie: u64) -> Option<u16> {
    // SAFETY: the value is a plain integer; a torn read is impossible.
    let scope = unsafe { SCOPES.get(netns_cookie) }?;
    let port = scope.dns_port;
    (port != 0).then_some(port)
}

/// The stamp of a socket that was let through to the proxy. The pointer must be null or a full socket.
#[inline(always)]
pub fn stamp_of(socket: *mut bpf_sock) -> Option<&'static Stamp> {
    mark_of(socket).filter(|stamp| stamp.kind == PROXY)
}

/// The stamp of a socket that asks the resolver. The pointer must be null or a full socket.
#[inline(always)]
pub fn asker_of(socket: *mut bpf_sock) -> Option<&'static Stamp> {
    mark_of(socket).filter(|stamp| stamp.kind == DNS)
}

/// The resolvers that a socket asked. The pointer must be null or a full socket.
#[inline(always)]
pub fn resolvers_of(socket: *mut bpf_sock) -> Option<&'static Resolvers> {
    // SAFETY: null or a live value of this very type.
    unsafe { resolvers(socket, 0).as_ref() }
}

/// The same, made if need be; none when the kernel gives no room.
#[inline(always)]
pub fn resolvers_for(socket: *mut bpf_sock) -> Option<&'static mut Resolvers> {
    // SAFETY: null or a live value of this very type; the caller's hook holds the socket's lock.
    unsafe { resolvers(socket, u64::from(BPF_SK_STORAGE_GET_F_CREATE)).as_mut() }
}

#[inline(always)]
fn resolvers(socket: *mut bpf_sock, flags: u64) -> *mut Resolvers {
    if socket.is_null() {
        return null_mut();
    }
    let table = (&raw const RESOLVERS).cast_mut().cast();
    // SAFETY: the helper checks the socket; without an initial value a new entry is zero.
    unsafe { bpf_sk_storage_get(table, socket.cast(), null_mut(), flags).cast() }
}

/// Whose a source port is.
#[inline(always)]
pub fn datagram_flow(key: &DatagramKey) -> Option<&'static DatagramFlow> {
    // SAFETY: a value that changes under the reader is compared and written anew, never trusted.
    unsafe { DATAGRAMS.get(key) }
}

/// Notes whose a source port is.
#[inline(always)]
pub fn put_datagram_flow(key: &DatagramKey, flow: &DatagramFlow) -> bool {
    DATAGRAMS.insert(key, flow, 0).is_ok()
}

/// Whether the agents' programs have met this socket, let through or not.
#[inline(always)]
pub fn is_met(socket: *mut bpf_sock) -> bool {
    mark_of(socket).is_some()
}

/// The account of the listener that a connection to these ends would reach; `None` if there is none, or nobody's.
#[inline(always)]
pub fn listener_of(ctx: &Address, tuple: &mut bpf_sock_tuple, size: u32) -> Option<u64> {
    let socket = ctx.look_up(tuple, size);
    if socket.is_null() {
        return None;
    }
    let owner = mark_of(socket).map_or(0, |stamp| if stamp.kind == BOUND { stamp.account } else { 0 });
    release(socket);
    (owner != 0).then_some(owner)
}

/// What the agents' programs noted on a socket. The pointer must be null or a full socket.
#[inline(always)]
pub fn mark_of(socket: *mut bpf_sock) -> Option<&'static Stamp> {
    if socket.is_null() {
        return None;
    }
    // SAFETY: the helper checks the socket; storage lives as long as the program runs.
    unsafe { bpf_sk_storage_get(sockets(), socket.cast(), null_mut(), 0).cast::<Stamp>().as_ref() }
}

/// Notes that the agents' programs have met this socket; a stamp it carries stays.
#[inline(always)]
pub fn mark_met(socket: *mut bpf_sock) {
    if socket.is_null() {
        return;
    }
    // Without an initial value the new stamp is zero, which lets nothing through. No room changes no verdict.
    // SAFETY: the helper checks the socket.
    let _mark = unsafe {
        bpf_sk_storage_get(sockets(), socket.cast(), null_mut(), u64::from(BPF_SK_STORAGE_GET_F_CREATE))
    };
}

/// Writes a stamp, over an older one if need be. False when the kernel gives no room.
#[inline(always)]
pub fn put_stamp(socket: *mut bpf_sock, stamp: &Stamp) -> bool {
    if socket.is_null() {
        return false;
    }
    // SAFETY: the helper checks the socket and copies the initial value.
    let slot = unsafe {
        bpf_sk_storage_get(
            sockets(),
            socket.cast(),
            from_ref(stamp).cast_mut().cast(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
    }
    .cast::<Stamp>();
    // SAFETY: null or a live value of this very type.
    match unsafe { slot.as_mut() } {
        Some(slot) => {
            *slot = *stamp;
            true
        }
        None => false,
    }
}

/// Notes a flow on its way to the proxy. False when the table is full. INVARIANT: an entry is never replaced unseen, so that
/// each is counted once for its account.
#[inline(always)]
pub fn put_flow(key: &FlowKey, stamp: &Stamp) -> bool {
    if FLOWS.insert(key, stamp, BPF_NOEXIST).is_ok() {
        return true;
    }
    cold_path();
    // Left behind by an earlier connection between these ends, if it is not for want of room: that one is over.
    let Some(old) = flow(key) else { return false };
    let account = old.account;
    if drop_flow(key) {
        flow_ended(account, Tally::Unanswered);
    }
    FLOWS.insert(key, stamp, BPF_NOEXIST).is_ok()
}

/// Takes a flow's stamp out; none when somebody else does at the same moment.
#[inline(always)]
pub fn take_flow(key: &FlowKey) -> Option<Stamp> {
    // SAFETY: the writer finished before the handshake that brought us here.
    let stamp = *unsafe { FLOWS.get(key) }?;
    drop_flow(key).then_some(stamp)
}

/// The stamp filed for a flow.
#[inline(always)]
pub fn flow(key: &FlowKey) -> Option<&'static Stamp> {
    // SAFETY: an entry is written once and stays for the run of the program.
    unsafe { FLOWS.get(key) }
}

/// Forgets a flow. True for one caller only, who then owes a [`flow_ended`]; one that is gone already is fine.
#[inline(always)]
pub fn drop_flow(key: &FlowKey) -> bool {
    FLOWS.remove(key).is_ok()
}

/// Counts how a flow ended, and that it is not under way any more.
#[inline(always)]
pub fn flow_ended(account: u64, how: Tally) {
    if let Some(counts) = counts(account) {
        counts.give_back();
        counts.add(how);
    }
}

/// The agents' parent; a table that was not filled yet reads as a parent that nothing is below of.
#[inline(always)]
pub fn parent() -> Parent {
    match PARENT.get(0) {
        Some(parent) => *parent,
        None => Parent { cgroup_id: 0, level: 0, flags: 0, seal: 0, reserved: 0 },
    }
}

/// What an account counts.
#[derive(Clone, Copy)]
pub enum Tally {
    Redirected,
    Delivered,
    Unanswered,
    Denied,
    Dropped,
    Local,
    Datagrams,
}

/// Counts for an account, making it if need be. False when there is no room.
#[inline(always)]
pub fn tally(account: u64, what: Tally) -> bool {
    let Some(counts) = counts(account) else { return false };
    counts.add(what);
    true
}

/// The counts of one account. INVARIANT: points at a live entry for the run of the program; only atomic operations change it.
#[derive(Clone, Copy)]
pub struct Counts(*mut Account);

/// The counts of an account, made if need be; none when there is no room.
#[inline(always)]
pub fn counts(account: u64) -> Option<Counts> {
    if let Some(entry) = ACCOUNTS.get_ptr_mut(&account) {
        return Some(Counts(entry));
    }
    cold_path();
    // On the stack: a constant's own place would be a table of its own in the object.
    let none = Account::NONE;
    // Another processor may have made it meanwhile: that one counts, so an existing entry is not replaced.
    if ACCOUNTS.insert(&account, &none, BPF_NOEXIST).is_err() {}
    ACCOUNTS.get_ptr_mut(&account).map(Counts)
}

impl Counts {
    #[inline(always)]
    pub fn add(self, what: Tally) {
        let Self(entry) = self;
        // SAFETY: see the type.
        let count = unsafe {
            match what {
                Tally::Redirected => &raw mut (*entry).redirected,
                Tally::Delivered => &raw mut (*entry).delivered,
                Tally::Unanswered => &raw mut (*entry).unanswered,
                Tally::Denied => &raw mut (*entry).denied,
                Tally::Dropped => &raw mut (*entry).dropped,
                Tally::Local => &raw mut (*entry).local,
                Tally::Datagrams => &raw mut (*entry).datagrams,
            }
        };
        add(count, 1);
    }

    /// Whether the account has all its flows under way.
    #[inline(always)]
    pub fn is_at_quota(self) -> bool {
        self.filed() >= FLOWS_PER_ACCOUNT_MAX as i64
    }

    /// Takes the place of one flow, to be given back; false when none is left. Taken first and looked at then, so that two
    /// processors that take the last one at the same moment get it neither.
    #[inline(always)]
    pub fn take_place(self) -> bool {
        add(self.places(), 1);
        if self.filed() <= FLOWS_PER_ACCOUNT_MAX as i64 {
            return true;
        }
        self.give_back();
        false
    }

    #[inline(always)]
    pub fn give_back(self) {
        // One less: the operation adds, and wraps.
        add(self.places(), u64::MAX);
    }

    #[inline(always)]
    fn filed(self) -> i64 {
        let Self(entry) = self;
        // SAFETY: see the type; the value is aligned, a torn read is impossible.
        unsafe { read_volatile(&raw const (*entry).filed) }
    }

    #[inline(always)]
    fn places(self) -> *mut u64 {
        let Self(entry) = self;
        // SAFETY: see the type; both kinds of number have the same bytes.
        unsafe { (&raw mut (*entry).filed).cast() }
    }
}

#[inline(always)]
fn add(count: *mut u64, number: u64) {
    // SAFETY: points into a live entry of a table.
    // The target is said to have no atomic operations, so the library's types lack this one; every kernel has it.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(count, number) };
}

/// Whether a cgroup is quarantined.
#[inline(always)]
pub fn is_quarantined(cgroup_id: u64) -> bool {
    // SAFETY: the value is not read.
    unsafe { QUARANTINED.get(&cgroup_id) }.is_some()
}

/// What the daemon noted about a destination.
#[inline(always)]
pub fn unreachable(key: &DestinationKey) -> Option<Unreachable> {
    // SAFETY: copied at once; an entry that gives way meanwhile is another refusal at worst.
    unsafe { UNREACHABLE.get(key) }.copied()
}

/// Whether some cgroup is quarantined.
#[inline(always)]
pub fn any_quarantined(parent: &Parent) -> bool {
    parent.flags & ANY_QUARANTINED != 0
}

/// Whether nothing new may start.
#[inline(always)]
pub fn is_draining(parent: &Parent) -> bool {
    parent.flags & DRAINING != 0
}

/// Whether sockets made outside are refused.
#[inline(always)]
pub fn watches_sockets(parent: &Parent) -> bool {
    parent.flags & SENTINEL != 0
}

/// Whether this user may not use unix sockets by name, in a run of this cgroup. A jail has its own answer to them, and an agent
/// in one may talk to itself, unless the operator denied it to everybody.
#[inline(always)]
pub fn denies_local(parent: &Parent, uid: u32, run: u64) -> bool {
    if parent.flags & UNIX_DENIED_TO_ROOT != 0 {
        return true;
    }
    uid != 0 && parent.flags & UNIX_DENIED != 0 && !is_jailed(run)
}

#[inline(always)]
fn is_jailed(run: u64) -> bool {
    // SAFETY: the value is not read.
    unsafe { JAILED.get(&run) }.is_some()
}

/// Counts.
#[inline(always)]
pub fn count(index: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: per-CPU slot, programs do not migrate while they run.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
}

/// Counts and reports one denial.
#[inline(always)]
pub fn report(event: &DenyEvent) {
    count(event.reason);
    if EVENTS.output(event, 0).is_err() {
        count(Counter::EventLost as u32);
    }
}

/// The socket storage as helpers want it; aya's own accessor serves `connect` contexts only.
#[inline(always)]
fn sockets() -> *mut core::ffi::c_void {
    (&raw const SOCKETS).cast_mut().cast()
}
