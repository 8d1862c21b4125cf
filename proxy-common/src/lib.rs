//! Plain data that the kernel programs and the daemon both read and write.
//!
//! Everything here is `repr(C)`, free of padding and of `bool`, with its size asserted at compile time:
//! bytes written by one side are read as they are by the other. No logic beyond conversions.
//!
//! INVARIANT: any change to the layout or meaning of a struct here raises [`ABI`], so that a new daemon never
//! opens maps that an old one pinned with another layout.

#![no_std]

pub mod account;
pub mod event;
pub mod flow;
pub mod limits;
pub mod names;
pub mod offsets;
pub mod scope;
pub mod sight;
pub mod unreachable;

/// Version of the shared layout; part of every pin path.
pub const ABI: u32 = 6;
