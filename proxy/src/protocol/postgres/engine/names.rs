//! What the session's names mean: prepared statements, portals and cursors.
//!
//! An agent may send ahead, so what a name means can hang on replies that are still owed. The server keeps statements in one
//! name space and portals and cursors in another; SQL and messages reach both.
//! INVARIANT: a name counts as known only if the server must agree with us: its making is confirmed, or the use comes before
//! the next Sync, so that a failure of the making makes the server skip the use. Everything else is unknown, or waits.
//! Known limit: a permitted function that runs dynamic SQL can change names unseen; cursors are forgotten when one runs.

use std::sync::Arc;

use super::super::exposure::Exposure;
use super::ask::copies;
use super::state::{Copies, Engine, Expect, Known, PORTALS_MAX, Part, Prepared};
use crate::model::{Operation, Outcome};
use crate::sql::{Analysis, Outputs, Statement, StatementKind};

/// A change of the session's names by SQL.
#[derive(Debug, Clone)]
pub(crate) enum NameChange {
    /// `PREPARE`
    Prepare(String, Arc<Analysis>, Arc<str>),
    /// `DEALLOCATE name`
    Deallocate(String),
    /// `DEALLOCATE ALL`, `DISCARD ALL`
    DeallocateAll,
    /// `DECLARE`
    Declare(String, Outputs, Exposure),
    /// `CLOSE name`
    CloseCursor(String),
    /// `CLOSE ALL`
    CloseAll,
}

/// What a name means at this moment.
#[derive(Debug)]
pub(super) enum Meaning<T> {
    /// This.
    Is(T),
    /// A reply that is owed decides.
    Later,
    /// Nothing that we know.
    Unknown,
}

/// What `EXECUTE` runs.
#[derive(Debug)]
pub(super) struct Executed {
    pub(super) statement: Statement,
    pub(super) operation: Operation,
    /// The text that prepared it.
    pub(super) text: Arc<str>,
}

impl Engine {
    /// The prepared statement of that name.
    pub(super) fn statement(&self, name: &str) -> Meaning<Arc<Prepared>> {
        match self.statements.get(name) {
            None => Meaning::Unknown,
            Some(known) if self.is_agreed(known.sent) => Meaning::Is(Arc::clone(&known.prepared)),
            Some(_) => Meaning::Later,
        }
    }

    /// The portal of that name, by its request. A portal that runs another statement by name is unknown once names changed.
    pub(super) fn portal(&self, name: &str) -> Meaning<u64> {
        let Some(portal) = self.portal_names.get(name).and_then(|request| self.portals.get(request)) else {
            return Meaning::Unknown;
        };
        if portal.by_name.is_some_and(|names| names != self.names) {
            return Meaning::Unknown;
        }
        if self.is_agreed(portal.sent) { Meaning::Is(portal.request) } else { Meaning::Later }
    }

    fn is_agreed(&self, sent: Option<u64>) -> bool {
        sent.is_none_or(|syncs| syncs == self.syncs)
    }

    /// The statement that `EXECUTE name` runs. One that itself works on names is as good as unknown.
    pub(super) fn executed(&self, name: &str) -> Option<Executed> {
        let Meaning::Is(prepared) = self.statement(name) else { return None };
        let [only] = prepared.analysis.statements.as_slice() else { return None };
        let plain = match only.kind {
            StatementKind::Query | StatementKind::Modify => true,
            StatementKind::Prepare { .. } => prepared.request == 0,
            _ => false,
        };
        plain.then(|| Executed {
            statement: only.clone(),
            operation: (*prepared.analysis.operation).clone(),
            text: Arc::clone(&prepared.text),
        })
    }

    /// Whether running a prepared statement runs another by name.
    pub(super) fn goes_by_name(prepared: &Prepared) -> bool {
        prepared.analysis.statements.iter().any(|statement| {
            matches!(statement.kind, StatementKind::Execute { .. } | StatementKind::Fetch { .. })
        })
    }

    /// The changes of names that running a prepared statement makes.
    pub(super) fn changes_of(&self, prepared: &Prepared) -> Vec<NameChange> {
        // A statement prepared by SQL is `PREPARE` in its analysis; running it makes no name.
        if prepared.request == 0 {
            return Vec::new();
        }
        let parts = self.judged(&prepared.analysis).parts;
        let change = |(statement, part)| name_change(statement, &prepared.analysis, &prepared.text, part);
        prepared.analysis.statements.iter().zip(&parts).filter_map(change).collect()
    }

    /// Puts a statement under a name until the server confirms it; returns a confirmed one that it displaces.
    pub(super) fn make_statement(&mut self, name: &str, prepared: &Arc<Prepared>) -> Option<Arc<Prepared>> {
        self.names = self.names.wrapping_add(1);
        let known = Known { prepared: Arc::clone(prepared), sent: Some(self.syncs) };
        self.statements
            .insert(name.to_owned(), known)
            .filter(|old| old.sent.is_none())
            .map(|old| old.prepared)
    }

    /// The server has made a statement; true if its name still means it.
    pub(super) fn statement_made(&mut self, name: &str, made: &Arc<Prepared>) -> bool {
        match self.statements.get_mut(name).filter(|known| Arc::ptr_eq(&known.prepared, made)) {
            Some(known) => {
                known.sent = None;
                true
            }
            None => false,
        }
    }

    /// The server has not made a statement: what it was to displace is still there, unless something later took its name.
    pub(super) fn statement_failed(
        &mut self,
        name: &str,
        failed: &Arc<Prepared>,
        previous: Option<Arc<Prepared>>,
    ) {
        self.names = self.names.wrapping_add(1);
        let latest = self.statements.get(name).is_some_and(|known| Arc::ptr_eq(&known.prepared, failed));
        if latest {
            self.statements.remove(name);
        }
        self.forget(failed.request);
        match previous {
            Some(prepared) if latest => {
                self.statements.insert(name.to_owned(), Known { prepared, sent: None });
            }
            Some(prepared) => self.forget(prepared.request),
            None => {}
        }
    }

    /// Takes a statement's name away. The request of one that is not confirmed is forgotten when its reply comes.
    pub(super) fn drop_statement(&mut self, name: &str) {
        if let Some(old) = self.statements.remove(name) {
            self.names = self.names.wrapping_add(1);
            if old.sent.is_none() {
                self.forget(old.prepared.request);
            }
        }
    }

    /// What a change touches is unknown from here on.
    pub(super) fn forget_change(&mut self, change: &NameChange) {
        self.names = self.names.wrapping_add(1);
        match change {
            NameChange::Prepare(name, ..) | NameChange::Deallocate(name) => self.drop_statement(name),
            NameChange::DeallocateAll => {
                let names: Vec<String> = self.statements.keys().cloned().collect();
                for name in &names {
                    self.drop_statement(name);
                }
                self.cursors.clear();
            }
            NameChange::Declare(name, ..) | NameChange::CloseCursor(name) => {
                self.cursors.remove(name);
                self.unname_portal(name);
            }
            NameChange::CloseAll => {
                self.cursors.clear();
                self.unname_portals(u64::MAX);
            }
        }
    }

    /// The server has made these changes. What later messages may have changed again stays unknown.
    pub(super) fn apply_changes(&mut self, changes: &[NameChange]) {
        if changes.is_empty() || self.owes_changes() {
            return;
        }
        let (mut statements, mut cursors) = (Vec::new(), Vec::new());
        for change in changes {
            match change {
                NameChange::Prepare(name, analysis, text) => statements.push((name, analysis, text)),
                NameChange::Deallocate(gone) => statements.retain(|(name, ..)| *name != gone),
                NameChange::DeallocateAll => {
                    statements.clear();
                    cursors.clear();
                }
                NameChange::Declare(name, outputs, exposure) => cursors.push((name, outputs, exposure)),
                NameChange::CloseCursor(gone) => cursors.retain(|(name, ..)| *name != gone),
                NameChange::CloseAll => cursors.clear(),
            }
        }
        self.names = self.names.wrapping_add(1);
        for (name, analysis, text) in statements {
            let (text, analysis) = (Arc::clone(text), Arc::clone(analysis));
            let prepared = Prepared { text, analysis, request: 0 };
            let known = Known { prepared: Arc::new(prepared), sent: None };
            self.statements.entry(name.clone()).or_insert(known);
        }
        for (name, outputs, exposure) in cursors {
            if self.cursors.len() < PORTALS_MAX && !self.portal_names.contains_key(name) {
                let part = Part { outputs: outputs.clone(), exposure: exposure.clone(), copies: Copies::No };
                self.cursors.insert(name.clone(), part);
            }
        }
    }

    /// Whether a reply is owed to something that changes names.
    fn owes_changes(&self) -> bool {
        self.owed.iter().any(|expect| match expect {
            Expect::Query(query) => !query.changes.is_empty(),
            Expect::Execute { portal, .. } => {
                self.portals.get(portal).is_some_and(|bound| !bound.changes.is_empty())
            }
            _ => false,
        })
    }

    /// Whether the agent's next request must wait until the server has run the query before it: what names mean, or whether
    /// bytes are data of a copy, hangs on it.
    pub(super) fn must_wait(&self) -> bool {
        let last = self.owed.iter().rev().find(|expect| !matches!(expect, Expect::Sync { .. }));
        matches!(last, Some(Expect::Query(query)) if !query.changes.is_empty())
    }

    /// Whether the server may be about to ask for copy data.
    pub(super) fn awaits_copy(&self) -> bool {
        let copying = self.owed.len() == 1 && self.copy != super::state::CopyMode::None;
        match self.owed.back() {
            Some(Expect::Query(query)) => {
                let left = query.parts.iter().skip(query.index.saturating_add(usize::from(copying)));
                query.failed.is_none() && left.into_iter().any(|part| part.copies == Copies::In)
            }
            Some(Expect::Execute { portal, .. }) => {
                let statement =
                    self.portals.get(portal).and_then(|bound| bound.statement.analysis.statements.first());
                !copying && statement.is_some_and(|statement| copies(statement) == Copies::In)
            }
            Some(_) | None => false,
        }
    }

    /// Takes a portal's name away; it goes when nothing more is owed on it.
    pub(super) fn unname_portal(&mut self, name: &str) {
        if let Some(request) = self.portal_names.remove(name) {
            if let Some(portal) = self.portals.get_mut(&request) {
                portal.named = false;
            }
            self.settle_portal(request);
        }
    }

    /// The server has not made a portal.
    pub(super) fn portal_failed(&mut self, request: u64) {
        let name =
            self.portal_names.iter().find(|(_, bound)| **bound == request).map(|(name, _)| name.clone());
        if let Some(name) = name {
            self.unname_portal(&name);
        }
    }

    /// One reply about a portal has come.
    pub(super) fn portal_paid(&mut self, request: u64) {
        if let Some(portal) = self.portals.get_mut(&request) {
            portal.owed = portal.owed.saturating_sub(1);
        }
        self.settle_portal(request);
    }

    /// The request of a portal has come to its end, unless it did before.
    pub(super) fn end_portal(&mut self, request: u64, outcome: Outcome) {
        if let Some(portal) = self.portals.get_mut(&request).filter(|portal| !portal.ended) {
            portal.ended = true;
            let tally = portal.tally;
            self.ended(request, outcome, tally);
        }
    }

    /// Removes a portal without name and without owed replies; a request that never came to its end ends here.
    fn settle_portal(&mut self, request: u64) {
        if self.portals.get(&request).is_some_and(|portal| !portal.named && portal.owed == 0) {
            let executed = self.portals.get(&request).is_some_and(|portal| portal.executed);
            self.end_portal(request, if executed { Outcome::Forwarded } else { Outcome::Cut });
            self.portals.remove(&request);
            self.forget(request);
        }
    }

    /// Takes all names of portals up to `last` away.
    pub(super) fn unname_portals(&mut self, last: u64) {
        let names: Vec<String> = self
            .portal_names
            .iter()
            .filter(|(_, request)| **request <= last)
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            self.unname_portal(&name);
        }
    }
}

/// What names a statement makes or removes.
pub(super) fn name_change(
    statement: &Statement,
    analysis: &Arc<Analysis>,
    text: &Arc<str>,
    part: &Part,
) -> Option<NameChange> {
    Some(match &statement.kind {
        StatementKind::Prepare { name } => {
            NameChange::Prepare(name.clone(), alone(statement, analysis), Arc::clone(text))
        }
        StatementKind::Deallocate { name: Some(name) } => NameChange::Deallocate(name.clone()),
        StatementKind::Deallocate { name: None } | StatementKind::Discard { all: true } => {
            NameChange::DeallocateAll
        }
        StatementKind::DeclareCursor { name } => {
            NameChange::Declare(name.clone(), statement.outputs.clone(), part.exposure.clone())
        }
        StatementKind::CloseCursor { name: Some(name) } => NameChange::CloseCursor(name.clone()),
        StatementKind::CloseCursor { name: None } => NameChange::CloseAll,
        _ => return None,
    })
}

/// An analysis that holds one statement of a longer text.
fn alone(statement: &Statement, analysis: &Arc<Analysis>) -> Arc<Analysis> {
    if analysis.statements.len() == 1 {
        return Arc::clone(analysis);
    }
    let mut one = Analysis::clone(analysis);
    one.operation = Arc::new(statement.operation.clone());
    one.statements = vec![statement.clone()];
    Arc::new(one)
}
