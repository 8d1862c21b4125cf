//! Metrics in the OpenMetrics text form, over HTTP on a unix socket or a loopback address.
//!
//! Names nobody and shows no statement: counts only. Refuses to listen anywhere but on the host itself.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, UnixListener};

use crate::shutdown::{Phase, Shutdown};

/// The media type of the OpenMetrics text form, version 1.0.0.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Longest scrape.
const SCRAPE_TIME_MAX: Duration = Duration::from_secs(10);

/// Whatever can say its metrics.
pub trait Metrics: fmt::Debug + Send + Sync {
    /// The whole exposition, ending in `# EOF`.
    fn exposition(&self) -> String;
}

/// Where scrapes arrive.
#[derive(Debug)]
pub enum MetricsListener {
    /// A unix socket.
    Unix(UnixListener),
    /// A loopback address.
    Tcp(TcpListener),
}

impl MetricsListener {
    /// Serves scrapes until the daemon drains.
    pub fn start(self, metrics: Arc<dyn Metrics>, shutdown: &Shutdown) {
        let end = shutdown.clone();
        shutdown.spawn("metrics", async move {
            tokio::select! {
                biased;
                () = end.reached(Phase::Draining) => {}
                () = self.accept(&metrics, &end) => {}
            }
        });
    }

    async fn accept(&self, metrics: &Arc<dyn Metrics>, shutdown: &Shutdown) {
        loop {
            let accepted = match self {
                Self::Unix(listener) => {
                    listener.accept().await.map(|(stream, _)| Scrape::Unix(TokioIo::new(stream)))
                }
                Self::Tcp(listener) => {
                    listener.accept().await.map(|(stream, _)| Scrape::Tcp(TokioIo::new(stream)))
                }
            };
            match accepted {
                Ok(scrape) => {
                    let metrics = Arc::clone(metrics);
                    shutdown.spawn("scrape", async move { scrape.serve(metrics).await });
                }
                Err(error) => {
                    tracing::warn!(%error, "metrics listener does not accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

enum Scrape {
    Unix(TokioIo<tokio::net::UnixStream>),
    Tcp(TokioIo<tokio::net::TcpStream>),
}

impl Scrape {
    async fn serve(self, metrics: Arc<dyn Metrics>) {
        let service = service_fn(move |request| answer(request, Arc::clone(&metrics)));
        let http = hyper::server::conn::http1::Builder::new();
        let result = match self {
            Self::Unix(io) => tokio::time::timeout(SCRAPE_TIME_MAX, http.serve_connection(io, service)).await,
            Self::Tcp(io) => tokio::time::timeout(SCRAPE_TIME_MAX, http.serve_connection(io, service)).await,
        };
        if let Ok(Err(error)) = result {
            tracing::debug!(%error, "scrape ended early");
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    metrics: Arc<dyn Metrics>,
) -> Result<Response<Full<Bytes>>, hyper::http::Error> {
    if request.uri().path() != "/metrics" {
        return Response::builder()
            .status(StatusCode::NOT_FOUND)
            .body(Full::new(Bytes::from_static(b"see /metrics\n")));
    }
    Response::builder()
        .header(header::CONTENT_TYPE, OPEN_METRICS)
        .body(Full::new(Bytes::from(metrics.exposition())))
}
