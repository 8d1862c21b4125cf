//! One connection's way through the rooms.
//!
//! Identify, find the resource, open the door, speak, close. INVARIANT: whoever fails a step is reset and recorded.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tracing::Instrument;

use super::asked::Asked;
use super::lanes::Lanes;
use super::quarantine::{QUARANTINED, Quarantine};
use super::registry::Registry;
use super::slots::Slots;
use super::targets::{Missing, Target, Targets, is_own_address};
use crate::clock::Clock;
use crate::gate::{Arrived, Gate, Turned};
use crate::identity::{Identified, ProcessOrigin, Resolver};
use crate::model::{Resource, Session, SessionId};
use crate::net::reset_on_close;
use crate::protocol::contract::{Incoming, Serve, SessionEnd, Unreached};
use crate::protocol::registry::Registry as Protocols;
use crate::shutdown::Shutdown;

/// A connection as it came from the kernel.
#[derive(Debug)]
pub struct Arrival {
    /// The agent's end.
    pub stream: TcpStream,
    /// Where it wanted to go.
    pub destination: SocketAddr,
    /// Which process opened it.
    pub origin: ProcessOrigin,
}

/// A session that may begin, and who speaks its protocol.
type Admitted = (Arc<Session>, Arc<dyn Serve>);

/// Serves connections. Clones share everything.
#[derive(Debug, Clone)]
pub struct Sessions {
    /// Who calls.
    pub resolver: Resolver,
    /// Where to.
    pub targets: Targets,
    /// What policy is asked about where nothing is registered; `None` refuses without asking.
    pub unregistered: Option<Arc<Resource>>,
    /// By which name.
    pub asked: Asked,
    /// In which protocol.
    pub protocols: Protocols,
    /// Through which door.
    pub gate: Gate,
    /// Where it is noted that a destination could not be reached.
    pub unreached: Arc<dyn Unreached>,
    /// How many there may be at once.
    pub slots: Slots,
    /// Open sessions.
    pub registry: Registry,
    /// Agents that are stopped.
    pub quarantine: Quarantine,
    /// Time.
    pub clock: Clock,
    /// The threads sessions run on.
    pub lanes: Lanes,
    /// The daemon's end.
    pub shutdown: Shutdown,
}

impl Sessions {
    /// Serves one connection in a task of its own.
    pub fn serve(&self, arrival: Arrival) {
        let Arrival { stream, destination, origin } = arrival;
        let sessions = self.clone();
        let arrived = self.gate.arrived(origin.account, destination);
        // Before anything is spent on it.
        let slot = match self.slots.take(origin.account) {
            Ok(slot) => slot,
            Err(full) => {
                let (account, reason) = (origin.account, full.to_string());
                let turned = Turned { destination, account, known: None, reason };
                return refuse(&stream, origin.pid, &turned, arrived);
            }
        };
        let session = move |stream| {
            Box::pin(async move {
                let _slot = slot;
                sessions.run(stream, destination, origin, arrived).await;
            })
        };
        if let Err(error) = self.lanes.run(&self.shutdown, stream, session) {
            // The session that was not begun recorded itself as it went.
            tracing::error!(pid = origin.pid, %destination, %error, "connection refused: its socket cannot be watched");
        }
    }

    async fn run(&self, stream: TcpStream, destination: SocketAddr, origin: ProcessOrigin, arrived: Arrived) {
        let identified = match self.resolver.identify(&origin).await {
            Ok(identified) => identified,
            Err(error) => {
                reset_on_close(&stream);
                tracing::warn!(pid = origin.pid, %destination, %error, "connection refused: unknown process");
                let (account, reason) = (origin.account, error.to_string());
                return arrived.turned_away(&Turned { destination, account, known: None, reason });
            }
        };
        match self.session(identified, destination) {
            Ok((session, protocol)) => self.speak(session, protocol, (stream, arrived)).await,
            Err(turned) => refuse(&stream, origin.pid, &turned, arrived),
        }
    }

    /// The session's fixed facts and who speaks its protocol.
    fn session(&self, identified: Identified, destination: SocketAddr) -> Result<Admitted, Box<Turned>> {
        let Identified { agent, evidence } = identified;
        let account = evidence.account;
        let refuse = |reason: &str, known| {
            Box::new(Turned { destination, account, known: Some(known), reason: reason.to_owned() })
        };
        if self.quarantine.holds(&agent) {
            return Err(refuse("the agent is quarantined", (agent, evidence)));
        }
        if evidence.netns.is_some() && is_own_address(destination) {
            return Err(refuse("loopback in another network namespace is its own", (agent, evidence)));
        }
        let asked = self.asked.name(&agent, destination.ip(), self.clock.instant());
        let named = asked.as_deref().and_then(|name| self.targets.named(destination, name));
        let Target { resource, routes } = match named.map_or_else(|| self.targets.at(destination), Ok) {
            Ok(target) => target,
            Err(missing) => match (missing, &self.unregistered) {
                (Missing::Unregistered, Some(resource)) => {
                    Target { resource: Arc::clone(resource), routes: vec![destination] }
                }
                (
                    Missing::Unregistered
                    | Missing::Ambiguous
                    | Missing::Metadata
                    | Missing::Disguised
                    | Missing::Resolver,
                    Some(_) | None,
                ) => return Err(refuse(missing.as_str(), (agent, evidence))),
            },
        };
        let Some(protocol) = self.protocols.speaker(resource.protocol) else {
            return Err(refuse("its protocol is not served", (agent, evidence)));
        };
        let Ok(id) = getrandom::u64() else {
            return Err(refuse("the system has no randomness", (agent, evidence)));
        };
        let session = Session {
            id: SessionId(id),
            agent,
            evidence: Arc::new(evidence),
            resource,
            destination,
            routes: routes.into(),
            asked,
            opened_at: self.clock.now(),
        };
        Ok((Arc::new(session), protocol))
    }

    async fn speak(
        &self,
        session: Arc<Session>,
        protocol: Arc<dyn Serve>,
        (stream, arrived): (TcpStream, Arrived),
    ) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set nodelay");
        }
        let span = tracing::info_span!("session", id = %session.id, agent = %session.agent, resource = %session.resource.name);
        let (seat, killed) = self.registry.enter(&session);
        // A quarantine that came between the question and the registry found no session to end.
        if self.quarantine.holds(&session.agent) {
            self.registry.kill_all(&session.agent, QUARANTINED);
        }
        let (door, closing) = self.gate.door(Arc::clone(&session), arrived);
        let incoming =
            Incoming::new(stream, door, killed, (self.shutdown.clone(), Arc::clone(&self.unreached)));
        let SessionEnd { why, bytes_in, bytes_out, fault } =
            protocol.serve(incoming).instrument(span.clone()).await;
        span.in_scope(|| tracing::info!(%why, ?fault, bytes_in, bytes_out, "session ended"));
        closing.close(why, (bytes_in, bytes_out));
        drop(seat);
    }
}

/// Resets a connection that becomes no session, and says so.
fn refuse(stream: &TcpStream, pid: u32, turned: &Turned, arrived: Arrived) {
    reset_on_close(stream);
    tracing::info!(pid, destination = %turned.destination, reason = %turned.reason, "connection refused");
    arrived.turned_away(turned);
}
