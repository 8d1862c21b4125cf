//! Channel binding `tls-server-end-point` (RFC 5929): a hash of the server's certificate.
//!
//! The hash function is that of the certificate's signature, with MD5 and SHA-1 raised to SHA-256.
//! Refuses to guess: a signature without a hash of its own (Ed25519, Ed448) or an unknown one has no binding,
//! and then SCRAM-PLUS must not be offered.

use aws_lc_rs::digest;
use x509_parser::der_parser::oid;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::signature_algorithm::SignatureAlgorithm;

/// The channel binding data of the certificate in `der`, if it has any.
#[must_use]
pub fn server_end_point(der: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let algorithm = hash_of(&certificate)?;
    Some(digest::digest(algorithm, der).as_ref().to_vec())
}

fn hash_of(certificate: &X509Certificate<'_>) -> Option<&'static digest::Algorithm> {
    let identifier = &certificate.signature_algorithm;
    match SignatureAlgorithm::try_from(identifier).ok()? {
        SignatureAlgorithm::RSASSA_PSS(parameters) => hash_named(parameters.hash_algorithm_oid()),
        SignatureAlgorithm::RSA
        | SignatureAlgorithm::DSA
        | SignatureAlgorithm::ECDSA
        | SignatureAlgorithm::ED25519
        | SignatureAlgorithm::RSAAES_OAEP(_) => signature_named(&identifier.algorithm),
    }
}

fn signature_named(oid: &x509_parser::der_parser::Oid<'_>) -> Option<&'static digest::Algorithm> {
    // MD5 and SHA-1 with RSA or ECDSA, then SHA-256 with RSA or ECDSA.
    let as_sha256 = [
        oid!(1.2.840.113549.1.1.4),
        oid!(1.2.840.113549.1.1.5),
        oid!(1.2.840.10045.4.1),
        oid!(1.2.840.113549.1.1.11),
        oid!(1.2.840.10045.4.3.2),
    ];
    let as_sha384 = [oid!(1.2.840.113549.1.1.12), oid!(1.2.840.10045.4.3.3)];
    let as_sha512 = [oid!(1.2.840.113549.1.1.13), oid!(1.2.840.10045.4.3.4)];
    let as_sha224 = [oid!(1.2.840.113549.1.1.14), oid!(1.2.840.10045.4.3.1)];
    if as_sha256.contains(oid) {
        Some(&digest::SHA256)
    } else if as_sha384.contains(oid) {
        Some(&digest::SHA384)
    } else if as_sha512.contains(oid) {
        Some(&digest::SHA512)
    } else if as_sha224.contains(oid) {
        Some(&digest::SHA224)
    } else {
        None
    }
}

fn hash_named(oid: &x509_parser::der_parser::Oid<'_>) -> Option<&'static digest::Algorithm> {
    if *oid == oid!(1.3.14.3.2.26) || *oid == oid!(2.16.840.1.101.3.4.2.1) {
        Some(&digest::SHA256)
    } else if *oid == oid!(2.16.840.1.101.3.4.2.2) {
        Some(&digest::SHA384)
    } else if *oid == oid!(2.16.840.1.101.3.4.2.3) {
        Some(&digest::SHA512)
    } else {
        None
    }
}
