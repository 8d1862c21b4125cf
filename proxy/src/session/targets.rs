//! Which resource an address belongs to.
//!
//! Networks are matched as they are; names are resolved by the daemon, again every half minute, and matched by what they
//! resolved to. INVARIANT: an address that matches two resources matches none. Known limit: a name whose address changed is
//! refused at the new address until the next look-up.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;

use crate::model::{AddressPattern, Resource};

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

    /// Looks all names up. A name that does not resolve now keeps the addresses it had.
    pub async fn look_up(&self) {
        let wanted: Vec<(String, u16)> = self.resources.read().iter().flat_map(|one| names_of(one)).collect();
        for (host, port) in wanted {
            let lookup = tokio::net::lookup_host((host.clone(), port));
            match tokio::time::timeout(LOOKUP_TIME_MAX, lookup).await {
                Ok(Ok(addresses)) => {
                    let addresses: Vec<IpAddr> =
                        addresses.map(|address| address.ip().to_canonical()).collect();
                    self.names.write().insert((host, port), addresses);
                }
                Ok(Err(error)) => tracing::warn!(%host, %error, "name of a resource does not resolve"),
                Err(_) => tracing::warn!(%host, "name of a resource does not resolve in time"),
            }
        }
    }

    /// The resource at an address; `None` if there is none or more than one.
    #[must_use]
    pub fn at(&self, destination: SocketAddr) -> Option<Arc<Resource>> {
        let names = self.names.read();
        let resources = self.resources.read();
        let mut matching = resources.iter().filter(|resource| {
            resource.addresses.iter().any(|pattern| match pattern {
                AddressPattern::Network { .. } => pattern.contains(destination),
                AddressPattern::Name { host, port } => {
                    *port == destination.port()
                        && names
                            .get(&(host.clone(), *port))
                            .is_some_and(|ips| ips.contains(&destination.ip().to_canonical()))
                }
            })
        });
        let found = matching.next().map(Arc::clone);
        found.filter(|_| matching.next().is_none())
    }
}

fn names_of(resource: &Resource) -> Vec<(String, u16)> {
    let name = |pattern: &AddressPattern| match pattern {
        AddressPattern::Name { host, port } => Some((host.clone(), *port)),
        AddressPattern::Network { .. } => None,
    };
    resource.addresses.iter().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Credential, Protocol, UpstreamTls, UpstreamTlsMode};

    fn resource(name: &str, addresses: &[&str]) -> Arc<Resource> {
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
        })
    }

    #[test]
    fn an_address_of_two_resources_is_refused() {
        let targets =
            Targets::new(vec![resource("a", &["10.0.0.0/8:5432"]), resource("b", &["10.1.0.0/16:5432"])]);
        assert_eq!(targets.at("10.2.0.1:5432".parse().unwrap()).unwrap().name, "a");
        assert!(targets.at("10.1.0.1:5432".parse().unwrap()).is_none());
        assert!(targets.at("10.2.0.1:5433".parse().unwrap()).is_none());
    }

    #[tokio::test]
    async fn a_name_matches_only_after_it_was_looked_up() {
        let targets = Targets::new(vec![resource("a", &["localhost:5432"])]);
        let address = "127.0.0.1:5432".parse().unwrap();
        assert!(targets.at(address).is_none());
        targets.look_up().await;
        assert!(targets.at(address).is_some());
    }
}
