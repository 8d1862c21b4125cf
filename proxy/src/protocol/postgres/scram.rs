//! The server's side of SCRAM-SHA-256 (RFC 5802, RFC 7677), for agents whose client insists on it.
//!
//! The password is a fixed placeholder that everybody may know: it proves nothing about the agent, whose identity comes from
//! the kernel and its token. It exists so that `require_auth=scram-sha-256` and `channel_binding=require` find what they want.
//! Refuses a client that says it sees no channel binding although it was offered: somebody stands between.

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What every agent may use as its password.
pub(crate) const PLACEHOLDER_PASSWORD: &str = "chaperone";
/// PostgreSQL's default (`scram_iterations`).
const ITERATIONS: std::num::NonZeroU32 = std::num::NonZeroU32::new(4_096).unwrap();
/// Longest SASL message accepted: name, nonce and binding are a few hundred bytes.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4_096;
const KEY_BYTES: usize = 32;

/// Why an exchange failed. None of these says anything about a secret, since there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScramError {
    /// The text is not of the form of its step.
    #[error("the message is not of its form")]
    Malformed,
    /// Wrong channel binding, or a downgrade.
    #[error("the channel binding does not fit")]
    Binding,
    /// Not the placeholder password.
    #[error("the password is not the placeholder")]
    Proof,
}

/// The exchange after the client's first message.
#[derive(Debug)]
pub(crate) struct Exchange {
    header: String,
    client_first_bare: String,
    server_first: String,
    nonce: String,
    salt: [u8; 16],
    binding: Vec<u8>,
}

impl Exchange {
    /// Reads the client's first message. `binding` is the end-point hash of our certificate when the mechanism is `-PLUS`;
    /// `offered` says whether `-PLUS` was offered at all.
    ///
    /// # Errors
    /// When the message is malformed or the binding flags contradict the mechanism.
    pub(crate) fn start(
        client_first: &str,
        binding: Option<&[u8]>,
        offered: bool,
        random: &[u8; 34],
    ) -> Result<Self, ScramError> {
        let (header, bare) = split_header(client_first)?;
        match (header.as_bytes().first(), binding) {
            (Some(b'p'), Some(_)) if header.starts_with("p=tls-server-end-point,") => {}
            (Some(b'n'), None) => {}
            // "I could, but you did not offer": true only if we did not.
            (Some(b'y'), None) if !offered => {}
            _ => return Err(ScramError::Binding),
        }
        let client_nonce =
            attribute(bare, "r=").filter(|nonce| !nonce.is_empty()).ok_or(ScramError::Malformed)?;
        let (salt, fresh) = random.split_first_chunk::<16>().ok_or(ScramError::Malformed)?;
        let nonce = format!("{client_nonce}{}", STANDARD.encode(fresh));
        let server_first = format!("r={nonce},s={},i={ITERATIONS}", STANDARD.encode(salt));
        Ok(Self {
            header: header.to_owned(),
            client_first_bare: bare.to_owned(),
            server_first,
            nonce,
            salt: *salt,
            binding: binding.unwrap_or_default().to_vec(),
        })
    }

    /// The server's first message.
    #[must_use]
    pub(crate) fn server_first(&self) -> &str {
        &self.server_first
    }

    /// Checks the client's final message and returns the server's.
    ///
    /// # Errors
    /// When it is malformed, bound to another channel, or proves another password.
    pub(crate) fn finish(&self, client_final: &str) -> Result<String, ScramError> {
        let (without_proof, proof) = client_final.rsplit_once(",p=").ok_or(ScramError::Malformed)?;
        let mut bound = self.header.clone().into_bytes();
        bound.extend_from_slice(&self.binding);
        if attribute(without_proof, "c=") != Some(STANDARD.encode(bound).as_str()) {
            return Err(ScramError::Binding);
        }
        if attribute(without_proof, "r=") != Some(self.nonce.as_str()) {
            return Err(ScramError::Malformed);
        }
        let proof = STANDARD.decode(proof).ok().ok_or(ScramError::Malformed)?;
        let auth = format!("{},{},{without_proof}", self.client_first_bare, self.server_first);
        let mut salted = [0_u8; KEY_BYTES];
        let password = PLACEHOLDER_PASSWORD.as_bytes();
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, &self.salt, password, &mut salted);
        let client_key = sign(&salted, b"Client Key");
        let stored = digest::digest(&digest::SHA256, &client_key);
        let signature = sign(stored.as_ref(), auth.as_bytes());
        let expected: Vec<u8> = client_key.iter().zip(&signature).map(|(key, mark)| key ^ mark).collect();
        constant_time::verify_slices_are_equal(&expected, &proof).ok().ok_or(ScramError::Proof)?;
        let server_key = sign(&salted, b"Server Key");
        Ok(format!("v={}", STANDARD.encode(sign(&server_key, auth.as_bytes()))))
    }
}

fn sign(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

/// The GS2 header with its two commas, and the rest.
fn split_header(message: &str) -> Result<(&str, &str), ScramError> {
    let second =
        message.match_indices(',').nth(1).map(|(at, _)| at.saturating_add(1)).ok_or(ScramError::Malformed)?;
    message.split_at_checked(second).ok_or(ScramError::Malformed)
}

fn attribute<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    message.split(',').find_map(|part| part.strip_prefix(name))
}

#[cfg(test)]
mod tests {
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

    use super::*;

    fn exchange(
        password: &str,
        binding: ChannelBinding,
        ours: Option<&[u8]>,
        offered: bool,
    ) -> Result<(), ScramError> {
        let mut client = ScramSha256::new(password.as_bytes(), binding);
        let first = std::str::from_utf8(client.message()).unwrap().to_owned();
        let server = Exchange::start(&first, ours, offered, &[7; 34])?;
        client.update(server.server_first().as_bytes()).unwrap();
        let last = std::str::from_utf8(client.message()).unwrap().to_owned();
        let answer = server.finish(&last)?;
        client.finish(answer.as_bytes()).unwrap();
        Ok(())
    }

    #[test]
    fn an_independent_client_with_the_placeholder_is_accepted_and_verifies_us() {
        assert_eq!(exchange("chaperone", ChannelBinding::unsupported(), None, false), Ok(()));
        let bound = ChannelBinding::tls_server_end_point(vec![9; 32]);
        assert_eq!(exchange("chaperone", bound, Some(&[9; 32]), true), Ok(()));
    }

    #[test]
    fn another_password_is_refused() {
        assert_eq!(exchange("hunter2", ChannelBinding::unsupported(), None, false), Err(ScramError::Proof));
    }

    #[test]
    fn a_binding_to_another_certificate_is_refused() {
        let bound = ChannelBinding::tls_server_end_point(vec![9; 32]);
        assert_eq!(exchange("chaperone", bound, Some(&[8; 32]), true), Err(ScramError::Binding));
    }

    #[test]
    fn a_client_that_was_hidden_the_offer_is_refused() {
        assert_eq!(
            exchange("chaperone", ChannelBinding::unrequested(), None, true),
            Err(ScramError::Binding)
        );
    }

    #[test]
    fn text_that_is_no_exchange_is_refused() {
        for text in ["", "n", "n,,", "n,,n=,x=", "n,,n=,r="] {
            assert!(Exchange::start(text, None, false, &[0; 34]).is_err(), "{text}");
        }
    }
}
