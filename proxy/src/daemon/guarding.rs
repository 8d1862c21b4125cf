//! The guard process: holds programs, tables and claims, looks at them twice a second, and serves the daemon's needs.
//!
//! It reads no agent's bytes, no secret and no policy. It goes on while the daemon is dead, hangs or changes. Told to by SIGHUP
//! it becomes the program that is now where it was started from; pins hold the guard meanwhile. INVARIANT: while the guard
//! cannot be made whole, the agents stand still.
//! Known limit: when this process dies nobody mends until it is back, but the pins hold, and the daemon says that it is gone.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::mending::{self, Found, LOOK_EVERY, State};
use super::notify::Notifier;
use super::{DaemonError, directory, remove_stale, sole};
use crate::causes::in_one_line;
use crate::config::Config;
use crate::intercept::{Changes, Guard, Hello, InterceptError, Line, Tree, Word, voice_of};
use crate::shutdown::Shutdown;

/// How long a caller may take to say hello.
const HELLO_TIME_MAX: Duration = Duration::from_secs(2);
/// The longest hello: it holds two paths.
const HELLO_BYTES_MAX: u64 = 16_384;
/// Names of missing parts that are kept for a daemon that is away; there are seventeen programs.
const MISSING_MAX: usize = 32;

/// What is told, and what waits for a daemon to hear it.
#[derive(Debug)]
struct Telling {
    guard: Guard,
    missing: Mutex<Vec<&'static str>>,
    state: watch::Sender<Word>,
}

/// Why the process ends.
enum End {
    Stop,
    Become,
}

/// Holds the guard until told to end.
///
/// # Errors
/// When the guard cannot be put in place. What was guarded before still is.
pub async fn run(config: &Config, program: &Path) -> Result<(), DaemonError> {
    let notifier = Notifier::from_environment();
    let socket = voice_of(&config.runtime_dir);
    let folder = socket.parent().unwrap_or(Path::new("/"));
    directory(folder, 0o700)?;
    let _sole = sole(&folder.join("guard.lock"))?;
    let guard = Guard::stand(&config.intercept)?;
    let failed = |source| DaemonError::Io { what: "the guard's socket", source };
    remove_stale(&socket).map_err(failed)?;
    let listener = UnixListener::bind(&socket).map_err(failed)?;
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    let (state, _) = watch::channel(guard.word());
    let telling = Arc::new(Telling { guard, missing: Mutex::new(Vec::new()), state });
    let shutdown = Shutdown::default();
    let served = Arc::clone(&telling);
    shutdown.spawn("daemons", async move { serve(&listener, &served).await });
    notifier.ready();
    tracing::info!(socket = %socket.display(), "the guard is in place");
    match look_until_told(&telling, &notifier).await? {
        End::Stop => {
            notifier.stopping();
            Ok(())
        }
        End::Become => {
            tracing::info!(program = %program.display(), "becoming the program that is there now");
            let source = std::process::Command::new(program).args(std::env::args_os().skip(1)).exec();
            Err(DaemonError::Io { what: "the new program", source })
        }
    }
}

/// Looks twice a second, and whenever a cgroup is made or removed beside the agents' one.
async fn look_until_told(telling: &Telling, notifier: &Notifier) -> Result<End, DaemonError> {
    let on = |kind| signal(kind).map_err(|source| DaemonError::Io { what: "signal handling", source });
    let (mut terminate, mut interrupt, mut hangup) =
        (on(SignalKind::terminate())?, on(SignalKind::interrupt())?, on(SignalKind::hangup())?);
    let mut every = tokio::time::interval(LOOK_EVERY);
    let mut changes = telling.guard.changes().ok();
    let mut state = State::Whole;
    let look = |before| mending::look(&telling.guard, before, |found| keep(telling, found));
    loop {
        // Nothing is lost with an arm that is dropped: what changed is found by the next look.
        tokio::select! {
            biased;
            _ = terminate.recv() => return Ok(End::Stop),
            _ = interrupt.recv() => return Ok(End::Stop),
            _ = hangup.recv() => {
                // Only from a state in which the pins are whole: descriptors do not survive.
                if look(State::Whole) == State::Whole {
                    return Ok(End::Become);
                }
                tracing::error!("not becoming another program while the guard is not whole");
            }
            heard = next(changes.as_ref()) => if heard.is_err() { changes = None },
            _ = every.tick() => changes = changes.or_else(|| telling.guard.changes().ok()),
        }
        state = look(state);
        notifier.alive();
    }
}

async fn next(changes: Option<&Changes>) -> Result<(), InterceptError> {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

/// Keeps for the daemon what a look found.
fn keep(telling: &Telling, found: Found) {
    let mut word = telling.guard.word();
    match found {
        Found::Nothing => {}
        Found::Mended { missing, stuck } => {
            let mut waiting = telling.missing.lock();
            let new: Vec<_> = missing.into_iter().filter(|name| !waiting.contains(name)).collect();
            waiting.extend(new);
            waiting.truncate(MISSING_MAX);
            word.frozen = stuck.is_some();
            word.problem = stuck;
        }
        Found::Broken { problem, frozen, before: _ } => {
            word.frozen = frozen;
            word.problem = Some(problem);
        }
    }
    telling.state.send_replace(word);
}

/// Serves one daemon after the other.
async fn serve(listener: &UnixListener, telling: &Telling) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Err(error) = attend(stream, telling).await {
                    tracing::info!(%error, "the daemon is gone, or was not served");
                }
            }
            Err(error) => {
                tracing::error!(%error, "daemons are not served at the moment");
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }
}

/// Puts the daemon's program where the daemon is, and tells it how things are until it goes.
async fn attend(stream: UnixStream, telling: &Telling) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    let (reader, mut writer) = stream.into_split();
    let mut text = String::new();
    let mut limited = BufReader::new(reader.take(HELLO_BYTES_MAX));
    tokio::time::timeout(HELLO_TIME_MAX, limited.read_line(&mut text)).await??;
    let hello: Hello = serde_json::from_str(&text)?;
    let served = admit(&hello, peer.uid(), peer.pid(), &telling.guard);
    if let Err(why) = served {
        write(&mut writer, &Line::Refused(why.clone())).await?;
        return Err(io::Error::other(why));
    }
    telling.state.send_replace(telling.guard.word());
    let mut state = telling.state.subscribe();
    let mut end = [0_u8; 1];
    loop {
        let mut word = state.borrow_and_update().clone();
        if word.problem.is_none() {
            word.missing = telling.missing.lock().iter().map(|name| (*name).to_owned()).collect();
        }
        let told = word.missing.len();
        write(&mut writer, &Line::Word(word)).await?;
        telling.missing.lock().drain(..told);
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return Ok(()) },
            // It says no more after its hello: it is gone, and the next one need not wait for the next look.
            _ = limited.read(&mut end) => return Ok(()),
        }
    }
}

fn admit(hello: &Hello, uid: u32, pid: Option<i32>, guard: &Guard) -> Result<(), String> {
    if uid != 0 {
        return Err("only root's daemon is served".to_owned());
    }
    let own = crate::intercept::LAYOUT;
    if hello.layout != own {
        return Err(format!(
            "the guard process knows tables of layout {own}, this daemon those of layout {}; \
             `systemctl reload chaperone-guard` makes it the program that is installed",
            hello.layout
        ));
    }
    if hello.settings != guard.described() {
        return Err("the guard process and this daemon read different `[intercept]` settings; \
                    `systemctl reload chaperone-guard` makes it read them again"
            .to_owned());
    }
    let pid = pid.and_then(|pid| u32::try_from(pid).ok()).ok_or("the daemon has no process id")?;
    let place: PathBuf = Tree::of(pid).map_err(|error| in_one_line(&error))?;
    guard.serve(place.strip_prefix("/").unwrap_or(&place)).map_err(|error| in_one_line(&error))
}

async fn write(writer: &mut (impl AsyncWriteExt + Unpin), line: &Line) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    writer.write_all(&text).await
}
