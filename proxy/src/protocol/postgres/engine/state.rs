//! The tables of a session: statements, portals, owed replies.
//!
//! INVARIANT: `owed` lists exactly the replies the server still has to send, in order; everything the engine knows of the
//! server's state follows from paying it off.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::super::catalog::Catalog;
use super::super::exposure::{Exposure, MaskTable};
use super::super::wire::WireError;
use super::ask::Pending;
use super::names::NameChange;
use crate::mask::{Keys, Plan};
use crate::model::{MaskedColumn, Outcome, Tally};
use crate::sql::{Analysis, Outputs};

/// Prepared statements a session may hold. Drivers cache at most a few hundred.
pub(super) const STATEMENTS_MAX: usize = 4_096;
/// Portals a session may hold.
pub(super) const PORTALS_MAX: usize = 1_024;
/// Messages whose replies are owed. A client that pipelines more must read first.
pub(super) const OWED_MAX: usize = 16_384;

/// Why a session cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EngineError {
    /// The agent broke the protocol.
    #[error("the agent broke the protocol: {0}")]
    Client(WireError),
    /// The agent sent a message out of place, or too many.
    #[error("the agent broke the protocol: {0}")]
    ClientOrder(&'static str),
    /// The server broke the protocol.
    #[error("the server broke the protocol: {0}")]
    Server(WireError),
    /// The server sent a message out of place.
    #[error("the server broke the protocol: {0}")]
    ServerOrder(&'static str),
    /// A session setting that the parser relies on was changed on the server.
    #[error("setting `{0}` changed to a value that statements cannot be judged under")]
    Setting(String),
}

/// What is masked in this session at this moment, and the catalog it was computed from.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    /// Catalog snapshot.
    pub(crate) catalog: Arc<Catalog>,
    /// Masked columns.
    pub(crate) table: Arc<MaskTable>,
}

/// A prepared statement.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) text: Arc<str>,
    pub(super) analysis: Arc<Analysis>,
    /// The request under which it was prepared; 0 for one made by SQL.
    pub(super) request: u64,
}

/// What a name of a statement stands for.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) prepared: Arc<Prepared>,
    /// Syncs sent before it was; `None` once the server has confirmed it.
    pub(super) sent: Option<u64>,
}

/// A portal.
#[derive(Debug)]
pub(super) struct Portal {
    pub(super) request: u64,
    pub(super) statement: Arc<Prepared>,
    pub(super) exposure: Exposure,
    pub(super) plan: PortalPlan,
    pub(super) tally: Tally,
    /// True once an Execute was sent; the outcome of the request hangs on it.
    pub(super) executed: bool,
    /// Replies owed that speak of it.
    pub(super) owed: usize,
    /// False once its name means another portal, or none.
    pub(super) named: bool,
    /// Its outcome is noted.
    pub(super) ended: bool,
    /// Syncs sent before its Bind was; `None` once the server has confirmed it.
    pub(super) sent: Option<u64>,
    /// What the parse tree says of its result.
    pub(super) outputs: Outputs,
    /// For one that runs another statement by name: the state of names under which it was judged.
    pub(super) by_name: Option<u64>,
    /// Names that running it makes or removes.
    pub(super) changes: Vec<NameChange>,
}

/// How a portal's rows are masked.
#[derive(Debug, Clone)]
pub(super) enum PortalPlan {
    /// Nothing in its result can be masked.
    Clear,
    /// Its description is not asked for yet.
    Undescribed,
    /// Its description is on the way.
    Asked,
    /// Known.
    Known(Arc<Plan>),
}

impl PortalPlan {
    /// The plan of a portal that was just bound. Its rows are described also if its names mean nothing that is masked: they
    /// may have been given to something else since the snapshot.
    pub(super) fn of(table: &MaskTable, exposure: &Exposure, outputs: &Outputs) -> Self {
        let silent = *outputs == Outputs::None && !exposure.touches;
        if table.is_empty() || silent { Self::Clear } else { Self::Undescribed }
    }
}

/// One reply that the server owes.
#[derive(Debug)]
pub(super) enum Expect {
    /// `made` is what it makes, unless it carries a denial; `previous` is what it displaces.
    Parse {
        request: u64,
        name: String,
        made: Option<Arc<Prepared>>,
        previous: Option<Arc<Prepared>>,
        denial: Option<Denial>,
    },
    Bind {
        request: u64,
        denial: Option<Denial>,
    },
    /// A description of a statement, or of nothing when it carries a denial.
    DescribeStatement {
        denial: Option<Denial>,
    },
    DescribePortal {
        portal: u64,
        injected: bool,
    },
    Execute {
        portal: u64,
        denial: Option<Denial>,
    },
    Close,
    /// Portals up to this one end with the transaction.
    Sync {
        portals: u64,
    },
    Query(Box<Query>),
}

/// A simple query, or a function call, on its way.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) request: u64,
    pub(super) parts: Arc<[Part]>,
    pub(super) index: usize,
    pub(super) plan: Option<Plan>,
    pub(super) tally: Tally,
    pub(super) failed: Option<String>,
    pub(super) exposure: Exposure,
    /// Names that it makes or removes. They are unknown until it has succeeded.
    pub(super) changes: Vec<NameChange>,
    /// Portals up to this one end with the transaction.
    pub(super) portals: u64,
    pub(super) denial: Option<Denial>,
}

/// One statement of a simple query: what its result can show.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) outputs: Outputs,
    pub(super) exposure: Exposure,
    pub(super) copies: Copies,
}

/// Which copy mode a statement may enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copies {
    No,
    In,
    Out,
}

/// The error frame that stands in for the server's own.
#[derive(Debug)]
pub(super) struct Denial {
    pub(super) frame: Vec<u8>,
}

/// The end of a request, for the driver to record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ending {
    /// Request number within the session.
    pub(crate) request: u64,
    /// How it ended.
    pub(crate) outcome: Outcome,
    /// What passed.
    pub(crate) tally: Tally,
}

/// What the driver must do after a message was handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Note {
    /// Record an outcome.
    Ended(Ending),
    /// No frame of this request can come any more.
    Forget(u64),
    /// A statement that may have changed objects went through, or a reply shows that somebody changed them.
    CatalogStale,
    /// These columns of the request's reply are masked.
    Masked(u64, Vec<MaskedColumn>),
}

/// What may be otherwise than a snapshot says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doubt {
    None,
    /// What names of relations and functions mean.
    Names,
    /// That, and whose code operators and casts run.
    Code,
}

/// A copy in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CopyMode {
    None,
    /// The server waits for data of this request; `done` once the agent has sent the end.
    In {
        request: u64,
        done: bool,
    },
    Out,
}

/// The state of one session.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(super) view: View,
    pub(super) keys: Keys,
    pub(super) statements: HashMap<String, Known>,
    /// By the request that bound them: a name may mean a new portal while replies of the old one are still owed.
    pub(super) portals: HashMap<u64, Portal>,
    pub(super) portal_names: HashMap<String, u64>,
    pub(super) last_portal: u64,
    /// Cursors declared in SQL, with what their rows can show.
    pub(super) cursors: HashMap<String, Part>,
    /// Syncs sent.
    pub(super) syncs: u64,
    /// Counts changes of what names mean.
    pub(super) names: u64,
    pub(super) owed: VecDeque<Expect>,
    pub(super) pending: Option<Pending>,
    pub(super) transaction: u8,
    pub(super) skipping: bool,
    /// What may be otherwise than the catalog snapshot says, because this session changed objects since.
    pub(super) doubt: Doubt,
    /// A snapshot is being read that shows every change of this session.
    pub(super) settled: bool,
    pub(super) copy: CopyMode,
    pub(super) notes: Vec<Note>,
}

impl Engine {
    /// A session that has just seen its first `ReadyForQuery`.
    #[must_use]
    pub(crate) fn new(view: View, keys: Keys) -> Self {
        Self {
            view,
            keys,
            statements: HashMap::new(),
            portals: HashMap::new(),
            portal_names: HashMap::new(),
            last_portal: 0,
            cursors: HashMap::new(),
            syncs: 0,
            names: 0,
            owed: VecDeque::new(),
            pending: None,
            transaction: b'I',
            skipping: false,
            doubt: Doubt::None,
            settled: false,
            copy: CopyMode::None,
            notes: Vec::new(),
        }
    }

    /// Replaces what is masked. Portals are described anew; what ran or waits by a name can show anything.
    pub(crate) fn set_view(&mut self, view: View) {
        self.view = view;
        if std::mem::take(&mut self.settled) {
            self.doubt = Doubt::None;
        }
        let total = if self.view.table.is_empty() { Exposure::default() } else { Exposure::total() };
        // Cursors first: a portal that fetches from one of before is then judged as unknown.
        self.cursors.clear();
        self.names = self.names.wrapping_add(1);
        let seen: Vec<(u64, Exposure, Outputs)> = self
            .portals
            .iter()
            .map(|(request, portal)| {
                let (exposure, outputs) = self.sight(&portal.statement.analysis);
                let exposure = if portal.by_name.is_some() { total.clone() } else { exposure };
                (*request, exposure, outputs)
            })
            .collect();
        for (request, exposure, outputs) in seen {
            if let Some(portal) = self.portals.get_mut(&request) {
                portal.plan = PortalPlan::of(&self.view.table, &exposure, &outputs);
                portal.exposure = exposure;
                portal.outputs = outputs;
            }
        }
        if let Some(Pending::Query { parts, .. }) = &mut self.pending {
            for part in parts {
                part.0.exposure = total.clone();
            }
        }
    }

    /// What the one result of a prepared text can show.
    pub(super) fn sight(&self, analysis: &Arc<Analysis>) -> (Exposure, Outputs) {
        let parts = self.judged(analysis).parts;
        let exposure = parts.iter().fold(Exposure::default(), |all, part| all.and(&part.exposure));
        let outputs = match parts.as_slice() {
            [only] => only.outputs.clone(),
            _ => Outputs::Unknown,
        };
        (exposure, outputs)
    }

    /// A new snapshot is about to be read: whether it will show what this session changed, which others see after commit.
    pub(crate) fn reads_catalog(&mut self) {
        self.settled = self.can_settle();
    }

    /// Whether this session changed objects since the snapshot, and a new one would show it.
    #[must_use]
    pub(crate) fn doubts_catalog(&self) -> bool {
        self.doubt != Doubt::None && self.can_settle()
    }

    fn can_settle(&self) -> bool {
        self.transaction == b'I' && self.owed.is_empty()
    }

    /// The catalog in use.
    #[must_use]
    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.view.catalog)
    }

    /// True if nothing is masked for this session.
    #[must_use]
    pub(crate) fn masks_nothing(&self) -> bool {
        self.view.table.is_empty()
    }

    /// True if a statement names a relation that the catalog does not have.
    #[must_use]
    pub(crate) fn names_unknown(&self, statement: &crate::sql::Statement) -> bool {
        self.view.table.exposure(&self.view.catalog, statement).unknown
    }

    /// Whether the server has a transaction open for this session.
    #[must_use]
    pub(crate) fn in_transaction(&self) -> bool {
        self.transaction != b'I'
    }

    /// True when nothing is owed and nothing waits for a verdict.
    #[must_use]
    pub(crate) fn is_idle(&self) -> bool {
        self.owed.is_empty() && self.pending.is_none()
    }

    /// Whether more pipelined messages may be taken.
    #[must_use]
    pub(crate) fn has_room(&self) -> bool {
        self.owed.len() < OWED_MAX
    }

    /// What happened since the last call.
    pub(crate) fn take_notes(&mut self) -> std::vec::Drain<'_, Note> {
        self.notes.drain(..)
    }

    pub(super) fn ended(&mut self, request: u64, outcome: Outcome, tally: Tally) {
        if request != 0 {
            self.notes.push(Note::Ended(Ending { request, outcome, tally }));
        }
    }

    pub(super) fn forget(&mut self, request: u64) {
        if request != 0 {
            self.notes.push(Note::Forget(request));
        }
    }
}
