//! Worker processes: starts them, asks them, and replaces those that crash, hang or answer nonsense.
//!
//! A worker belongs to one question at a time; whoever drops the question midway drops and kills the worker, so answers
//! can never be mixed up. INVARIANT: an error here is an unknown statement, never an earlier answer.
//! Known limit: a text that hangs the parser holds one worker for [`ANSWER_TIMEOUT`].

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout};

use super::facts::Analysis;
use super::worker::{ANSWER_BYTES_MAX, READY};

/// Time for one text. A text of 1 MiB parses in well under a second.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Time for a new worker to confine itself and say so.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Time in the queue for a free worker; behind it are other texts of at most [`ANSWER_TIMEOUT`] each.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);

/// Failures in a row that are replaced at once.
const FAILURES_FREE: u32 = 4;

/// Pause after further failures, doubled each time up to the second value.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Texts after which a worker is replaced, so that a leak in the C code stays small.
const TEXTS_PER_WORKER: u32 = 20_000;

/// Why the analysis could not start, or a worker did not answer.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// `workers` is zero.
    #[error("the analysis needs at least one worker")]
    NoWorkers,
    /// The worker program could not be started.
    #[error("cannot start `{program}` as parser worker", program = program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A pipe to the worker is missing.
    #[error("parser worker has no pipe")]
    NoPipe,
    /// The worker ended or its pipe broke.
    #[error("parser worker is lost")]
    Lost(#[source] std::io::Error),
    /// The worker did not say that it is confined.
    #[error("parser worker did not report ready")]
    NotReady,
    /// The worker did not answer in time.
    #[error("parser worker took too long")]
    Timeout,
    /// The worker's answer is longer than any answer.
    #[error("parser worker answers {0} bytes")]
    AnswerLength(u32),
    /// The worker's answer is not an analysis.
    #[error("parser worker answers nonsense")]
    Answer(#[source] postcard::Error),
    /// No worker became free in time.
    #[error("all parser workers are busy")]
    Busy,
}

/// The worker processes.
#[derive(Debug)]
pub(super) struct Pool {
    program: PathBuf,
    free: Semaphore,
    idle: Mutex<Vec<Worker>>,
    health: Mutex<Health>,
}

#[derive(Debug, Default)]
struct Health {
    failures: u32,
    retry_at: Option<Instant>,
}

impl Pool {
    /// Starts all workers. Must be called inside a runtime.
    pub(super) fn start(program: &Path, workers: usize) -> Result<Self, SqlError> {
        if workers == 0 {
            return Err(SqlError::NoWorkers);
        }
        let idle = (0..workers).map(|_| Worker::start(program)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            program: program.to_owned(),
            free: Semaphore::new(workers),
            idle: Mutex::new(idle),
            health: Mutex::new(Health::default()),
        })
    }

    /// Has a text analysed. Cancel-safe: a dropped question costs its worker.
    pub(super) async fn ask(&self, sql: &str) -> Result<Analysis, SqlError> {
        let _permit = match timeout(QUEUE_TIMEOUT, self.free.acquire()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) | Err(_) => return Err(SqlError::Busy),
        };
        let idle = self.idle.lock().pop();
        let mut worker = match idle {
            Some(worker) => worker,
            None => self.replacement().await?,
        };
        match worker.ask(sql).await {
            Ok(analysis) => {
                *self.health.lock() = Health::default();
                worker.texts = worker.texts.saturating_add(1);
                if worker.texts < TEXTS_PER_WORKER {
                    self.idle.lock().push(worker);
                }
                Ok(analysis)
            }
            Err(error) => {
                self.failed();
                tracing::warn!(error = %error, "parser worker replaced");
                Err(error)
            }
        }
    }

    async fn replacement(&self) -> Result<Worker, SqlError> {
        let retry_at = self.health.lock().retry_at;
        if let Some(at) = retry_at {
            sleep_until(at).await;
        }
        Worker::start(&self.program).inspect_err(|_| self.failed())
    }

    fn failed(&self) {
        let mut health = self.health.lock();
        health.failures = health.failures.saturating_add(1);
        let Some(over) = health.failures.checked_sub(FAILURES_FREE) else { return };
        let (first, longest) = BACKOFF;
        let pause = first.saturating_mul(1_u32.checked_shl(over.min(16)).unwrap_or(u32::MAX)).min(longest);
        health.retry_at = Instant::now().checked_add(pause);
    }
}

#[derive(Debug)]
struct Worker {
    // Killed on drop, and ends by itself when its input closes.
    _child: Child,
    input: ChildStdin,
    output: ChildStdout,
    ready: bool,
    texts: u32,
}

impl Worker {
    fn start(program: &Path) -> Result<Self, SqlError> {
        let mut child = Command::new(program)
            .arg("sql-worker")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| SqlError::Spawn { program: program.to_owned(), source })?;
        let input = child.stdin.take().ok_or(SqlError::NoPipe)?;
        let output = child.stdout.take().ok_or(SqlError::NoPipe)?;
        Ok(Self { _child: child, input, output, ready: false, texts: 0 })
    }

    async fn ask(&mut self, sql: &str) -> Result<Analysis, SqlError> {
        if !self.ready {
            match timeout(READY_TIMEOUT, self.frame()).await {
                Ok(Ok(frame)) if frame == READY => self.ready = true,
                Ok(Ok(_)) | Err(_) => return Err(SqlError::NotReady),
                Ok(Err(error)) => return Err(error),
            }
        }
        match timeout(ANSWER_TIMEOUT, self.exchange(sql)).await {
            Ok(answer) => answer,
            Err(_) => Err(SqlError::Timeout),
        }
    }

    async fn exchange(&mut self, sql: &str) -> Result<Analysis, SqlError> {
        let length =
            u32::try_from(sql.len()).map_err(|error| SqlError::Lost(std::io::Error::other(error)))?;
        self.input.write_all(&length.to_le_bytes()).await.map_err(SqlError::Lost)?;
        self.input.write_all(sql.as_bytes()).await.map_err(SqlError::Lost)?;
        self.input.flush().await.map_err(SqlError::Lost)?;
        let frame = self.frame().await?;
        postcard::from_bytes(&frame).map_err(SqlError::Answer)
    }

    async fn frame(&mut self) -> Result<Vec<u8>, SqlError> {
        let length = self.output.read_u32_le().await.map_err(SqlError::Lost)?;
        let bytes = usize::try_from(length).ok().filter(|bytes| *bytes <= ANSWER_BYTES_MAX);
        let mut frame = vec![0; bytes.ok_or(SqlError::AnswerLength(length))?];
        self.output.read_exact(&mut frame).await.map_err(SqlError::Lost)?;
        Ok(frame)
    }
}
