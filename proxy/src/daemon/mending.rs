//! One look at the kernel guard: mended if parts are gone, and the agents stopped while it cannot be.
//!
//! The guard process and the daemon look alike and differ in whom they tell. INVARIANT: while the guard is not whole the agents'
//! processes are frozen, at each look anew; they go on only when a look found it whole.
//! Known limit: between two looks a detached program is missed for up to half a second.

use std::time::Duration;

use crate::causes::in_one_line;
use crate::intercept::Guard;

/// How often the guard is read back: twice a second, so that an alarm comes within two even on a busy host.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How a look ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// All is there and the agents run.
    Whole,
    /// Something is missing, or the agents stay frozen.
    Broken,
}

/// What a look found.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing was missing.
    Nothing,
    /// The guard is whole again.
    Mended {
        /// Names of what was gone.
        missing: Vec<&'static str>,
        /// Why the agents stay frozen all the same.
        stuck: Option<String>,
    },
    /// The guard cannot be made whole.
    Broken {
        /// Why.
        problem: String,
        /// Whether the agents stand still.
        frozen: bool,
        /// How the look before ended.
        before: State,
    },
}

/// Looks once, mends, stops the agents or lets them go, and tells what it found. `before` is how the look before ended.
pub(super) fn look(guard: &Guard, before: State, tell: impl FnOnce(Found)) -> State {
    let (found, state) = match guard.mend() {
        Ok(missing) if missing.is_empty() && before == State::Whole => (Found::Nothing, State::Whole),
        Ok(missing) => {
            tracing::error!(?missing, "parts of the kernel guard were gone; they are back");
            let stuck = match before {
                State::Whole => None,
                State::Broken => guard.freeze(false).err().map(|error| in_one_line(&error)),
            };
            if let Some(problem) = &stuck {
                tracing::error!(%problem, "the guard is whole, but the agents stay frozen");
            }
            let state = if stuck.is_none() { State::Whole } else { State::Broken };
            (Found::Mended { missing, stuck }, state)
        }
        Err(error) => {
            // At each look anew: an agent that started meanwhile must stop, too.
            let frozen = guard.stop_agents();
            let problem = in_one_line(&error);
            if before == State::Whole {
                tracing::error!(%problem, frozen, "the kernel guard is not whole");
            }
            (Found::Broken { problem, frozen, before }, State::Broken)
        }
    };
    tell(found);
    state
}
