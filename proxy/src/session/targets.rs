//! Which resource an address belongs to.
//!
//! Networks are matched as they are; names are resolved by the daemon, again every half minute, and matched by what they
//! resolved to. INVARIANT: an address that matches two resources matches none. A cloud's metadata service belongs to a resource
//! only if its very address is registered: not by a wide network, nor by a name, which others may point there.
//! Known limit: a name whose address changed is refused at the new address until the next look-up.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;

use crate::model::{AddressPattern, Resource};
use crate::net::{inner, is_listed, is_metadata, is_resolver};

/// How often names are looked up again.
pub const LOOKUP_EVERY: Duration = Duration::from_secs(30);
/// Longest time for one look-up.
const LOOKUP_TIME_MAX: Duration = Duration::from_secs(5);

/// Addresses of each name and port.
type Names = HashMap<(String, u16), Vec<IpAddr>>;

/// The registered resources with the addresses of their names. Clones share them.
#[derive(Debug, Clone)]
pub struct Targets {
    resources: Arc<RwLock<Vec<Arc<Resource>>>>,
    names: Arc<RwLock<Names>>,
}

impl Targets {
    /// Over these resources; no name is known before the first [`Targets::look_up`].
    #[must_use]
    pub fn new(resources: Vec<Arc<Resource>>) -> Self {
        Self { resources: Arc::new(RwLock::new(resources)), names: Arc::default() }
    }

    /// Replaces the resources; open sessions keep theirs.
    pub fn replace(&self, resources: Vec<Arc<Resource>>) {
        *self.resources.write() = resources;
    }

    /// The resources now.
    pub(super) fn resources(&self) -> Vec<Arc<Resource>> {
        self.resources.read().clone()
    }

    /// What a name of a resource resolved to.
    pub(super) fn looked_up(&self, host: &str, port: u16) -> Vec<IpAddr> {
        self.names.read().get(&(host.to_owned(), port)).cloned().unwrap_or_default()
    }

    /// Looks all names up. A name that does not resolve now keeps the addresses it had.
    pub async fn look_up(&self) {
        let wanted: Vec<(String, u16)> = self.resources.read().iter().flat_map(|one| names_of(one)).collect();
        for (host, port) in wanted {
            let lookup = tokio::net::lookup_host((host.clone(), port));
            match tokio::time::timeout(LOOKUP_TIME_MAX, lookup).await {
                Ok(Ok(addresses)) => {
                    let mut addresses: Vec<IpAddr> =
                        addresses.map(|address| address.ip().to_canonical()).collect();
                    if addresses.iter().any(|address| is_metadata(*address)) {
                        tracing::warn!(%host, "name of a resource points to a metadata service; that address is left out");
                        addresses.retain(|address| !is_metadata(*address));
                    }
                    self.names.write().insert((host, port), addresses);
                }
                Ok(Err(error)) => tracing::warn!(%host, %error, "name of a resource does not resolve"),
                Err(_) => tracing::warn!(%host, "name of a resource does not resolve in time"),
            }
        }
    }

    /// The resource at an address, and where it can be reached.
    ///
    /// # Errors
    /// When there is none, or none that may be meant.
    pub fn at(&self, destination: SocketAddr) -> Result<Target, Missing> {
        let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
        match self.matching(destination).as_slice() {
            [target] => Ok(target.clone()),
            [_, _, ..] => Err(Missing::Ambiguous),
            [] if is_metadata(destination.ip()) => Err(Missing::Metadata),
            [] => match inner(destination.ip()) {
                // By a detour it would be somebody else's bytes and policy.
                Some(v4) if !self.matching((v4, destination.port()).into()).is_empty() => {
                    Err(Missing::Disguised)
                }
                Some(_) | None if is_resolver(destination) => Err(Missing::Resolver),
                Some(_) | None => Err(Missing::Unregistered),
            },
        }
    }

    /// Every resource that has an entry for the address.
    fn matching(&self, destination: SocketAddr) -> Vec<Target> {
        let names = self.names.read();
        let resources = self.resources.read();
        let guarded = is_metadata(destination.ip());
        // A wide network does not mean the resolvers in it.
        let by_itself = guarded || is_listed(destination.ip());
        let of = |resource: &Arc<Resource>| {
            let routes = resource.addresses.iter().filter_map(|pattern| match pattern {
                AddressPattern::Network { .. } => (pattern.contains(destination)
                    && (!by_itself || pattern.is_one_address()))
                .then(|| vec![destination]),
                AddressPattern::Name { host, port } => names
                    .get(&(host.clone(), *port))
                    .filter(|ips| *port == destination.port() && !guarded && ips.contains(&destination.ip()))
                    .map(|ips| routes(destination, ips)),
            });
            // Registered by its very address, it is reached there and nowhere else: the certificate must name it.
            let routes = routes.min_by_key(Vec::len)?;
            Some(Target { resource: Arc::clone(resource), routes })
        };
        resources.iter().filter_map(of).collect()
    }
}

/// A resource and the addresses to dial for it: the one that the agent dialled first, then others of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The resource.
    pub resource: Arc<Resource>,
    /// Where to dial.
    pub routes: Vec<SocketAddr>,
}

/// Why no resource is meant by an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// None is registered there.
    Unregistered,
    /// More than one is.
    Ambiguous,
    /// It is a cloud's metadata service, and not registered by its very address.
    Metadata,
    /// It is another way of writing the address of a registered one.
    Disguised,
    /// It is a public resolver that no resource registers by its very address or name, or the port of DNS over TLS: whoever reaches it
    /// asks for names past the daemon.
    Resolver,
}

impl Missing {
    /// For the record.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unregistered => "no resource is registered at this address",
            Self::Ambiguous => "more than one resource is registered at this address",
            Self::Metadata => "a metadata service, which no resource registers by its very address",
            Self::Disguised => "another way of writing the address of a registered resource",
            Self::Resolver => "a resolver, which no resource registers by its very address or name",
        }
    }
}

/// The address dialled, then the others of its name.
pub(super) fn routes(destination: SocketAddr, ips: &[IpAddr]) -> Vec<SocketAddr> {
    let others = ips.iter().filter(|ip| **ip != destination.ip());
    std::iter::once(destination).chain(others.map(|ip| (*ip, destination.port()).into())).collect()
}

/// Whether an address means the network namespace it is dialled in: loopback, and "this host", which systems take for it. From a
/// container such an address is the container's own, where no resource can be; from the host's namespace it is the host's.
pub(super) fn is_own_address(destination: SocketAddr) -> bool {
    let ip = destination.ip().to_canonical();
    ip.is_loopback() || ip.is_unspecified()
}

fn names_of(resource: &Resource) -> Vec<(String, u16)> {
    let name = |pattern: &AddressPattern| match pattern {
        AddressPattern::Name { host, port } => Some((host.clone(), *port)),
        AddressPattern::Network { .. } => None,
    };
    resource.addresses.iter().filter_map(name).collect()
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::model::{Credential, Protocol, UpstreamTls, UpstreamTlsMode};

    pub(in crate::session) fn resource(name: &str, addresses: &[&str]) -> Arc<Resource> {
        Arc::new(Resource {
            name: name.into(),
            protocol: Protocol::Postgres,
            addresses: addresses.iter().map(|text| AddressPattern::parse(text).unwrap()).collect(),
            labels: std::collections::BTreeMap::new(),
            credential: Credential { user: "u".into(), password_file: None, client_certificate: None },
            tls: UpstreamTls { mode: UpstreamTlsMode::Disable, ca_file: None, server_name: None },
            hold: Duration::from_secs(1),
            agent_scram: false,
            sync_reads: false,
            idle: Duration::ZERO,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::testing::resource;
    use super::*;

    #[test]
    fn an_address_of_two_resources_is_refused() {
        let targets =
            Targets::new(vec![resource("a", &["10.0.0.0/8:5432"]), resource("b", &["10.1.0.0/16:5432"])]);
        assert_eq!(targets.at("10.2.0.1:5432".parse().unwrap()).unwrap().resource.name, "a");
        assert_eq!(targets.at("10.1.0.1:5432".parse().unwrap()), Err(Missing::Ambiguous));
        assert_eq!(targets.at("10.2.0.1:5433".parse().unwrap()), Err(Missing::Unregistered));
        assert_eq!(targets.at("[64:ff9b::10.2.0.1]:5432".parse().unwrap()), Err(Missing::Disguised));
    }

    #[test]
    fn a_metadata_service_belongs_only_to_whoever_registers_its_very_address() {
        let at = |pattern: &str, destination: &str| {
            Targets::new(vec![resource("a", &[pattern])])
                .at(destination.parse().unwrap())
                .map(|target| target.resource.name.clone())
        };
        for (wide, destination) in [
            ("0.0.0.0/0:80", "169.254.169.254:80"),
            ("169.254.0.0/16:80", "169.254.170.2:80"),
            ("100.64.0.0/10:80", "[::ffff:100.100.100.200]:80"),
            ("::/0:80", "[fd00:ec2::254]:80"),
            ("64:ff9b::/96:80", "[64:ff9b::169.254.169.254]:80"),
            ("169.254.169.254:80", "[64:ff9b::169.254.169.254]:80"),
        ] {
            assert_eq!(at(wide, destination), Err(Missing::Metadata), "{wide} {destination}");
        }
        for (exact, destination) in [
            ("169.254.169.254:80", "169.254.169.254:80"),
            ("169.254.169.254/32:80", "[::ffff:169.254.169.254]:80"),
            ("[fd00:ec2::254]:80", "[fd00:ec2::254]:80"),
        ] {
            assert_eq!(at(exact, destination), Ok("a".to_owned()), "{exact} {destination}");
        }
    }

    #[test]
    fn a_resolver_is_reached_only_where_a_resource_is_registered() {
        let targets =
            Targets::new(vec![resource("own", &["192.0.2.53:853", "8.8.4.4:443", "9.0.0.0/8:5053"])]);
        let at = |destination: &str| targets.at(destination.parse().unwrap()).map(|_| ());
        for resolver in
            ["192.0.2.54:853", "8.8.4.4:444", "1.1.1.1:443", "[64:ff9b::101:101]:443", "9.9.9.9:5053"]
        {
            assert_eq!(at(resolver), Err(Missing::Resolver), "{resolver}");
        }
        for registered in ["192.0.2.53:853", "8.8.4.4:443"] {
            assert_eq!(at(registered), Ok(()), "{registered}");
        }
        assert_eq!((at("192.0.2.54:443"), at("9.9.9.1:5053")), (Err(Missing::Unregistered), Ok(())));
        let named = Targets::new(vec![resource("named", &["resolver.internal:443"])]);
        named.names.write().insert(("resolver.internal".into(), 443), vec!["8.8.8.8".parse().unwrap()]);
        assert!(named.at("8.8.8.8:443".parse().unwrap()).is_ok());
    }

    #[test]
    fn a_name_that_was_pointed_to_a_metadata_service_does_not_reach_it() {
        let targets = Targets::new(vec![resource("a", &["db.internal:80"])]);
        let ips = ["192.0.2.1", "169.254.169.254"].map(|ip| ip.parse().unwrap()).to_vec();
        targets.names.write().insert(("db.internal".into(), 80), ips);
        assert_eq!(targets.at("169.254.169.254:80".parse().unwrap()), Err(Missing::Metadata));
        assert!(targets.at("192.0.2.1:80".parse().unwrap()).is_ok());
    }

    #[test]
    fn the_address_dialled_comes_before_the_others_of_its_name() {
        let targets = Targets::new(vec![resource("a", &["db.internal:80", "192.0.2.8/29:80"])]);
        let ips =
            ["192.0.2.1", "2001:db8::1", "192.0.2.2", "192.0.2.9"].map(|ip| ip.parse().unwrap()).to_vec();
        targets.names.write().insert(("db.internal".into(), 80), ips);
        let text =
            |routes: Vec<SocketAddr>| routes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let routes = targets.at("192.0.2.2:80".parse().unwrap()).unwrap().routes;
        assert_eq!(text(routes), "192.0.2.2:80 192.0.2.1:80 [2001:db8::1]:80 192.0.2.9:80");
        assert_eq!(text(targets.at("192.0.2.9:80".parse().unwrap()).unwrap().routes), "192.0.2.9:80");
    }

    #[test]
    fn loopback_and_this_host_are_a_namespaces_own_in_every_spelling() {
        for own in ["127.0.0.1:1", "127.9.9.9:1", "0.0.0.0:1", "[::1]:1", "[::]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(is_own_address(own.parse().unwrap()), "{own}");
        }
        for other in ["192.0.2.1:1", "[2001:db8::1]:1", "[::ffff:192.0.2.1]:1", "169.254.169.254:80"] {
            assert!(!is_own_address(other.parse().unwrap()), "{other}");
        }
    }

    #[tokio::test]
    async fn a_name_matches_only_after_it_was_looked_up() {
        let targets = Targets::new(vec![resource("a", &["localhost:5432"])]);
        let address = "127.0.0.1:5432".parse().unwrap();
        assert!(targets.at(address).is_err());
        targets.look_up().await;
        assert!(targets.at(address).is_ok());
    }
}
