//! Sizes of the kernel's tables.
//!
//! Every table is bounded, and a full one refuses: what does not fit is denied, never let through without identity.
//! INVARIANT: daemon and kernel programs read the same constants.

/// Network namespaces with a proxy: one for the host and one per container; no host runs more.
pub const SCOPES_MAX: usize = 4096;

/// Namespaces without a proxy that were told to the daemon lately. The least recent one gives way, and is told again.
pub const SIGHTED_MAX: usize = 1024;

/// Bytes of the ring of sightings: 64 KiB hold over 2000, more than a host's containers start at once.
pub const SIGHTS_BYTES: usize = 65_536;

/// Accounts: agents and units that ran since the daemon last cleared away those that are gone. A full table denies the new
/// account's connections, for what is not counted cannot be checked.
pub const ACCOUNTS_MAX: usize = 16_384;

/// Quarantined cgroups: an agent has one for its runs and one for each unit it matches.
pub const QUARANTINED_MAX: usize = 4096;

/// Runs that closed a jail around themselves: more than a host runs at a time. A run that finds no room is not started.
pub const JAILED_MAX: usize = 16_384;

/// Connections between `connect()` and their arrival at the proxy. An entry lives for one loopback handshake;
/// 65536 is more than the ports one address pair has. A plain hash: when it is full a new connection has no
/// identity and is refused, where an LRU would let a flood evict other agents' identities.
pub const FLOWS_MAX: usize = 65_536;

/// Those of one account: a sixteenth of the table. They pile up only while the daemon does not accept and its queue of 4096 is
/// full; an agent that has as many again under way is not helped by more, and sixteen such agents leave no other without room.
pub const FLOWS_PER_ACCOUNT_MAX: usize = FLOWS_MAX / 16;

/// Destinations that were out of reach within the last seconds, of all accounts. The oldest give way: a lost one means that a
/// connection is sent to the proxy and reset, as the first one was.
pub const UNREACHABLE_MAX: usize = 16_384;

/// Source ports that asked the resolver lately. An LRU: an entry that is gone gives nobody anything, the daemon drops the
/// datagram and the client asks again.
pub const DATAGRAM_FLOWS_MAX: usize = 32_768;

/// Bytes of the ring of deny events: 256 KiB holds over 3000, minutes of a busy misbehaving agent. A power of
/// two and a multiple of the page size, as the kernel demands. A full ring loses the event, never the denial.
pub const EVENTS_BYTES: usize = 262_144;
