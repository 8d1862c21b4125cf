//! Resources by their names: what the resolver may answer, and what a name that was asked for says about an address.
//!
//! INVARIANT: only addresses that the daemon looked up itself count; what an agent was told by others changes nothing here.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::targets::{Target, Targets, routes};
use crate::model::AddressPattern;
use crate::net::is_metadata;

impl Targets {
    /// Addresses of a name that some resource is registered under; `None` if none is, empty if it does not resolve.
    #[must_use]
    pub fn addresses_of(&self, name: &str) -> Option<Vec<IpAddr>> {
        let ports: BTreeSet<u16> = self.patterns(|pattern| match pattern {
            AddressPattern::Name { host, port } if host.trim_end_matches('.') == name => Some(*port),
            AddressPattern::Name { .. } | AddressPattern::Network { .. } => None,
        });
        if ports.is_empty() {
            return None;
        }
        let found: BTreeSet<IpAddr> = ports.iter().flat_map(|port| self.looked_up(name, *port)).collect();
        Some(found.into_iter().collect())
    }

    /// Whether some resource is registered at this address, whatever the port.
    #[must_use]
    pub fn covers(&self, ip: IpAddr) -> bool {
        let ports: BTreeSet<u16> = self.patterns(|pattern| match pattern {
            AddressPattern::Network { port, .. } => {
                Some(*port).filter(|port| pattern.contains((ip, *port).into()))
            }
            AddressPattern::Name { host, port } => {
                Some(*port).filter(|port| self.looked_up(host, *port).contains(&ip.to_canonical()))
            }
        });
        !ports.is_empty()
    }

    /// The resource at an address for somebody who asked for `name`: where several share the address, that one. A metadata service
    /// has no name that counts.
    #[must_use]
    pub fn named(&self, destination: SocketAddr, name: &str) -> Option<Target> {
        let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
        if is_metadata(destination.ip()) {
            return None;
        }
        let here = |pattern: &AddressPattern| match pattern {
            AddressPattern::Name { host, port } => {
                host.trim_end_matches('.') == name
                    && *port == destination.port()
                    && self.looked_up(host, *port).contains(&destination.ip())
            }
            AddressPattern::Network { .. } => false,
        };
        let resources = self.resources();
        let mut matching = resources.iter().filter(|resource| resource.addresses.iter().any(here));
        let resource = Arc::clone(matching.next()?);
        if matching.next().is_some() {
            return None;
        }
        let routes = routes(destination, &self.looked_up(name, destination.port()));
        Some(Target { resource, routes })
    }

    fn patterns<T: Ord>(&self, pick: impl Fn(&AddressPattern) -> Option<T>) -> BTreeSet<T> {
        self.resources().iter().flat_map(|resource| resource.addresses.iter().filter_map(&pick)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::targets::testing::resource;
    use super::*;

    #[tokio::test]
    async fn resources_that_share_an_address_are_told_apart_by_the_name_that_was_asked() {
        let targets = Targets::new(vec![
            resource("a", &["localhost:5432"]),
            resource("b", &["127.0.0.0/8:5432", "10.0.0.0/8:1"]),
        ]);
        let address = "127.0.0.1:5432".parse().unwrap();
        assert_eq!(targets.addresses_of("localhost"), Some(Vec::new()));
        targets.look_up().await;
        assert!(targets.at(address).is_err(), "an address of two resources");
        assert_eq!(targets.named(address, "localhost").unwrap().resource.name, "a");
        assert!(targets.named(address, "other").is_none());
        assert!(targets.named("127.0.0.1:5433".parse().unwrap(), "localhost").is_none());
        assert!(targets.addresses_of("localhost").unwrap().contains(&address.ip()));
        assert_eq!(targets.addresses_of("other"), None);
        assert!(targets.covers("10.9.9.9".parse().unwrap()) && !targets.covers("11.0.0.1".parse().unwrap()));
    }
}
