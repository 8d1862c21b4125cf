//! The answer policy gives, and what it demands of the reply.
//!
//! Nothing here defaults to "allow": every constructor names its verdict.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// SHA-256 of a policy bundle, in hex: which rules were in force.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BundleHash(pub String);

/// Who must agree to a held request, and for how long the question stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HoldTerms {
    /// Approver groups; an approver must be a member of every one. Empty means any approver.
    pub approvers: BTreeSet<String>,
    /// How many distinct people must approve; at least 1.
    pub quorum: u8,
    /// How long the ticket, and then its approval, stays usable.
    pub window: Duration,
}

/// The three answers, strictest last.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Verdict {
    /// The request may go on now.
    Allow,
    /// The request waits for people.
    Hold(HoldTerms),
    /// The request is refused.
    Deny,
}

/// Why: the policies that decided and whatever went wrong while asking.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reasons {
    /// Ids of the deciding policies. Empty for a denial means that no policy permits it.
    pub policies: Vec<String>,
    /// Evaluation errors and facts that were missing; any of these makes the verdict a denial.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

/// A verdict with its reasons and the bundle that gave it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Decision {
    /// Allow, hold or deny.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Policies and errors behind it.
    #[serde(flatten)]
    pub reasons: Reasons,
    /// The bundle in force.
    pub bundle: BundleHash,
}

/// How a masked value is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MaskStrategy {
    /// A fixed token; NULL where the type has none.
    Redact,
    /// SQL NULL.
    Null,
    /// Stars, then the last N characters; a value of N or fewer characters is all stars. At most 8.
    KeepLast(u8),
    /// Keyed hash: equal within a session, useless outside it.
    Hash,
    /// Keyed opaque token: equal for the life of the daemon.
    Token,
}

/// A mask strategy that is not one of the five.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a mask strategy; use redact, null, keep-last:N (N from 1 to 8), hash or token")]
pub struct StrategyError(pub String);

/// Most characters that `keep-last` may leave readable: more would be the value itself for short data.
const KEEP_LAST_MAX: u8 = 8;

impl FromStr for MaskStrategy {
    type Err = StrategyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "redact" => Ok(Self::Redact),
            "null" => Ok(Self::Null),
            "hash" => Ok(Self::Hash),
            "token" => Ok(Self::Token),
            other => other
                .strip_prefix("keep-last:")
                .and_then(|n| n.parse::<u8>().ok())
                .filter(|n| (1..=KEEP_LAST_MAX).contains(n))
                .map(Self::KeepLast)
                .ok_or_else(|| StrategyError(other.to_owned())),
        }
    }
}

impl fmt::Display for MaskStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redact => f.write_str("redact"),
            Self::Null => f.write_str("null"),
            Self::KeepLast(n) => write!(f, "keep-last:{n}"),
            Self::Hash => f.write_str("hash"),
            Self::Token => f.write_str("token"),
        }
    }
}

impl TryFrom<String> for MaskStrategy {
    type Error = StrategyError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MaskStrategy> for String {
    fn from(strategy: MaskStrategy) -> Self {
        strategy.to_string()
    }
}

/// Whether a principal may see one column as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Clearance {
    /// The value passes unchanged.
    Clear,
    /// The value is replaced.
    Masked {
        /// How.
        strategy: MaskStrategy,
        /// The policies that forbade reading it; empty when none permitted it.
        policies: Vec<String>,
    },
}

/// A column that policy masks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MaskedColumn {
    /// `schema.table.column`, or the printed name where the source is unknown.
    pub column: String,
    /// Its class, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// How it is replaced.
    pub strategy: MaskStrategy,
    /// The policies that forbade reading it; empty when none permitted it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies_print_as_they_parse() {
        for text in ["redact", "null", "keep-last:4", "hash", "token"] {
            assert_eq!(text.parse::<MaskStrategy>().map(|s| s.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn keep_last_refuses_zero_and_lengths_that_show_the_value() {
        assert!("keep-last:0".parse::<MaskStrategy>().is_err());
        assert!("keep-last:9".parse::<MaskStrategy>().is_err());
        assert!("keep".parse::<MaskStrategy>().is_err());
    }
}
