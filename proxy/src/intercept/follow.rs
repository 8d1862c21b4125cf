//! The daemon's side of a guard that another process holds, and the words the two exchange.
//!
//! The guard process listens on a unix socket that root alone can reach. The daemon says [`Hello`] and gets a [`Line`] at once
//! and with each look: what is in effect, what was missing, and whether the agents stand still. INVARIANT: a daemon whose
//! tables have another layout than the guard's is refused, so both always speak of the same tables.
//! While the guard process is silent the programs stay as they are; the daemon then asks the pins whether the links are still
//! attached, says that the guard is broken, and stops the agents only if they are not.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use proxy_common::ABI;
use serde::{Deserialize, Serialize};

use super::Settings;
use super::accounts::Accounts;
use super::cgroup::Tree;
use super::error::InterceptError;
use super::fitting::{needed, settle};
use super::guard::{Guard, Place};
use super::maps::{Held, Tables};
use super::optional;
use super::pins::Pins;
use super::programs::{self, ACCEPTED, GUARDS, ProgramStatus, SENTINEL};

/// Looks come twice a second; after this time the guard process counts as silent.
const SILENCE: Duration = Duration::from_millis(1800);
/// How long a daemon that starts waits for its first word: a guard process that has just become another program is busy.
const FIRST_WORD: Duration = Duration::from_secs(10);
/// How long between two attempts to reach it again.
const AGAIN: Duration = Duration::from_millis(200);
/// What the record calls it when the guard process itself was gone.
const PROCESS: &str = "guard process";

/// What a daemon says first.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Layout of the tables it knows.
    pub layout: u32,
    /// What it was told to capture, in the words of [`Guard::described`].
    pub settings: String,
}

/// What the guard process answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// How things are.
    Word(Word),
    /// It does not serve this daemon.
    Refused(String),
}

/// How things are with the guard.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Word {
    /// Where the links are pinned.
    pub generation: PathBuf,
    /// Each program: its name, whether it is in effect, and why not.
    pub programs: Vec<(String, bool, String)>,
    /// The optional programs, and why the kernel refused those that it did.
    #[serde(default)]
    pub features: Vec<(String, Option<String>)>,
    /// What was missing since the last word, and is back.
    pub missing: Vec<String>,
    /// Why the guard is not whole.
    pub problem: Option<String>,
    /// Whether the agents stand still.
    pub frozen: bool,
    /// Whether the kernel's counts began with this guard.
    pub counts_are_new: bool,
    /// The kernel's numbers of the tables.
    pub tables: Vec<u32>,
}

/// Where the guard process of a daemon with this runtime directory listens: in a directory of its own, since a service manager
/// removes a stopped daemon's.
#[must_use]
pub fn voice_of(runtime_dir: &Path) -> PathBuf {
    let mut name = runtime_dir.as_os_str().to_owned();
    name.push("-guard");
    PathBuf::from(name).join("guard.sock")
}

/// What was heard of the guard process.
#[derive(Debug)]
pub(super) struct Voice {
    heard: Arc<Mutex<Heard>>,
}

#[derive(Debug)]
struct Heard {
    /// None while it is silent.
    word: Option<Word>,
    missing: Vec<&'static str>,
}

impl Voice {
    /// Says hello, waits for the first word, and keeps listening.
    fn open(socket: &Path, settings: &Settings) -> io::Result<(Self, Word)> {
        let hello = Hello { layout: ABI, settings: format!("{settings:?}") };
        let (reader, word) = dial(socket, &hello, FIRST_WORD)?;
        let heard = Arc::new(Mutex::new(Heard { word: None, missing: Vec::new() }));
        heard.lock().take(word.clone());
        let (weak, socket) = (Arc::downgrade(&heard), socket.to_owned());
        std::thread::Builder::new()
            .name("guard-voice".into())
            .spawn(move || listen(&weak, &socket, &hello, reader))?;
        Ok((Self { heard }, word))
    }

    /// What the guard process said last of every program; none while it is silent.
    pub(super) fn programs(&self) -> Option<Vec<ProgramStatus>> {
        let heard = self.heard.lock();
        let states = heard.word.as_ref()?.programs.iter();
        Some(
            states
                .map(|(name, effective, detail)| ProgramStatus {
                    name: known(name),
                    effective: *effective,
                    detail: detail.clone(),
                })
                .collect(),
        )
    }
}

impl Heard {
    fn take(&mut self, word: Word) {
        self.missing.extend(word.missing.iter().map(|name| known(name)));
        self.word = Some(word);
    }
}

impl Guard {
    /// Follows the guard process that listens on `socket`; none if there is none.
    ///
    /// # Errors
    /// When there is one and it does not serve this daemon.
    pub fn follow(settings: &Settings, socket: &Path) -> Result<Option<Self>, InterceptError> {
        if !socket.exists() {
            return Ok(None);
        }
        let tree = Tree::find()?;
        // Before the first word: the guard process reads from the kernel where this one lives.
        settle(&tree, &settings.parent)?;
        let (voice, word) = match Voice::open(socket, settings) {
            Ok(opened) => opened,
            // The socket of one that is gone; whoever installs a guard takes it over.
            Err(source) if source.kind() == io::ErrorKind::ConnectionRefused => return Ok(None),
            Err(source) => {
                return Err(InterceptError::Kernel { action: "follow the guard process", source });
            }
        };
        let pins = Pins::new(&settings.pin_dir);
        let tables = Tables::in_directory(&pins.maps());
        let place = Place {
            parent: tree.open(&settings.parent)?,
            daemon: None,
            generation: word.generation,
            object: None,
            links: Vec::new(),
            features: word.features.iter().filter_map(optional::heard).collect(),
            tables: tables.hold()?,
            claims: None,
        };
        let counted = Accounts::open(&tables)?.counts()?;
        let counts_are_new = word.counts_are_new && counted.iter().all(|account| account.delivered == 0);
        tracing::info!(socket = %socket.display(), "the guard is held by its own process");
        let (settings, place, voice) = (settings.clone(), Mutex::new(place), Some(voice));
        Ok(Some(Self { settings, tree, pins, tables, counts_are_new, place, voice }))
    }

    /// What was missing since the last call, in the guard process's own words.
    pub(super) fn hear(&self, voice: &Voice) -> Result<Vec<&'static str>, InterceptError> {
        let mut heard = voice.heard.lock();
        let Some(word) = &heard.word else {
            let source = io::Error::new(io::ErrorKind::TimedOut, "it is silent, and nobody mends the guard");
            return Err(InterceptError::Kernel { action: "hear from the guard process", source });
        };
        if let Some(problem) = &word.problem {
            return Err(InterceptError::Unguarded { missing: problem.clone() });
        }
        let mut place = self.place.lock();
        if !place.parent.is_there() {
            place.parent = self.tree.open(&self.settings.parent)?;
        }
        place.generation.clone_from(&word.generation);
        place.features = word.features.iter().filter_map(optional::heard).collect();
        Ok(std::mem::take(&mut heard.missing))
    }

    /// Stops the agents because the guard is not whole; true if they stand still now. A guard process that speaks has stopped
    /// them already, and while it is silent the links may still be attached.
    pub fn stop_agents(&self) -> bool {
        let Some(voice) = &self.voice else { return self.freeze(true).is_ok() };
        match &voice.heard.lock().word {
            Some(word) => word.frozen,
            None => !self.attached().iter().all(|program| program.effective) && self.freeze(true).is_ok(),
        }
    }

    /// Whether the guard now works with other tables than those this daemon opened: it can only start again.
    pub fn lost_tables(&self) -> bool {
        let heard = self.voice.as_ref().map(|voice| voice.heard.lock());
        let word = heard.as_ref().and_then(|heard| heard.word.as_ref());
        word.is_some_and(|word| word.tables != ids(&self.place.lock().tables))
    }

    /// Whether each link is attached, which takes no rights to ask.
    pub(super) fn attached(&self) -> Vec<ProgramStatus> {
        let place = self.place.lock();
        let status = |hook: programs::Hook, cgroup: &super::Cgroup| {
            let effective = programs::reopen(hook, cgroup, &place.generation).is_some();
            let detail = if effective { "attached; the guard process is silent" } else { "not attached" };
            ProgramStatus { name: hook.0, effective, detail: detail.to_owned() }
        };
        let root = self.tree.root();
        needed(&self.settings)
            .chain(optional::taken(&self.settings, &place.features))
            .map(|hook| match (&root, hook.0.starts_with("sentinel")) {
                (Ok(root), true) => status(hook, root),
                (Ok(_) | Err(_), _) => status(hook, &place.parent),
            })
            .collect()
    }

    /// What this process was told to capture: a daemon that was told something else would wait at another door.
    #[must_use]
    pub fn described(&self) -> String {
        format!("{:?}", self.settings)
    }

    /// What this process, holding the guard, tells a daemon.
    #[must_use]
    pub fn word(&self) -> Word {
        let place = self.place.lock();
        let told = |status: ProgramStatus| (status.name.to_owned(), status.effective, status.detail);
        Word {
            generation: place.generation.clone(),
            programs: self.read_back(&place).into_iter().map(told).collect(),
            features: place.features.iter().map(|one| (one.name.to_owned(), one.refused.clone())).collect(),
            counts_are_new: self.counts_are_new,
            tables: ids(&place.tables),
            ..Word::default()
        }
    }
}

fn ids(tables: &[Held]) -> Vec<u32> {
    tables.iter().map(Held::id).collect()
}

/// Connects, says hello, reads the first word.
fn dial(socket: &Path, hello: &Hello, patience: Duration) -> io::Result<(BufReader<UnixStream>, Word)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    let mut hello = serde_json::to_vec(hello)?;
    hello.push(b'\n');
    stream.write_all(&hello)?;
    let mut reader = BufReader::new(stream);
    let word = read_word(&mut reader)?;
    reader.get_ref().set_read_timeout(Some(SILENCE))?;
    Ok((reader, word))
}

fn read_word(reader: &mut BufReader<UnixStream>) -> io::Result<Word> {
    let mut text = String::new();
    // Root's own process on the other side: lines need no limit.
    if reader.read_line(&mut text)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    match serde_json::from_str(&text)? {
        Line::Word(word) => Ok(word),
        Line::Refused(why) => Err(io::Error::other(why)),
    }
}

/// Listens for as long as somebody wants to know.
fn listen(heard: &Weak<Mutex<Heard>>, socket: &Path, hello: &Hello, first: BufReader<UnixStream>) {
    let mut reader = Some(first);
    loop {
        let Some(heard) = heard.upgrade() else { return };
        let word = match &mut reader {
            Some(reader) => read_word(reader),
            None => dial(socket, hello, SILENCE).map(|(again, word)| {
                reader = Some(again);
                heard.lock().missing.push(PROCESS);
                word
            }),
        };
        match word {
            Ok(word) => heard.lock().take(word),
            Err(error) => {
                if heard.lock().word.take().is_some() {
                    tracing::error!(%error, "the guard process is silent");
                }
                reader = None;
                drop(heard);
                std::thread::sleep(AGAIN);
            }
        }
    }
}

/// The program of this build with that name.
fn known(name: &str) -> &'static str {
    let hooks = GUARDS.into_iter().chain(SENTINEL).chain([ACCEPTED]).map(|(name, _)| name);
    hooks
        .chain(optional::names())
        .chain([PROCESS])
        .find(|known| *known == name)
        .unwrap_or("another build's program")
}

#[cfg(test)]
mod tests {
    use super::super::Sentinel;
    use super::*;

    #[test]
    fn the_guards_socket_is_beside_the_daemons_directory_and_not_in_it() {
        assert_eq!(voice_of(Path::new("/run/chaperone")), PathBuf::from("/run/chaperone-guard/guard.sock"));
    }

    #[test]
    fn without_a_guard_process_there_is_nobody_to_follow() {
        let (parent, pin_dir) = ("agents.slice".into(), "/nonexistent/pins".into());
        let settings = Settings {
            parent,
            pin_dir,
            port: 15_001,
            dns_port: None,
            sentinel: Sentinel::Off,
            unix_sockets: super::super::UnixSockets::Open,
            ingress: super::super::Ingress::Open,
            security_hooks: super::super::SecurityHooks::Off,
        };
        assert!(Guard::follow(&settings, Path::new("/nonexistent/guard.sock")).unwrap().is_none());
    }

    #[test]
    fn a_program_of_another_build_has_no_name_here() {
        assert_eq!(known("agent_egress"), "agent_egress");
        assert_eq!(known("agent_teleport"), "another build's program");
    }
}
