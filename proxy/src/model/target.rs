//! Registered resources: what may be reached, how, and with which credential.
//!
//! Secrets are typed so that `Debug` prints a placeholder; they are never serialised.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A protocol that Chaperone speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// PostgreSQL 3.0 and 3.2.
    Postgres,
    /// TCP whose bytes nobody reads: policy judges the connection and nothing in it.
    Opaque,
    /// Questions to the daemon's resolver; no registered resource speaks it.
    Dns,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres => f.write_str("postgres"),
            Self::Opaque => f.write_str("opaque"),
            Self::Dns => f.write_str("dns"),
        }
    }
}

/// What policies call the daemon's resolver: `Resource::"dns"`. No registered resource may have this name.
pub const RESOLVER: &str = "dns";

/// One address entry of a resource: `host:port`, `ip:port`, `[ip6]:port` or `net/bits:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AddressPattern {
    /// A DNS or hosts-file name; resolved by the daemon.
    Name {
        /// Host name.
        host: String,
        /// Port.
        port: u16,
    },
    /// One address or a whole network.
    Network {
        /// Network address.
        address: IpAddr,
        /// Prefix length in bits; 32 or 128 for one address.
        bits: u8,
        /// Port.
        port: u16,
    },
}

/// An address entry that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an address; write host:port, ip:port, [ip6]:port or network/bits:port")]
pub struct PatternError(pub String);

impl AddressPattern {
    /// Reads one entry.
    ///
    /// # Errors
    /// When the text is none of the four forms.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let refuse = || PatternError(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
        let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(refuse)?;
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        match network(bare) {
            Some((address, bits)) => Ok(Self::Network { address, bits, port }),
            None if is_host_name(bare) => Ok(Self::Name { host: bare.to_ascii_lowercase(), port }),
            None => Err(refuse()),
        }
    }

    /// Whether the entry is one address, written out: neither a name nor a wider network.
    #[must_use]
    pub fn is_one_address(&self) -> bool {
        match self {
            Self::Name { .. } => false,
            Self::Network { address: IpAddr::V4(_), bits, .. } => *bits == 32,
            Self::Network { address: IpAddr::V6(_), bits, .. } => *bits == 128,
        }
    }

    /// Whether an original destination falls under a network entry. Names never match here: they are resolved first.
    #[must_use]
    pub fn contains(&self, destination: SocketAddr) -> bool {
        match self {
            Self::Name { .. } => false,
            Self::Network { address, bits, port } => {
                *port == destination.port() && same_network(*address, destination.ip().to_canonical(), *bits)
            }
        }
    }
}

/// Reads an address, or a network as `address/bits`: the address and how many of its bits count.
#[must_use]
pub fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.map_or(Ok(most), str::parse::<u8>).ok().filter(|bits| *bits <= most)?;
    Some((address, bits))
}

fn is_host_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-' || byte == b'_')
}

/// Whether an address is of the same family as the network and agrees with it in so many bits.
#[must_use]
pub fn same_network(network: IpAddr, address: IpAddr, bits: u8) -> bool {
    let wide = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    let ((left, left_width), (right, right_width)) = (wide(network), wide(address));
    let shift = 128_u32.saturating_sub(u32::from(bits));
    left_width == right_width && left.checked_shr(shift).unwrap_or(0) == right.checked_shr(shift).unwrap_or(0)
}

/// Text that must not be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(zeroize::Zeroizing<String>);

impl Secret {
    /// Takes ownership of a secret; the memory is wiped on drop.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(zeroize::Zeroizing::new(text))
    }

    /// The secret itself. Call it only where the bytes go to the resource.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The backend credential of a resource. Files are read at each dial, so that rotation needs no restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Account on the resource.
    pub user: String,
    /// File with the password (mode 0600 or 0400, or a systemd credential), if there is one.
    pub password_file: Option<PathBuf>,
    /// Client certificate chain and key in PEM, if the resource wants one.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
}

impl Credential {
    /// For resources that need none.
    #[must_use]
    pub fn none() -> Self {
        Self { user: String::new(), password_file: None, client_certificate: None }
    }
}

/// How strictly the resource's certificate is checked; the words are libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpstreamTlsMode {
    /// Plain text. The credential crosses the wire in the clear unless the resource uses SCRAM.
    Disable,
    /// TLS, any certificate.
    Require,
    /// TLS, certificate signed by the CA file.
    VerifyCa,
    /// TLS, certificate signed by the CA file and naming the host. The default.
    VerifyFull,
}

/// TLS rules towards a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    /// Strictness.
    pub mode: UpstreamTlsMode,
    /// PEM file of the accepted CAs; `None` means the system's store.
    pub ca_file: Option<PathBuf>,
    /// Name to verify instead of the one in `addresses`, for resources registered by IP.
    pub server_name: Option<String>,
}

/// A registered target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Name in the configuration and in policies.
    pub name: String,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Where it is.
    pub addresses: Vec<AddressPattern>,
    /// Labels for policy, `env = prod`.
    pub labels: BTreeMap<String, String>,
    /// Backend credential.
    pub credential: Credential,
    /// TLS towards it.
    pub tls: UpstreamTls,
    /// How long a request may be held in line before the agent gets an error with the ticket.
    pub hold: Duration,
    /// Whether agents must answer a SCRAM challenge with the placeholder password.
    pub agent_scram: bool,
    /// Whether reads too wait for the record to be on disk.
    pub sync_reads: bool,
    /// How long a connection whose bytes nobody reads may be silent.
    pub idle: Duration,
}

impl Resource {
    /// Name of the resource that stands for every destination that nobody registered.
    pub const UNREGISTERED: &str = "unregistered";
    /// Label that tells it from all others: `registered=no`.
    pub const REGISTERED: &str = "registered";

    /// What policy is asked about where nobody registered a resource and `default` is `observe`.
    #[must_use]
    pub fn unregistered(hold: Duration, idle: Duration) -> Self {
        Self {
            name: Self::UNREGISTERED.to_owned(),
            protocol: Protocol::Opaque,
            addresses: Vec::new(),
            labels: BTreeMap::from([(Self::REGISTERED.to_owned(), "no".to_owned())]),
            credential: Credential::none(),
            tls: UpstreamTls { mode: UpstreamTlsMode::Disable, ca_file: None, server_name: None },
            hold,
            agent_scram: false,
            sync_reads: false,
            idle,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_all_four_forms() {
        assert!(matches!(
            AddressPattern::parse("db.internal:5432"),
            Ok(AddressPattern::Name { port: 5432, .. })
        ));
        assert!(matches!(AddressPattern::parse("10.0.0.1:1"), Ok(AddressPattern::Network { bits: 32, .. })));
        assert!(matches!(
            AddressPattern::parse("[fd00::1]:5432"),
            Ok(AddressPattern::Network { bits: 128, .. })
        ));
        assert!(matches!(
            AddressPattern::parse("10.20.0.0/16:5432"),
            Ok(AddressPattern::Network { bits: 16, .. })
        ));
        for wrong in ["db", "db:0", "db:99999", "10.0.0.0/33:1", "a b:1", ":5", "fe80::/200:1"] {
            assert!(AddressPattern::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_network_contains_its_addresses_only_at_its_port() {
        let net = AddressPattern::parse("10.20.0.0/16:5432").unwrap();
        assert!(net.contains("10.20.255.1:5432".parse().unwrap()));
        assert!(net.contains("[::ffff:10.20.1.1]:5432".parse().unwrap()));
        assert!(!net.contains("10.21.0.1:5432".parse().unwrap()));
        assert!(!net.contains("10.20.0.1:5433".parse().unwrap()));
        let all = AddressPattern::parse("0.0.0.0/0:1").unwrap();
        assert!(all.contains("8.8.8.8:1".parse().unwrap()));
        assert!(!all.contains("[::1]:1".parse().unwrap()));
    }

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(format!("{:?}", Secret::new("hunter2".into())), "Secret(..)");
    }
}
