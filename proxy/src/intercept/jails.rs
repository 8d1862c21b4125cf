//! Runs around which root closed a jail, as the kernel programs know them: those may use the unix sockets that the jail leaves.
//!
//! INVARIANT: only a launcher that is root notes a run, and it closes the jail before the agent's first instruction; a launcher
//! without root could skip the jail, so the daemon notes none for it.

use super::Settings;
use super::cgroup::Cgroup;
use super::error::InterceptError;
use super::maps::{JAILED, Tables};
use super::pins::Pins;

/// Notes that root closes a jail around this run: it may use the unix sockets that the jail leaves it.
///
/// # Errors
/// When there is no guard, or no room.
pub fn note_jail(settings: &Settings, run: &Cgroup) -> Result<(), InterceptError> {
    let mut table = Tables::in_directory(&Pins::new(&settings.pin_dir).maps()).jailed()?;
    table
        .insert(run.id(), 1, 0)
        .map_err(|source| InterceptError::Map { map: JAILED, source: Box::new(source) })
}

/// Forgets the jails of runs that are gone.
pub(super) fn forget(tables: &Tables, parent: &Cgroup) -> Result<(), InterceptError> {
    let failed = |source| InterceptError::Map { map: JAILED, source: Box::new(source) };
    let mut table = tables.jailed()?;
    let noted: Vec<u64> = table.keys().collect::<Result<_, _>>().map_err(failed)?;
    let runs = parent.runs();
    noted.iter().filter(|run| !runs.contains(run)).try_for_each(|run| table.remove(run)).map_err(failed)
}
