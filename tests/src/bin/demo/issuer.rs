//! The demonstration's identity provider: real discovery, real keys, tokens for one agent.
//!
//! Runs in this process on the given runtime, over HTTPS with an authority made for this run.
//! A token's life is counted as the daemon counts it, with its allowance for clocks that disagree, so that the end
//! can be shown within seconds.

use std::time::Duration;

use anyhow::{Context, Result};
use chaperone::clock::Clock;
use chaperone_tests::ca::Ca;
use chaperone_tests::oidc::Provider;
use serde_json::json;

/// The allowance: the daemon accepts a token this long after its `exp`.
const SKEW: Duration = Duration::from_secs(30);

/// How long ago tokens claim to have been issued; longer than the allowance, so that `exp` never precedes `iat`.
const AGE: Duration = Duration::from_secs(60);

/// A running provider.
#[derive(Debug)]
pub(crate) struct Issuer {
    provider: Provider,
    ca_pem: String,
}

impl Issuer {
    /// Starts it.
    pub(crate) fn start(runtime: &tokio::runtime::Runtime) -> Result<Self> {
        let ca = Ca::new("the demo's authority").context("cannot make an authority")?;
        let provider =
            runtime.block_on(Provider::start(&ca)).context("cannot start the identity provider")?;
        Ok(Self { provider, ca_pem: ca.pem() })
    }

    /// The issuer's URL.
    pub(crate) fn url(&self) -> String {
        self.provider.issuer().to_owned()
    }

    /// The authority that certifies it.
    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// A token that the daemon accepts for the given time from now.
    pub(crate) fn token(&self, life: Duration) -> Result<String> {
        let now = Clock::system().now().0 / 1000;
        let mut claims = self.provider.claims("reporter@shop.example", "chaperone", &["reporting"]);
        let issued = now.saturating_sub(AGE.as_secs());
        let times = [
            ("iat", issued),
            ("nbf", issued),
            ("exp", (now + life.as_secs()).saturating_sub(SKEW.as_secs())),
        ];
        let claims_map = claims.as_object_mut().context("the provider's claims are no object")?;
        for (name, value) in times {
            claims_map.insert(name.to_owned(), json!(value));
        }
        self.provider.mint(&claims)
    }
}
