//! Placeholder of the error only; filled in next.
/// Why a log does not verify.
#[derive(Debug, thiserror::Error)]
#[error("broken")]
pub struct VerifyError;
