//! The demonstration's identity provider: real discovery, real keys, tokens for one agent.
//!
//! temporary
//! temporary
use anyhow::Result;
use std::time::Duration;
#[derive(Debug)]
pub(crate) struct Issuer;
impl Issuer {
    pub(crate) fn start(_runtime: &tokio::runtime::Runtime) -> Result<Self> {
        Ok(Self)
    }
    pub(crate) fn url(&self) -> String {
        String::new()
    }
    pub(crate) fn ca_pem(&self) -> String {
        String::new()
    }
    pub(crate) fn token(&self, _life: Duration) -> Result<String> {
        Ok(String::new())
    }
}
