//! PostgreSQL: greets the agent, logs in to the resource, and carries one session between them.
//!
//! Purity: `wire`, `engine`, `catalog`, `code`, `exposure`, `parameters` and `scram` know no socket; `greeting`, `login`, `dial` and
//! `relay` do the input and output. Refuses replication, GSSAPI, and whatever the engine cannot account for.
//! Known limits: one upstream connection per session, never pooled; copies of relations with masked columns are refused.

mod cancel;
mod catalog;
mod code;
mod dial;
mod engine;
mod exposure;
mod greeting;
mod login;
mod notices;
mod parameters;
mod relay;
mod scram;
mod snapshots;
pub mod wire;

/// What fuzz targets drive.
#[cfg(any(test, feature = "testing"))]
pub mod testing {
    pub use super::engine::testing::converse;
    pub use super::wire::testing::read_everything;
}

use std::net::IpAddr;
use std::sync::Arc;

use self::cancel::Cancels;
use self::dial::Dialer;
use self::engine::View;
use self::exposure::MaskTable;
use self::greeting::{Certificates, Greeted};
use self::parameters::Wishes;
use self::relay::{Relay, SessionParts};
use self::snapshots::Snapshots;
use self::wire::{CancelKey, Startup};
use super::contract::{Incoming, Serve, ServeFuture, SessionEnd};
use crate::clock::Clock;
use crate::gate::{Door, Upstream};
use crate::mask::Keys;
use crate::model::{AddressPattern, Protocol, Session};
use crate::sql::Analyzer;
use crate::tls::{Authority, LeafNames, TlsError};

/// The newest minor version spoken on both sides.
const MINOR_MAX: u16 = 2;

/// The PostgreSQL side of the daemon.
#[derive(Debug)]
pub struct Postgres {
    analyzer: Analyzer,
    authority: Arc<Authority>,
    cancels: Cancels,
    snapshots: Snapshots,
    clock: Clock,
    daemon_key: [u8; 32],
}

impl Postgres {
    /// Over the rooms it needs.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new(
        analyzer: Analyzer,
        authority: Arc<Authority>,
        clock: Clock,
    ) -> Result<Self, getrandom::Error> {
        let mut daemon_key = [0_u8; 32];
        getrandom::fill(&mut daemon_key)?;
        let snapshots = Snapshots::new(clock.clone());
        Ok(Self { analyzer, authority, cancels: Cancels::default(), snapshots, clock, daemon_key })
    }

    async fn run(&self, mut incoming: Incoming) -> SessionEnd {
        let session = Arc::clone(incoming.door.session());
        let names = match leaf_names(&session) {
            Ok(names) => names,
            Err(error) => return SessionEnd::ours(error.to_string()),
        };
        let certificates = Certificates { authority: Arc::clone(&self.authority), names };
        let stream = incoming.take_stream();
        let opened =
            greeting::within(greeting::open(stream, &certificates.authority, &certificates.names)).await;
        match opened {
            Ok(Greeted::Start(client, startup)) => Box::pin(self.start(incoming, client, startup)).await,
            Ok(Greeted::Cancel(key, stream)) => {
                self.cancels.call(&session.agent, &key).await;
                drop(stream);
                SessionEnd::quiet("cancel request")
            }
            Ok(Greeted::Gone) => SessionEnd::quiet("left before it began"),
            Err(error) => SessionEnd::client(error.to_string()),
        }
    }

    async fn start(
        &self,
        mut incoming: Incoming,
        mut client: greeting::Client,
        startup: Startup,
    ) -> SessionEnd {
        let door = &mut incoming.door;
        let session = Arc::clone(door.session());
        if let Err(refusal) =
            door.greet().and_then(|principal| door.open(&principal, Protocol::Postgres, client.tls))
        {
            return turn_away(&mut client, &notices::fatal(&refusal)).await;
        }
        let wishes = match Wishes::read(&startup, &session.resource.credential.user) {
            Ok(wishes) => wishes,
            Err(error) => return turn_away(&mut client, &notices::parameter(&error)).await,
        };
        if session.resource.agent_scram
            && let Err(error) = greeting::within(client.scram()).await
        {
            tracing::info!(session = %session.id, %error, "placeholder not proven");
            return turn_away(&mut client, &notices::placeholder()).await;
        }
        let dialer = Dialer::new(&session, self.clock.clone());
        let minor = startup.minor.min(MINOR_MAX);
        let mut parameters = vec![("database".to_owned(), wishes.database.clone())];
        parameters.extend(wishes.settings.iter().cloned());
        let (stream, ready) = match dialer.session(minor, parameters).await {
            Ok(connected) => connected,
            Err(error) => {
                tracing::warn!(session = %session.id, %error, "resource not reached");
                return turn_away(&mut client, &notices::unreachable(&error)).await;
            }
        };
        let view = match self.view(&incoming.door, &dialer, &wishes.database).await {
            Ok(view) => view,
            Err(error) => {
                tracing::warn!(session = %session.id, %error, "catalog not read");
                return turn_away(&mut client, &notices::unreachable(&error)).await;
            }
        };
        let enrolled = match self.cancels.enrol(&session.agent, ready.minor) {
            Ok(enrolled) => enrolled,
            Err(error) => return SessionEnd::ours(error.to_string()),
        };
        let welcome = welcome(&startup, &wishes, &ready, &enrolled.key);
        if let Err(error) = client.send(&welcome).await {
            return SessionEnd::client(error.to_string());
        }
        let parts = SessionParts {
            client,
            upstream: Upstream::new(stream).seal(),
            upstream_key: ready.key,
            enrolled,
            dialer,
            scope: wishes.scope(),
            database: wishes.database,
            view,
        };
        match self.keys() {
            Ok(keys) => Relay::new(parts, incoming, self, keys).run().await,
            Err(error) => SessionEnd::ours(error.to_string()),
        }
    }

    fn keys(&self) -> Result<Keys, getrandom::Error> {
        let mut session_key = [0_u8; 32];
        getrandom::fill(&mut session_key)?;
        Ok(Keys::new(&session_key, &self.daemon_key))
    }

    /// What is masked for this agent now. A resource without classified columns needs no catalog.
    async fn view(&self, door: &Door, dialer: &Dialer, database: &str) -> Result<View, dial::DialError> {
        let (bundle, _) = door.standing();
        let resource = &door.session().resource.name;
        if bundle.columns().of_resource(resource).is_empty() {
            return Ok(View::default());
        }
        let catalog = self.snapshots.current(resource, database, dialer, std::time::Duration::ZERO).await?;
        Ok(View { table: Arc::new(mask_table(door, &catalog)), catalog })
    }
}

/// The names an agent may have dialled the resource by.
fn leaf_names(session: &Session) -> Result<LeafNames, TlsError> {
    let registered = session.resource.addresses.iter().filter_map(|pattern| match pattern {
        AddressPattern::Name { host, .. } => Some(host.as_str()),
        AddressPattern::Network { .. } => None,
    });
    let names = registered
        .chain(session.resource.tls.server_name.as_deref())
        .filter(|name| name.parse::<IpAddr>().is_err());
    LeafNames::new(names, [session.destination.ip()])
}

/// The mask table for the agent's standing.
fn mask_table(door: &Door, catalog: &catalog::Catalog) -> MaskTable {
    let (bundle, principal) = door.standing();
    let columns = bundle.columns().of_resource(&door.session().resource.name);
    MaskTable::build(catalog, &columns, |column, class| door.mask((&bundle, &principal), column, class))
}

impl Serve for Postgres {
    fn protocol(&self) -> Protocol {
        Protocol::Postgres
    }

    fn serve(&self, incoming: Incoming) -> ServeFuture<'_> {
        Box::pin(self.run(incoming))
    }
}

/// Everything the agent gets between its start-up message and its first request.
fn welcome(startup: &Startup, wishes: &Wishes, ready: &login::Ready, key: &CancelKey) -> Vec<u8> {
    let mut welcome = Vec::new();
    if startup.minor > ready.minor || !wishes.declined.is_empty() {
        let declined: Vec<&str> = wishes.declined.iter().map(String::as_str).collect();
        welcome.extend(wire::negotiate(ready.minor, &declined));
    }
    welcome.extend(wire::authentication(0, &[]));
    for (name, value) in &ready.parameters {
        // The account behind the resource is none of the agent's business.
        if name != "session_authorization" && name != "is_superuser" {
            welcome.extend(wire::parameter_status(name, value));
        }
    }
    welcome.extend(wire::parameter_status("session_authorization", &wishes.user));
    welcome.extend(wire::parameter_status("is_superuser", "off"));
    welcome.extend(wire::backend_key(key.pid, &key.secret));
    welcome.extend(wire::ready());
    welcome
}

/// Tells the agent why there will be no session.
async fn turn_away(client: &mut greeting::Client, notice: &wire::Notice) -> SessionEnd {
    let frame = wire::notice(notice);
    match client.send(&frame).await {
        Ok(()) => SessionEnd::refused(notice.message.clone()),
        Err(error) => SessionEnd::client(error.to_string()),
    }
}
