//! What can go wrong with TLS, as types: files, settings, certificates, handshakes.
//!
//! Certificate faults are told apart from other handshake failures, because their remedies differ.
//! Refuses to carry key material: messages name paths and servers only.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustls::CertificateError;

/// Why TLS could not be set up or was refused.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file or directory could not be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file or directory could not be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file does not hold what it must.
    #[error("`{}` is not usable: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The authority's files are there but do not belong together or are only half there.
    #[error("the authority in `{}` is damaged: {problem}; remove both of its files to make a new one", dir.display())]
    Authority {
        /// Its directory.
        dir: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate for {subject}")]
    Mint {
        /// For whom.
        subject: String,
        /// The library's answer.
        source: rcgen::Error,
    },
    /// The system's store holds no usable certificate.
    #[error("the system's store of authorities is empty or unreadable: {problem}")]
    NoRoots {
        /// What was found instead.
        problem: String,
    },
    /// The TLS library refused a configuration.
    #[error("cannot configure TLS")]
    Config {
        /// The library's answer.
        source: rustls::Error,
    },
    /// The name is neither a DNS name nor an address.
    #[error("`{name}` is not a server name")]
    Name {
        /// The name.
        name: String,
    },
    /// TLS was asked for where the operator disabled it.
    #[error("TLS towards this resource is disabled in the configuration")]
    Disabled,
    /// The peer did not finish the handshake.
    #[error("the TLS handshake with {peer} did not finish within {} s", after.as_secs())]
    Timeout {
        /// Who.
        peer: String,
        /// The limit.
        after: Duration,
    },
    /// The server's certificate was not accepted.
    #[error("the certificate of `{server}` was refused: {fault}")]
    Certificate {
        /// The server, as it was asked for.
        server: String,
        /// Why.
        fault: CertificateFault,
    },
    /// The handshake failed for another reason.
    #[error("the TLS handshake with {peer} failed")]
    Handshake {
        /// Who.
        peer: String,
        /// The library's or the system's answer.
        source: io::Error,
    },
}

/// Why a server's certificate was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// No accepted authority signed it.
    #[error("it is not signed by an accepted authority")]
    UnknownIssuer,
    /// It names other servers.
    #[error("it does not name this server")]
    NameMismatch,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// Its time has not come.
    #[error("it is not valid yet")]
    NotYetValid,
    /// It is malformed, badly signed, for another purpose, or too weak.
    #[error("it is malformed, badly signed or for another purpose")]
    Unacceptable,
}

impl From<&CertificateError> for CertificateFault {
    fn from(error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer => Self::UnknownIssuer,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::NameMismatch
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            // The library's enum is open; whatever it adds is a refusal too.
            _ => Self::Unacceptable,
        }
    }
}

impl TlsError {
    /// Reads the cause out of a failed client handshake.
    pub(super) fn from_client(server: &str, source: io::Error) -> Self {
        let fault =
            source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).and_then(|error| {
                match error {
                    rustls::Error::InvalidCertificate(fault) => Some(CertificateFault::from(fault)),
                    _ => None,
                }
            });
        match fault {
            Some(fault) => Self::Certificate { server: server.to_owned(), fault },
            None => Self::Handshake { peer: format!("`{server}`"), source },
        }
    }
}
