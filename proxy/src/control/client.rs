//! The command line's end of the control socket.
//!
//! Blocking, one call at a time, with a limit on the wait. It carries no authority: the kernel tells the daemon who calls.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::api::{Answer, Call};

/// Longest time for an answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No daemon.
    #[error("no daemon answers at `{path}`: {source}; is `chaperone daemon` running?")]
    NoDaemon {
        /// The socket.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("the daemon broke the connection: {0}")]
    Io(#[from] std::io::Error),
    /// An answer of another form.
    #[error("the daemon's answer cannot be read: {0}")]
    Answer(#[from] serde_json::Error),
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the daemon whose runtime directory this is.
    ///
    /// # Errors
    /// When none answers.
    pub fn connect(runtime_dir: &Path) -> Result<Self, ControlError> {
        let path = super::server::socket_path(runtime_dir);
        let absent = |source| ControlError::NoDaemon { path: path.display().to_string(), source };
        let stream = UnixStream::connect(&path).map_err(absent)?;
        stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Makes one call.
    ///
    /// # Errors
    /// When the daemon goes away or answers nonsense.
    pub fn call(&mut self, call: &Call) -> Result<Answer, ControlError> {
        let mut line = serde_json::to_string(call)?;
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes())?;
        let mut answer = String::new();
        if self.stream.read_line(&mut answer)? == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        Ok(serde_json::from_str(&answer)?)
    }
}
