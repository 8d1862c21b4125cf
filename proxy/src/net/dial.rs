//! Reaching one of several addresses, as RFC 8305 has it ("happy eyeballs").
//!
//! The agent's own client cannot try a second address: its connection to the proxy always succeeds. So the daemon tries them,
//! the families in turn, a new one every quarter of a second or as soon as one fails; the first that answers wins.
//! INVARIANT: ends within the limit, with at most [`ADDRESSES_MAX`] attempts. The error told is that of the first address, which
//! is the one the agent dialled.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use nix::errno::Errno;
use tokio::net::TcpStream;

/// More addresses than this are not tried: a name with hundreds would make one connection many.
const ADDRESSES_MAX: usize = 8;
/// Head start of each attempt before the next (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);

type Attempt<T> = Pin<Box<dyn Future<Output = (SocketAddr, io::Result<T>)> + Send>>;

/// Connects to the first of `routes` that answers.
///
/// # Errors
/// The kernel's answer for the first address, or a time-out.
pub async fn dial(routes: &[SocketAddr], limit: Duration) -> io::Result<TcpStream> {
    match tokio::time::timeout(limit, race(in_turn(routes), TcpStream::connect)).await {
        Ok(result) => result,
        Err(_) => Err(Errno::ETIMEDOUT.into()),
    }
}

/// The first address first, then the families in turn.
fn in_turn(routes: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_is_v4 = routes.first().is_some_and(SocketAddr::is_ipv4);
    let (same, other): (Vec<SocketAddr>, Vec<SocketAddr>) =
        routes.iter().partition(|route| route.is_ipv4() == first_is_v4);
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    let pairs = std::iter::from_fn(|| match (same.next(), other.next()) {
        (None, None) => None,
        (left, right) => Some([left, right]),
    });
    pairs.flatten().flatten().take(ADDRESSES_MAX).collect()
}

async fn race<T, F>(routes: Vec<SocketAddr>, connect: impl Fn(SocketAddr) -> F) -> io::Result<T>
where
    T: Send + 'static,
    F: Future<Output = io::Result<T>> + Send + 'static,
{
    let first = routes.first().copied();
    let mut waiting = routes.into_iter();
    let mut running: Vec<Attempt<T>> = Vec::new();
    let mut failure: Option<io::Error> = None;
    loop {
        match waiting.next() {
            Some(route) => {
                let attempt = connect(route);
                running.push(Box::pin(async move { (route, attempt.await) }));
            }
            None if running.is_empty() => return Err(failure.unwrap_or_else(|| Errno::EADDRNOTAVAIL.into())),
            None => {}
        }
        let stagger = async {
            if waiting.len() == 0 { std::future::pending().await } else { tokio::time::sleep(STAGGER).await }
        };
        // Attempts live outside: neither arm loses one when the other is taken.
        tokio::select! {
            biased;
            (route, result) = next(&mut running) => match result {
                Ok(stream) => return Ok(stream),
                Err(error) if failure.is_none() || Some(route) == first => failure = Some(error),
                Err(_) => {}
            },
            () = stagger => {}
        }
    }
}

/// The next attempt to end; never, if there is none.
async fn next<T>(running: &mut Vec<Attempt<T>>) -> (SocketAddr, io::Result<T>) {
    poll_fn(|cx| {
        for index in 0..running.len() {
            let Some(attempt) = running.get_mut(index) else { break };
            if let Poll::Ready(done) = attempt.as_mut().poll(cx) {
                drop(running.swap_remove(index));
                return Poll::Ready(done);
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &str) -> Vec<SocketAddr> {
        text.split(' ').map(|one| one.parse().unwrap()).collect()
    }

    /// Ports say what happens: 1 refuses at once, 2 never answers, others answer with themselves.
    async fn connect(route: SocketAddr) -> io::Result<SocketAddr> {
        match route.port() {
            1 => Err(Errno::ECONNREFUSED.into()),
            2 => std::future::pending().await,
            3 => Err(Errno::EHOSTUNREACH.into()),
            _ => Ok(route),
        }
    }

    #[test]
    fn families_take_turns_and_the_dialled_address_is_first() {
        let ordered = in_turn(&addresses("[::1]:9 192.0.2.1:9 192.0.2.2:9 [::2]:9 [::3]:9"));
        assert_eq!(ordered, addresses("[::1]:9 192.0.2.1:9 [::2]:9 192.0.2.2:9 [::3]:9"));
        assert_eq!(in_turn(&vec![addresses("192.0.2.1:9")[0]; 50]).len(), ADDRESSES_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_costs_a_quarter_of_a_second_and_a_refusing_one_nothing() {
        let began = tokio::time::Instant::now();
        let won = race(addresses("192.0.2.1:1 [::1]:9"), connect).await.unwrap();
        assert_eq!((won.port(), began.elapsed()), (9, Duration::ZERO));
        let won = race(addresses("192.0.2.1:2 [::1]:2 192.0.2.3:9"), connect).await.unwrap();
        assert_eq!((won.port(), began.elapsed()), (9, 2 * STAGGER));
    }

    #[tokio::test(start_paused = true)]
    async fn the_error_is_that_of_the_address_the_agent_dialled() {
        let error = race(addresses("192.0.2.1:3 [::1]:1 192.0.2.3:1"), connect).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::EHOSTUNREACH as i32));
        assert!(race(Vec::new(), connect).await.is_err());
    }
}
