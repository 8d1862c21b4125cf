//! Orderly end: one trigger, many watchers, and every task counted until it is gone.
//!
//! Phases: `Running`, then `Draining` (no new sessions, old ones finish), then `Forced` (everything stops now).
//! INVARIANT: tasks start only through [`Shutdown::spawn`] and [`Shutdown::spawn_on`], so none outlives [`Shutdown::drained`] unseen.

use std::future::Future;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::watch;

/// How far the daemon's end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Normal work.
    Running,
    /// No new work; current work finishes.
    Draining,
    /// Everything stops at its next await.
    Forced,
}

/// Handle to the end of the daemon. Clones share the same trigger and the same task count.
#[derive(Debug, Clone)]
pub struct Shutdown {
    phase: Arc<watch::Sender<Phase>>,
    tasks: Arc<watch::Sender<usize>>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { phase: Arc::new(watch::Sender::new(Phase::Running)), tasks: Arc::new(watch::Sender::new(0)) }
    }
}

impl Shutdown {
    /// Moves to `phase`; never back.
    pub fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let forward = *current < phase;
            if forward {
                *current = phase;
            }
            forward
        });
    }

    /// The phase now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Returns once `phase` (or a later one) is reached. Cancel-safe.
    pub async fn reached(&self, phase: Phase) {
        let mut watcher = self.phase.subscribe();
        // The sender lives in `self`, so waiting cannot fail; if it did, ending is the safe reading.
        if watcher.wait_for(|current| *current >= phase).await.is_err() {
            tracing::debug!("shutdown trigger is gone; treating it as pulled");
        }
    }

    /// Starts a task that is counted, named in the log, and dropped when the phase becomes `Forced`.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        #[expect(clippy::disallowed_methods, reason = "this is the one place that starts tasks")]
        let _handle = tokio::spawn(self.ended(name, task));
    }

    /// The same on another runtime.
    pub fn spawn_on<F>(&self, runtime: &Handle, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let _handle = runtime.spawn(self.ended(name, task));
    }

    /// `task`, counted from now on and dropped when the phase becomes `Forced`.
    fn ended<F>(&self, name: &'static str, task: F) -> impl Future<Output = ()> + Send + 'static + use<F>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let guard = Counted::new(Arc::clone(&self.tasks));
        let end = self.clone();
        async move {
            let _guard = guard;
            // Termination first: whatever `task` held is dropped, and its `Drop` impls write the outcome.
            tokio::select! {
                biased;
                () = end.reached(Phase::Forced) => tracing::debug!(task = name, "stopped by force"),
                () = task => {}
            }
        }
    }

    /// Number of tasks alive.
    #[must_use]
    pub fn tasks(&self) -> usize {
        *self.tasks.borrow()
    }

    /// Returns when no task is alive. Cancel-safe.
    pub async fn drained(&self) {
        let mut watcher = self.tasks.subscribe();
        if watcher.wait_for(|count| *count == 0).await.is_err() {
            tracing::debug!("task counter is gone; nothing left to wait for");
        }
    }
}

#[derive(Debug)]
struct Counted(Arc<watch::Sender<usize>>);

impl Counted {
    fn new(tasks: Arc<watch::Sender<usize>>) -> Self {
        tasks.send_modify(|count| *count = count.saturating_add(1));
        Self(tasks)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn forced_end_stops_a_task_that_never_finishes() {
        let shutdown = Shutdown::default();
        shutdown.spawn("stuck", std::future::pending());
        assert_eq!(shutdown.tasks(), 1);
        shutdown.advance(Phase::Draining);
        assert_eq!(shutdown.tasks(), 1);
        shutdown.advance(Phase::Forced);
        shutdown.drained().await;
        assert_eq!(shutdown.tasks(), 0);
    }

    #[test]
    fn phases_never_go_back() {
        let shutdown = Shutdown::default();
        shutdown.advance(Phase::Forced);
        shutdown.advance(Phase::Draining);
        assert_eq!(shutdown.phase(), Phase::Forced);
    }
}
