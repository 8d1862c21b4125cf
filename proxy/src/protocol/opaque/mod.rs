//! TCP whose bytes nobody reads: the connection is the request, judged, held and recorded as one, then copied both ways.
//!
//! For resources of this protocol, and for what nobody registered where `default` is `observe`. Policy is asked about effect
//! `connect` with the destination; nothing is dialled before it permits. A refusal is a reset, for there is no language to say
//! it in. Refuses this machine's own addresses unless the resource registers that very one (or `localhost`): programs here
//! trust whoever comes from here, and the daemon does. No credential is put in.
//! Where the destination is out of reach, the agent's next `connect` there gets the true error.
//! Known limits: what is inside is not seen, nothing is masked, and a connection that policy would no longer permit goes on.

mod places;
mod relay;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::net::TcpStream;

use self::places::Places;
use self::relay::{End, Relay};
use super::contract::{Incoming, Serve, ServeFuture, SessionEnd};
use crate::clock::Clock;
use crate::gate::{Admission, Permit, Refusal, Request, Upstream};
use crate::model::{AddressPattern, Effect, Fault, Operation, Outcome, Protocol, Resource, Session};
use crate::net::{dial, is_metadata, is_this_machine, reset_on_close};

/// Longest time for the TCP connection.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// The opaque side of the daemon.
#[derive(Debug)]
pub struct Opaque {
    clock: Clock,
    places: Places,
}

impl Opaque {
    /// With the clock that durations are measured by.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, places: Places::default() }
    }

    async fn run(&self, mut incoming: Incoming) -> SessionEnd {
        let Some(agent) = incoming.take_socket() else {
            return SessionEnd::ours("the connection has no socket");
        };
        // Whatever happens before the first byte is a refusal, and must look like one.
        reset_on_close(&agent);
        let session = Arc::clone(incoming.door.session());
        if !may_dial(&session.resource, session.destination) {
            return SessionEnd::refused(
                "an address of this machine, which no resource registers by its very address",
            );
        }
        let Some(_place) = self.places.take(&session.agent) else {
            return SessionEnd::refused("the agent has too many unread connections open");
        };
        let door = &mut incoming.door;
        let opened = door.greet().and_then(|principal| door.open(&principal, Protocol::Opaque, false));
        if let Err(refusal) = opened {
            return refused(&refusal);
        }
        let began = self.clock.instant();
        let admission = door.admit(request(&session));
        let mut kill = incoming.kill.clone();
        // Every arm before the last drops the verdict or the permit, which records the request as cut.
        let connected = tokio::select! {
            biased;
            why = killed(&mut kill) => return SessionEnd::quiet(why),
            () = gone(&agent) => return SessionEnd::client("the agent left before it was connected"),
            connected = connect(&session, admission) => connected,
        };
        let (permit, stream) = match connected {
            Ok(connected) => connected,
            Err(Failure::Refused(refusal)) => return refused(&refusal),
            Err(Failure::Unreached(error)) => {
                incoming.not_reached(&error);
                tracing::info!(session = %session.id, destination = %session.destination, %error, "not reached");
                return SessionEnd::server(format!("cannot connect to {}: {error}", session.destination));
            }
        };
        let mut upstream = Upstream::new(stream).seal();
        let released = upstream.release(permit, &[]);
        let mut relay = Relay::new(agent, upstream, session.resource.idle);
        let end = tokio::select! {
            biased;
            why = killed(&mut kill) => End::stopped(why),
            end = relay.run(&released) => end,
        };
        relay.finish(released, end, self.clock.instant().saturating_duration_since(began))
    }
}

impl Serve for Opaque {
    fn protocol(&self) -> Protocol {
        Protocol::Opaque
    }

    fn serve(&self, incoming: Incoming) -> ServeFuture<'_> {
        Box::pin(self.run(incoming))
    }
}

/// Why there is no connection.
enum Failure {
    Refused(Refusal),
    Unreached(std::io::Error),
}

/// Waits for the verdict, then dials. The request ends here if it gets no further.
async fn connect(session: &Session, admission: Admission) -> Result<(Permit, TcpStream), Failure> {
    let permit = match admission {
        Admission::Permitted(permit) => permit,
        Admission::Refused(refusal) => return Err(Failure::Refused(refusal)),
        Admission::Recording(pending) => pending.await.map_err(Failure::Refused)?,
        Admission::Held(news, pending) => {
            tracing::info!(session = %session.id, ticket = %news.ticket, "connection held");
            pending.await.map_err(Failure::Refused)?
        }
    };
    match reach(session).await {
        Ok(stream) => Ok((permit, stream)),
        Err(error) => {
            permit.end(Outcome::Failed { fault: Fault::Server, code: name(&error) });
            Err(Failure::Unreached(error))
        }
    }
}

async fn reach(session: &Session) -> std::io::Result<TcpStream> {
    let resource = &session.resource;
    let routes: Vec<SocketAddr> =
        session.routes.iter().copied().filter(|route| may_dial(resource, *route)).collect();
    let stream = dial(&routes, CONNECT_TIME_MAX).await?;
    // The kernel's own word: a connection from an address to itself never left this machine.
    let (near, far) = (stream.local_addr()?, stream.peer_addr()?);
    if near.ip() == far.ip() && !registers(resource, far) {
        reset_on_close(&stream);
        return Err(Errno::EACCES.into());
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether an address may be dialled for a resource whose bytes nobody reads.
fn may_dial(resource: &Resource, address: SocketAddr) -> bool {
    let guarded = is_metadata(address.ip()) || is_this_machine(address.ip());
    !guarded || registers(resource, address)
}

/// Whether the resource names this very address, or it is loopback and the resource is registered as `localhost`, a name that
/// nobody else can point elsewhere.
fn registers(resource: &Resource, address: SocketAddr) -> bool {
    resource.addresses.iter().any(|pattern| match pattern {
        AddressPattern::Network { .. } => pattern.is_one_address() && pattern.contains(address),
        AddressPattern::Name { host, port } => {
            host == "localhost" && *port == address.port() && address.ip().to_canonical().is_loopback()
        }
    })
}

fn request(session: &Session) -> Request {
    let destination = SocketAddr::new(session.destination.ip().to_canonical(), session.destination.port());
    let operation = Operation {
        effects: [Effect::Connect].into(),
        destination: Some(destination),
        ..Operation::default()
    };
    Request {
        operation: Arc::new(operation),
        statement: format!("connect {destination}").into(),
        values: Vec::new(),
        in_transaction: false,
        scope: "".into(),
    }
}

/// Returns when the agent has reset the connection. An agent that only says that it will send no more still waits.
async fn gone(agent: &TcpStream) {
    if agent.ready(Interest::ERROR).await.is_err() {
        tracing::debug!("the agent's socket cannot be watched");
    }
}

/// Returns when somebody ends the session.
async fn killed(kill: &mut tokio::sync::watch::Receiver<Option<String>>) -> String {
    match kill.wait_for(Option::is_some).await {
        Ok(why) => why.clone().unwrap_or_default(),
        // The registry is gone: so is the daemon.
        Err(_) => "the daemon is gone".to_owned(),
    }
}

fn refused(refusal: &Refusal) -> SessionEnd {
    SessionEnd::refused(format!("{}, code {}", refusal.message(), refusal.code()))
}

/// The error's name as programs know it, `ECONNREFUSED`.
fn name(error: &std::io::Error) -> String {
    error
        .raw_os_error()
        .map_or_else(|| error.kind().to_string(), |code| format!("{:?}", Errno::from_raw(code)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(addresses: &[&str]) -> Resource {
        Resource {
            addresses: addresses.iter().map(|text| AddressPattern::parse(text).unwrap()).collect(),
            ..Resource::unregistered(Duration::ZERO, Duration::ZERO)
        }
    }

    #[test]
    fn this_machine_is_dialled_only_where_its_very_address_is_registered() {
        let may =
            |addresses: &[&str], address: &str| may_dial(&resource(addresses), address.parse().unwrap());
        for address in
            ["127.0.0.1:80", "[::1]:80", "0.0.0.0:80", "[::]:80", "127.8.8.8:80", "[64:ff9b::7f00:1]:80"]
        {
            assert!(!may(&[], address), "{address}");
            assert!(!may(&["0.0.0.0/0:80", "::/0:80", "host.internal:80"], address), "{address}");
        }
        assert!(may(&["127.0.0.1:80"], "127.0.0.1:80") && !may(&["127.0.0.1:80"], "127.0.0.1:81"));
        assert!(may(&["localhost:80"], "[::1]:80") && !may(&["localhost:80"], "169.254.169.254:80"));
        assert!(may(&[], "192.0.2.1:80"));
    }

    #[test]
    fn errors_have_the_names_that_programs_know() {
        assert_eq!(name(&Errno::EHOSTUNREACH.into()), "EHOSTUNREACH");
    }
}
