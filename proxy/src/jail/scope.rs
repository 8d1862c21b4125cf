//! Landlock: what an agent may not do to processes outside its jail.
//!
//! A domain of its own keeps it from tracing or reading processes outside (every kernel with a domain), from abstract unix
//! sockets that others listen on, and from signalling others (Linux 6.12). One file right is handled and given back at once,
//! because kernels without those two make no domain for less. Limits: Linux before 5.19 would refuse to move files between
//! folders in any domain, so there is none there; capabilities and accounts are then what protects others.

use landlock::{
    AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, Scope,
};

use super::error::JailError;

/// Whether this kernel keeps agents from abstract sockets and signals of others (Linux 6.12).
#[must_use]
pub fn is_scoped() -> bool {
    exists(strict().scope(Scope::AbstractUnixSocket).and_then(|ruleset| ruleset.scope(Scope::Signal)))
}

fn strict() -> Ruleset {
    Ruleset::default().set_compatibility(CompatLevel::HardRequirement)
}

fn exists(ruleset: Result<Ruleset, RulesetError>) -> bool {
    ruleset.and_then(Ruleset::create).is_ok()
}

/// What an agent may do to processes outside on this kernel, in words for `doctor`.
#[must_use]
pub fn outsiders() -> &'static str {
    if is_scoped() {
        "agents neither trace nor signal processes outside, and reach no abstract sockets"
    } else if exists(strict().handle_access(AccessFs::Refer)) {
        "this kernel keeps agents from tracing processes outside, but not from signals and abstract sockets"
    } else {
        "this kernel has no Landlock that could keep agents from processes of their own account; give each its own"
    }
}

/// Enters a domain, as far as this kernel has them. New privileges must be forbidden already.
pub(super) fn enter() -> Result<(), JailError> {
    let refused = |source| JailError::privileges("enter a Landlock domain", source);
    let root = PathFd::new("/").map_err(|source| JailError::privileges("open `/` for Landlock", source))?;
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::Refer)
        .and_then(|ruleset| ruleset.scope(Scope::AbstractUnixSocket))
        .and_then(|ruleset| ruleset.scope(Scope::Signal))
        .and_then(Ruleset::create)
        .and_then(|ruleset| ruleset.add_rule(PathBeneath::new(root, AccessFs::Refer)))
        .map_err(refused)?;
    ruleset.restrict_self().map_err(refused)?;
    Ok(())
}
