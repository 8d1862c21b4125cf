//! The room's front: remembered analyses at once, everything else through a worker.
//!
//! Two caches: by shape for plain statements whose facts no literal influenced, by exact text for the rest.
//! INVARIANT: trouble is an unknown analysis, and one that may pass is not remembered.

use std::cell::RefCell;
use std::sync::Arc;

use crate::shutdown::{Phase, Shutdown};

use super::cache::{Cache, KEY_BYTES_MAX};
use super::facts::Analysis;
use super::pool::{Pool, SqlError};
use super::{Settings, analyse, shape};

/// Turns SQL text into facts. Cheap to clone; clones share workers and memory.
#[derive(Debug, Clone)]
pub struct Analyzer {
    inner: Arc<Inner>,
    shutdown: Shutdown,
}

#[derive(Debug)]
struct Inner {
    pool: Pool,
    exact: Cache,
    shapes: Cache,
}

thread_local! {
    /// Scratch space for shapes, so that a look-up allocates nothing.
    static SHAPE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Analyzer {
    /// Starts the workers. Must be called inside a runtime.
    ///
    /// # Errors
    /// If there are to be no workers or the first ones cannot be started.
    pub fn start(settings: &Settings, shutdown: &Shutdown) -> Result<Self, SqlError> {
        let pool = Pool::start(&settings.program, settings.workers)?;
        let inner = Inner { pool, exact: Cache::default(), shapes: Cache::default() };
        Ok(Self { inner: Arc::new(inner), shutdown: shutdown.clone() })
    }

    /// The analysis, if this text or one of its shape was analysed before. Never waits.
    #[must_use]
    pub fn cached(&self, sql: &str) -> Option<Arc<Analysis>> {
        if sql.len() > KEY_BYTES_MAX {
            return None;
        }
        SHAPE.with_borrow_mut(|bytes| {
            bytes.clear();
            if shape::write(sql, bytes, |_| {})
                && let Some(found) = self.inner.shapes.look_up(bytes)
            {
                return Some(found);
            }
            self.inner.exact.look_up(sql.as_bytes())
        })
    }

    /// The analysis of a text. Never fails: trouble makes it unknown. Cancel-safe.
    pub async fn analyze(&self, sql: &str) -> Arc<Analysis> {
        if let Some(found) = self.cached(sql) {
            return found;
        }
        if let Err(reason) = analyse::check(sql) {
            return Arc::new(Analysis::unknown(reason));
        }
        // Either arm dropped loses nothing but one worker, which the pool replaces.
        let answer = tokio::select! {
            biased;
            () = self.shutdown.reached(Phase::Forced) => {
                return Arc::new(Analysis::passing("the daemon is ending"));
            }
            answer = self.inner.pool.ask(sql) => answer,
        };
        match answer {
            Ok(analysis) => self.remember(sql, analysis),
            Err(error) => Arc::new(Analysis::passing(error.to_string())),
        }
    }

    fn remember(&self, sql: &str, analysis: Analysis) -> Arc<Analysis> {
        let by_shape = analysis.by_shape;
        let analysis = Arc::new(analysis);
        if analysis.passing || sql.len() > KEY_BYTES_MAX {
            return analysis;
        }
        let mut bytes = Vec::new();
        if by_shape && shape::write(sql, &mut bytes, |_| {}) {
            self.inner.shapes.remember(&bytes, &analysis);
        } else {
            self.inner.exact.remember(sql.as_bytes(), &analysis);
        }
        analysis
    }
}
