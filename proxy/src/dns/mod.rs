//! Names: what agents may ask a resolver, and what they hear.
//!
//! Every question of an agent to any resolver ends here. Policy is asked before anything leaves: names of registered
//! resources are answered from what the daemon itself looked up, every other name needs a permit on `Resource::"dns"`. Only
//! then is an upstream resolver asked, and only an answer to the very question, of bounded size, is passed on.
//! Refuses: other questions than for addresses, known endpoints of encrypted DNS, names that carry data, more questions than
//! an agent needs, and answers that point into the host's own network without a registered resource there. Addresses to which this
//! machine knows no road are left out of answers, so that clients on a host without IPv6 do not try it.
//! INVARIANT: no question goes upstream that was not allowed and recorded first.
//! Known limits: no DNSSEC validation, no TXT, MX or SRV; the registered domain of a name is taken to be its last two labels,
//! three below a country's kinds of registrants (`co.uk`).

mod answer;
mod cache;
mod ledger;
mod limits;
mod public;
mod question;
mod service;
mod stream;
mod upstream;

use std::net::SocketAddr;

pub use service::{Asker, Names};
pub use stream::{STREAMS_EACH_MAX, STREAMS_MAX};
pub use upstream::system;

/// How a refusal is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// `REFUSED`: the truth. Some clients then ask their next resolver, and some stop looking through their search list.
    Refused,
    /// `NXDOMAIN`: for clients that take a refusal for a fault.
    NxDomain,
}

/// What the operator decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Resolvers to ask; `None` means those of `/etc/resolv.conf`.
    pub upstreams: Option<Vec<SocketAddr>>,
    /// How a refusal is told.
    pub denial: Denial,
}
