//! The threads that run sessions: one lane each, with its own scheduler and its own queue of kernel events.
//!
//! A session stays on its lane from accept to end, so that a statement's way from one socket to the other wakes no other
//! thread. A shared scheduler hands tasks between threads; on two cores those wake-ups cost a tenth of the daemon's time.
//! Refuses to balance what is already running: a new session goes to the lane with the fewest.
//! INVARIANT: a lane lives as long as a clone of its [`Lanes`]; its tasks are counted by `shutdown` like all others.

use std::future::Future;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

use crate::shutdown::Shutdown;

/// More lanes than this only cost memory: sixteen move more statements than one host's resources answer.
const LANES_MAX: usize = 16;

/// All lanes. Clones share them.
#[derive(Debug, Clone)]
pub struct Lanes(Arc<[Lane]>);

#[derive(Debug)]
struct Lane {
    handle: Handle,
    /// Sessions on it now.
    load: Arc<AtomicUsize>,
    /// Closes with the lane, and ends its thread.
    _alive: watch::Sender<()>,
}

impl Lanes {
    /// One lane for every two processors: a lane that is never out of work wakes seldom and moves several sessions per
    /// wake-up, and the agents need processors too.
    ///
    /// # Errors
    /// When a thread or its event queue cannot be made.
    pub fn start() -> io::Result<Self> {
        let count =
            std::thread::available_parallelism().map_or(1, |all| all.get().div_ceil(2)).min(LANES_MAX);
        (0..count).map(Lane::start).collect::<io::Result<Vec<_>>>().map(|lanes| Self(lanes.into()))
    }

    /// Runs `session` over `stream` on the lane that has the fewest.
    ///
    /// # Errors
    /// When the kernel does not let the socket be watched; the session then never begins.
    pub(super) fn run<F, S>(
        &self,
        shutdown: &Shutdown,
        stream: tokio::net::TcpStream,
        session: F,
    ) -> io::Result<()>
    where
        F: FnOnce(tokio::net::TcpStream) -> S + Send + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        let stream: TcpStream = stream.into_std()?;
        let lane = self.0.iter().min_by_key(|lane| lane.load.load(Ordering::Relaxed));
        let lane = lane.ok_or_else(|| io::Error::other("there are no lanes"))?;
        let place = Place::take(&lane.load);
        // Watched by the lane's own event queue from here on.
        let entered = lane.handle.enter();
        let stream = tokio::net::TcpStream::from_std(stream)?;
        drop(entered);
        let session = session(stream);
        shutdown.spawn_on(&lane.handle, "session", async move {
            let _place = place;
            session.await;
        });
        Ok(())
    }
}

impl Lane {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (alive, mut end) = watch::channel(());
        std::thread::Builder::new().name(format!("sessions-{number}")).spawn(move || {
            // Nothing is ever sent: an error says that the other end is gone.
            while runtime.block_on(end.changed()).is_ok() {}
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, load: Arc::default(), _alive: alive })
    }
}

/// One session's share of a lane's load.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(load: &Arc<AtomicUsize>) -> Self {
        load.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(load))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn sessions_spread_over_the_lanes_and_give_their_place_back() {
        let (lanes, shutdown) =
            (Lanes(vec![Lane::start(0).unwrap(), Lane::start(1).unwrap()].into()), Shutdown::default());
        let mut ends = Vec::new();
        for _ in 0..4 {
            let (mut near, far) = pair().await;
            let echo = |mut far: TcpStream| async move {
                let mut byte = [0];
                while far.read_exact(&mut byte).await.is_ok() {
                    far.write_all(&byte).await.unwrap();
                }
            };
            lanes.run(&shutdown, far, echo).unwrap();
            near.write_all(b"x").await.unwrap();
            let mut byte = [0];
            near.read_exact(&mut byte).await.unwrap();
            assert_eq!(byte, *b"x");
            ends.push(near);
        }
        let loads =
            |lanes: &Lanes| lanes.0.iter().map(|lane| lane.load.load(Ordering::Relaxed)).collect::<Vec<_>>();
        assert_eq!(loads(&lanes), [2, 2]);
        drop(ends);
        shutdown.drained().await;
        assert_eq!(loads(&lanes), [0, 0]);
    }
}
