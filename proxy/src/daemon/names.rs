//! The resolver's ports and connections, wired to the room that answers.
//!
//! One task per port, one per question, both counted. Refuses questions beyond a number at work: a datagram is then dropped,
//! and the client asks again. INVARIANT: nothing is answered before the record is open.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::origin_of;
use crate::dns::{Names, STREAMS_EACH_MAX, STREAMS_MAX};
use crate::identity::ProcessOrigin;
use crate::intercept::{Askers, AskersElsewhere, Connection, Datagram, NamePort};
use crate::session::Slots;
use crate::shutdown::{Phase, Shutdown};

/// Port of resolvers over TCP.
pub(super) const PORT: u16 = 53;
/// Questions of all agents at work; each agent has its own, smaller limit.
const QUESTIONS_MAX: usize = 1024;
/// How often what was counted up is looked through.
const SETTLE_EVERY: Duration = Duration::from_secs(5);
/// How long a port rests when the kernel gives no datagram.
const REST: Duration = Duration::from_millis(100);

/// What answers questions over TCP.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    names: Names,
    slots: Slots,
    shutdown: Shutdown,
}

/// Starts answering on these ports; without any nothing is answered, over TCP neither.
pub(super) fn start(
    names: &Names,
    (ports, mut elsewhere): (Vec<NamePort>, AskersElsewhere),
    shutdown: &Shutdown,
) -> Option<Streams> {
    if ports.is_empty() {
        return None;
    }
    let seats = Arc::new(Semaphore::new(QUESTIONS_MAX));
    for port in ports {
        let (names, seats, end) = (names.clone(), Arc::clone(&seats), shutdown.clone());
        shutdown.spawn("names", async move {
            // Nothing is lost when `serve` is dropped: what was read has a task of its own.
            tokio::select! {
                biased;
                () = end.reached(Phase::Draining) => {}
                () = serve(&names, Arc::new(port), &seats, &end) => {}
            }
        });
    }
    let (others, places, end) = (names.clone(), Arc::clone(&seats), shutdown.clone());
    shutdown.spawn("names-elsewhere", async move {
        let taking = async {
            while let Some(askers) = elsewhere.next().await {
                serve_inside(&others, askers, &places, &end);
            }
        };
        tokio::select! {
            biased;
            () = end.reached(Phase::Draining) => {}
            () = taking => {}
        }
    });
    let (keeper, end) = (names.clone(), shutdown.clone());
    shutdown.spawn("names-record", async move {
        let counting = async {
            loop {
                tokio::time::sleep(SETTLE_EVERY).await;
                keeper.settle();
            }
        };
        tokio::select! {
            biased;
            () = end.reached(Phase::Draining) => {}
            () = counting => {}
        }
    });
    let slots = Slots::new(STREAMS_EACH_MAX, STREAMS_MAX);
    Some(Streams { names: names.clone(), slots, shutdown: shutdown.clone() })
}

/// Answers in another network namespace until it is given up.
fn serve_inside(names: &Names, askers: Askers, seats: &Arc<Semaphore>, shutdown: &Shutdown) {
    let Askers { ports, until } = askers;
    for port in ports {
        let (names, seats, end) = (names.clone(), Arc::clone(seats), shutdown.clone());
        let mut until = until.clone();
        shutdown.spawn("names-inside", async move {
            tokio::select! {
                biased;
                () = end.reached(Phase::Draining) => {}
                _ = until.changed() => {}
                () = serve(&names, Arc::new(port), &seats, &end) => {}
            }
        });
    }
}

async fn serve(names: &Names, port: Arc<NamePort>, seats: &Arc<Semaphore>, shutdown: &Shutdown) {
    loop {
        let Datagram { bytes, peer, origin } = match port.next().await {
            Ok(datagram) => datagram,
            Err(error) => {
                tracing::error!(%error, "questions are not taken at the moment");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        let Ok(seat) = Arc::clone(seats).try_acquire_owned() else {
            tracing::debug!(%peer, "a question is dropped: too many are at work");
            names.dropped(&origin_of(&origin), "too-many-at-work");
            continue;
        };
        let (names, port) = (names.clone(), Arc::clone(&port));
        shutdown.spawn("name", async move {
            let _seat = seat;
            if let Some(reply) = names.datagram(&origin_of(&origin), &bytes).await
                && let Err(error) = port.answer(&reply, peer).await
            {
                tracing::debug!(%peer, %error, "a reply does not leave");
            }
        });
    }
}

impl Streams {
    /// Serves one connection to a resolver in a task of its own.
    pub(super) fn serve(&self, connection: Connection) {
        let Connection { stream, origin } = connection;
        let (process, destination): (ProcessOrigin, _) = (origin_of(&origin), origin.destination);
        let slot = match self.slots.take(process.account) {
            Ok(slot) => slot,
            Err(full) => {
                let reason = format!("too many connections to resolvers: {full}");
                return self.names.turned_away(&stream, (&process, destination), &reason);
            }
        };
        let (names, end) = (self.names.clone(), self.shutdown.clone());
        self.shutdown.spawn("names-connection", async move {
            let _slot = slot;
            names.stream(stream, (&process, destination), &end).await;
        });
    }
}
