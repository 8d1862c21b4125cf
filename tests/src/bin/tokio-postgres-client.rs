//! A client built on `tokio-postgres`, as agents written in Rust use it; started by `tests/tests/clients.rs` in a tagged cgroup.
//!
//! Takes a connection string and a file with the authority to trust, runs a plain and a prepared query over the extended
//! protocol in binary, and prints one value of each. TLS goes through rustls and is verified where the string asks for it.
//! Not part of the product.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};

use anyhow::{Context, Result};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

fn main() -> Result<()> {
    let dsn = std::env::args().nth(1).context("a connection string is missing")?;
    let authority = std::env::args().nth(2).context("a file with the authority is missing")?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).context("the authority cannot be read")?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(query(&dsn, Tls(config)))
}

async fn query(dsn: &str, tls: Tls) -> Result<()> {
    let (client, connection) = tokio_postgres::connect(dsn, tls).await?;
    let work = async {
        let count: i64 = client.query_one("SELECT count(*) FROM orders", &[]).await?.try_get(0)?;
        println!("{count}");
        let statement = client.prepare("SELECT email FROM customers WHERE id = $1").await?;
        for _ in 0..2 {
            let email: String = client.query_one(&statement, &[&7_i32]).await?.try_get(0)?;
            println!("{email}");
        }
        Ok(())
    };
    tokio::select! {
        result = work => result,
        ended = connection => ended.context("the connection ended").and_then(|()| anyhow::bail!("the connection closed")),
    }
}

/// Makes TLS connections for the driver.
#[derive(Clone)]
struct Tls(Arc<ClientConfig>);

/// One connection to be.
struct Dial(TlsConnector, ServerName<'static>);

/// One encrypted connection.
struct Encrypted<S>(tokio_rustls::client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Tls {
    type Stream = Encrypted<S>;
    type TlsConnect = Dial;
    type Error = rustls_pki_types::InvalidDnsNameError;

    fn make_tls_connect(&mut self, host: &str) -> Result<Dial, Self::Error> {
        Ok(Dial(TlsConnector::from(Arc::clone(&self.0)), ServerName::try_from(host.to_owned())?))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Dial {
    type Stream = Encrypted<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move { self.0.connect(self.1, stream).await.map(Encrypted) })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Encrypted<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Encrypted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Encrypted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
