//! Messages from the server: what the agent gets of each.
//!
//! Every message must be one that is owed. Rows go through the plan of their portal or statement; a row without a plan is
//! masked whole. Errors and notices lose whatever may quote a masked value.

use std::sync::Arc;

use bytes::BytesMut;

use super::super::exposure::Exposure;
use super::super::wire::{
    self, Column, ErrorFields, FieldNotice, command_rows, describe_columns, ready_status, rewrite_row,
};
use super::state::{Copies, CopyMode, Engine, EngineError, Expect, Note, Portal, PortalPlan, View};
use crate::mask::Plan;
use crate::model::{Fault, Outcome, Tally};
use crate::sql::Outputs;

/// What stands for the text of an error whose statement touches masked columns: error texts quote values.
const WITHHELD: &str = "the server's message is withheld because the statement touches masked columns";

impl Engine {
    /// True if a row or a piece of a copy may pass without being read, so that it need not be in memory as a whole.
    #[must_use]
    pub(crate) fn passes_unread(&self, kind: u8) -> bool {
        match kind {
            b'D' => match self.owed.front() {
                Some(Expect::Execute { portal, .. }) => {
                    match self.portals.get(portal).map(|portal| &portal.plan) {
                        Some(PortalPlan::Clear) => true,
                        Some(PortalPlan::Known(plan)) => plan.is_clear(),
                        Some(PortalPlan::Undescribed | PortalPlan::Asked) | None => false,
                    }
                }
                Some(Expect::Query(query)) => query.plan.as_ref().is_some_and(Plan::is_clear),
                Some(_) | None => false,
            },
            b'd' => self.copy == CopyMode::Out,
            _ => false,
        }
    }

    /// Counts a row or piece of `bytes` that passed unread.
    pub(crate) fn passed(&mut self, kind: u8, bytes: usize) {
        let add = Tally {
            rows: u64::from(kind == b'D'),
            bytes: u64::try_from(bytes).unwrap_or(0),
            ..Tally::default()
        };
        if let Some(tally) = self.front_tally() {
            count(tally, add);
        }
    }

    /// Takes one whole frame from the server and puts what the agent gets at the end of `out`.
    ///
    /// # Errors
    /// When the server breaks the protocol, or a setting changed under which statements cannot be judged.
    pub(crate) fn server(&mut self, frame: &[u8], out: &mut BytesMut) -> Result<(), EngineError> {
        match frame.first().copied().unwrap_or(0) {
            kind @ (b'D' | b'd') if self.passes_unread(kind) => {
                self.passed(kind, frame.len());
                out.extend_from_slice(frame);
                Ok(())
            }
            b'D' => self.masked_row(frame, out),
            b'T' => self.row_description(frame, out),
            b'n' => self.no_data(frame, out),
            b't' => match self.owed.front() {
                Some(Expect::DescribeStatement { denial: None }) => pass(frame, out),
                Some(_) | None => Err(EngineError::ServerOrder("a parameter description nobody asked for")),
            },
            b'1' | b'2' | b'3' => self.completed(frame, out),
            b'C' | b'I' | b's' => self.result_end(frame, out),
            b'E' => self.error(frame, out),
            b'N' => self.notice(frame, out),
            b'Z' => self.ready(frame, out),
            b'S' => self.setting(frame, out),
            b'A' => self.notification(frame, out),
            b'V' => self.function_result(frame, out),
            b'G' | b'H' => self.copy_start(frame, out),
            b'c' if self.copy == CopyMode::Out => pass(frame, out),
            _ => Err(EngineError::ServerOrder("a message that has no place in a session")),
        }
    }

    fn front_tally(&mut self) -> Option<&mut Tally> {
        match self.owed.front_mut() {
            Some(Expect::Execute { portal, .. }) => {
                self.portals.get_mut(portal).map(|portal| &mut portal.tally)
            }
            Some(Expect::Query(query)) => Some(&mut query.tally),
            Some(_) | None => None,
        }
    }

    fn masked_row(&mut self, frame: &[u8], out: &mut BytesMut) -> Result<(), EngineError> {
        let before = out.len();
        // INVARIANT: `Plan::default()` has no columns, and columns beyond a plan's end are masked.
        let none = Plan::default();
        let masked = match self.owed.front() {
            Some(Expect::Execute { portal, .. }) => {
                let plan = self.portals.get(portal).and_then(known_plan);
                rewrite_row(frame, plan.as_deref().unwrap_or(&none), &self.keys, out)
            }
            Some(Expect::Query(query)) => {
                rewrite_row(frame, query.plan.as_ref().unwrap_or(&none), &self.keys, out)
            }
            Some(_) | None => return Err(EngineError::ServerOrder("a row nobody asked for")),
        };
        let masked = masked.map_err(EngineError::Server)?;
        let bytes = u64::try_from(out.len().saturating_sub(before)).unwrap_or(0);
        if let Some(tally) = self.front_tally() {
            count(tally, Tally { rows: 1, bytes, masked, ..Tally::default() });
        }
        Ok(())
    }

    fn row_description(&mut self, frame: &[u8], out: &mut BytesMut) -> Result<(), EngineError> {
        let columns = describe_columns(frame).map_err(EngineError::Server)?;
        match self.owed.pop_front() {
            Some(Expect::DescribeStatement { denial: None }) => pass(frame, out),
            Some(Expect::DescribePortal { portal, injected }) => {
                if let Some(bound) = self.portals.get_mut(&portal) {
                    let sight = (&bound.exposure, &bound.outputs);
                    let (plan, notes) = described(&self.view, portal, &columns, sight);
                    // Described a second time as it was before, there is nothing to tell.
                    let same = matches!(&bound.plan, PortalPlan::Known(known) if **known == plan);
                    self.notes.extend(notes.into_iter().filter(|_| !same));
                    bound.plan = PortalPlan::Known(Arc::new(plan));
                }
                self.portal_paid(portal);
                if injected { Ok(()) } else { pass(frame, out) }
            }
            Some(Expect::Query(mut query)) => {
                let part = query.parts.get(query.index);
                let total = Exposure::total();
                let (exposure, outputs) = match part {
                    Some(part) => (&part.exposure, &part.outputs),
                    // More results than statements: a rule or something else that cannot be seen into.
                    None if self.view.table.is_empty() => (&query.exposure, &Outputs::Unknown),
                    None => (&total, &Outputs::Unknown),
                };
                let (plan, notes) = described(&self.view, query.request, &columns, (exposure, outputs));
                query.plan = Some(plan);
                self.notes.extend(notes);
                self.owed.push_front(Expect::Query(query));
                pass(frame, out)
            }
            Some(_) | None => Err(EngineError::ServerOrder("a row description nobody asked for")),
        }
    }

    fn no_data(&mut self, frame: &[u8], out: &mut BytesMut) -> Result<(), EngineError> {
        match self.owed.pop_front() {
            Some(Expect::DescribeStatement { denial: None }) => pass(frame, out),
            Some(Expect::DescribePortal { portal, injected }) => {
                if let Some(bound) = self.portals.get_mut(&portal) {
                    bound.plan = PortalPlan::Known(Arc::new(Plan::default()));
                }
                self.portal_paid(portal);
                if injected { Ok(()) } else { pass(frame, out) }
            }
            Some(_) | None => Err(EngineError::ServerOrder("an empty description nobody asked for")),
        }
    }

    fn completed(&mut self, frame: &[u8], out: &mut BytesMut) -> Result<(), EngineError> {
        match (frame.first(), self.owed.pop_front()) {
            (Some(b'1'), Some(Expect::Parse { request, name, made: Some(made), previous, denial: None })) => {
                self.ended(request, Outcome::Forwarded, Tally::default());
                if !self.statement_made(&name, &made) {
                    self.forget(request);
                }
                if let Some(previous) = previous {
                    self.forget(previous.request);
                }
            }
            (Some(b'2'), Some(Expect::Bind { request, denial: None })) => {
                if let Some(portal) = self.portals.get_mut(&request) {
                    portal.sent = None;
                }
                self.portal_paid(request);
            }
            (Some(b'3'), Some(Expect::Close)) => {}
            _ => return Err(EngineError::ServerOrder("a completion of something else")),
        }
        pass(frame, out)
    }

    fn result_end(&mut self, frame: &[u8], out: &mut BytesMut) -> Result<(), EngineError> {
        let copied = !matches!(self.copy, CopyMode::None);
        self.copy = CopyMode::None;
        match self.owed.pop_front() {
            Some(Expect::Execute { portal, denial: None }) => {
                let suspended = frame.first() == Some(&b's');
                let mut changes = Vec::new();
                if let Some(bound) = self.portals.get_mut(&portal).filter(|_| !suspended) {
                    if bound.tally.rows == 0 {
                        bound.tally.rows = command_rows(frame);
                    }
                    changes.clone_from(&bound.changes);
                    self.end_portal(portal, Outcome::Forwarded);
                }
                self.portal_paid(portal);
                self.apply_changes(&changes);
            }
            Some(Expect::Query(mut query)) if query.denial.is_none() => {
                if query.plan.is_none() || copied {
                    query.tally.rows = query.tally.rows.saturating_add(command_rows(frame));
                }
                query.plan = None;
                query.index = query.index.saturating_add(1);
                self.owed.push_front(Expect::Query(query));
            }
            Some(_) | None => return Err(EngineError::ServerOrder("the end of a result nobody asked for")),
        }
        pass(frame, out)
    }

    fn error(&mut self, frame: &[u8], out: &mut BytesMut) -> Result<(), EngineError> {
        let fields = ErrorFields::read(frame).map_err(EngineError::Server)?;
        let code = fields.sqlstate();
        self.copy = CopyMode::None;
        let exposed = self.front_exposed();
        match self.owed.pop_front() {
            Some(Expect::Query(mut query)) => {
                match query.denial.take() {
                    Some(denial) => out.extend_from_slice(&denial.frame),
                    None => out.extend_from_slice(&self.scrubbed(fields, exposed, FieldNotice::Error)),
                }
                query.failed = Some(code);
                self.owed.push_front(Expect::Query(query));
            }
            Some(Expect::Sync { portals }) => {
                // An error at Sync itself, such as a deferred constraint at commit.
                out.extend_from_slice(&self.scrubbed(fields, exposed, FieldNotice::Error));
                self.owed.push_front(Expect::Sync { portals });
            }
            Some(mut front) => {
                match take_denial(&mut front) {
                    Some(frame) => out.extend_from_slice(&frame),
                    None => out.extend_from_slice(&self.scrubbed(fields, exposed, FieldNotice::Error)),
                }
                self.discard(front, Outcome::Failed { fault: Fault::Server, code });
                self.discard_to_sync();
            }
            None => out.extend_from_slice(&self.scrubbed(fields, true, FieldNotice::Error)),
        }
        Ok(())
    }

    /// After an error in the extended protocol the server discards everything up to the next Sync.
    fn discard_to_sync(&mut self) {
        while let Some(next) = self.owed.pop_front() {
            if matches!(next, Expect::Sync { .. }) {
                self.owed.push_front(next);
                return;
            }
            self.discard(next, Outcome::Cut);
        }
        self.skipping = true;
    }

    fn discard(&mut self, expect: Expect, outcome: Outcome) {
        match expect {
            Expect::Parse { request, name, made: Some(made), previous, .. } => {
                self.ended(request, outcome, Tally::default());
                self.statement_failed(&name, &made, previous);
            }
            // The server drops the unnamed statement before it looks at what replaces it.
            Expect::Parse { name, made: None, .. } => {
                if name.is_empty() {
                    self.drop_statement("");
                }
            }
            Expect::Bind { request, denial: None } => {
                self.end_portal(request, outcome);
                self.portal_failed(request);
                self.portal_paid(request);
            }
            Expect::Execute { portal, denial: None } => {
                self.end_portal(portal, outcome);
                self.portal_paid(portal);
            }
            Expect::DescribePortal { portal, .. } => self.portal_paid(portal),
            Expect::Query(query) => {
                self.ended(query.request, outcome, query.tally);
                self.forget(query.request);
            }
            Expect::Bind { denial: Some(_), .. }
            | Expect::Execute { denial: Some(_), .. }
            | Expect::DescribeStatement { .. }
            | Expect::Close
            | Expect::Sync { .. } => {}
        }
    }

    fn ready(&mut self, frame: &[u8], out: &mut BytesMut) -> Result<(), EngineError> {
        let status = ready_status(frame).map_err(EngineError::Server)?;
        let portals = match self.owed.pop_front() {
            Some(Expect::Sync { portals }) => portals,
            Some(Expect::Query(query)) => {
                if query.failed.is_none() {
                    self.apply_changes(&query.changes);
                }
                let outcome = match query.failed {
                    Some(code) => Outcome::Failed { fault: Fault::Server, code },
                    None => Outcome::Forwarded,
                };
                self.ended(query.request, outcome, query.tally);
                self.forget(query.request);
                query.portals
            }
            Some(_) | None => return Err(EngineError::ServerOrder("it was ready out of turn")),
        };
        self.transaction = status;
        self.copy = CopyMode::None;
        if status == b'I' {
            self.unname_portals(portals);
        }
        pass(frame, out)
    }

    fn setting(&mut self, frame: &[u8], out: &mut BytesMut) -> Result<(), EngineError> {
        let (name, value) = wire::read_setting(frame).map_err(EngineError::Server)?;
        let good = match name {
            "client_encoding" => value == "UTF8",
            "standard_conforming_strings" => value == "on",
            _ => true,
        };
        if good { pass(frame, out) } else { Err(EngineError::Setting(name.to_owned())) }
    }

    fn notice(&mut self, frame: &[u8], out: &mut BytesMut) -> Result<(), EngineError> {
        let fields = ErrorFields::read(frame).map_err(EngineError::Server)?;
        let exposed = self.front_exposed();
        out.extend_from_slice(&self.scrubbed(fields, exposed, FieldNotice::Notice));
        Ok(())
    }

    /// What a notification carries can come from anywhere, also from code and other sessions.
    fn notification(&self, frame: &[u8], out: &mut BytesMut) -> Result<(), EngineError> {
        if self.view.table.is_empty() {
            return pass(frame, out);
        }
        out.extend_from_slice(&wire::without_payload(frame).map_err(EngineError::Server)?);
        Ok(())
    }

    fn function_result(&mut self, frame: &[u8], out: &mut BytesMut) -> Result<(), EngineError> {
        match self.owed.front() {
            Some(Expect::Query(query)) if query.parts.is_empty() && self.view.table.is_empty() => {
                pass(frame, out)
            }
            Some(_) | None => Err(EngineError::ServerOrder("a function result nobody asked for")),
        }
    }

    fn copy_start(&mut self, frame: &[u8], out: &mut BytesMut) -> Result<(), EngineError> {
        let wanted = if frame.first() == Some(&b'G') { Copies::In } else { Copies::Out };
        let (request, copies, exposed) = match self.owed.front() {
            Some(Expect::Query(query)) => {
                let part = query.parts.get(query.index);
                (query.request, part.map(|part| part.copies), part.is_none_or(|part| part.exposure.touches))
            }
            Some(Expect::Execute { portal, .. }) => {
                let bound = self.portals.get(portal);
                let copies = bound
                    .and_then(|bound| bound.statement.analysis.statements.first())
                    .map(super::ask::copies);
                (*portal, copies, bound.is_none_or(|bound| bound.exposure.touches))
            }
            Some(_) | None => return Err(EngineError::ServerOrder("a copy nobody asked for")),
        };
        if copies != Some(wanted) || (wanted == Copies::Out && exposed) {
            return Err(EngineError::ServerOrder("a copy that was not judged as one"));
        }
        self.copy = match wanted {
            Copies::In => CopyMode::In { request, done: false },
            Copies::Out | Copies::No => CopyMode::Out,
        };
        pass(frame, out)
    }

    /// Whether the message at hand may quote a masked value. A failed Parse ran nothing, so it quotes only the agent's text.
    fn front_exposed(&self) -> bool {
        match self.owed.front() {
            Some(Expect::Query(query)) => query.exposure.touches,
            Some(Expect::Execute { portal, .. } | Expect::DescribePortal { portal, .. }) => {
                self.portals.get(portal).is_none_or(|bound| bound.exposure.touches)
            }
            Some(Expect::Bind { request, .. }) => {
                self.portals.get(request).is_none_or(|bound| bound.exposure.touches)
            }
            Some(Expect::Parse { .. } | Expect::DescribeStatement { .. } | Expect::Close) => false,
            // What runs at commit was asked for earlier.
            Some(Expect::Sync { .. }) | None => true,
        }
    }

    fn scrubbed(&self, fields: ErrorFields<'_>, exposed: bool, kind: FieldNotice) -> Vec<u8> {
        if self.view.table.is_empty() {
            return fields.encode(kind);
        }
        // A message with a context was raised inside of code, such as a trigger, that nobody can see into.
        let exposed = exposed || fields.has_context();
        let fields = fields.without_quotes();
        if exposed { fields.with_message(WITHHELD).encode(kind) } else { fields.encode(kind) }
    }
}

/// How a described result is masked, and what there is to tell of it. One that comes from a relation that was not named is
/// not what was judged: nothing in it counts as proven.
fn described(
    view: &View,
    request: u64,
    columns: &[Column],
    (exposure, outputs): (&Exposure, &Outputs),
) -> (Plan, Vec<Note>) {
    let mut notes = Vec::new();
    let total = Exposure::total();
    let strays = view.table.strays(columns, exposure);
    if strays {
        notes.push(Note::CatalogStale);
    }
    let exposure = if strays { &total } else { exposure };
    let plan = view.table.plan(&view.catalog, columns, exposure, outputs);
    if plan.masked() > 0 && request != 0 {
        notes.push(Note::Masked(request, view.table.marks(&view.catalog, columns, &plan)));
    }
    (plan, notes)
}

fn pass(frame: &[u8], out: &mut BytesMut) -> Result<(), EngineError> {
    out.extend_from_slice(frame);
    Ok(())
}

fn count(tally: &mut Tally, add: Tally) {
    tally.rows = tally.rows.saturating_add(add.rows);
    tally.bytes = tally.bytes.saturating_add(add.bytes);
    tally.masked = tally.masked.saturating_add(add.masked);
}

fn known_plan(portal: &Portal) -> Option<Arc<Plan>> {
    match &portal.plan {
        PortalPlan::Known(plan) => Some(Arc::clone(plan)),
        PortalPlan::Clear | PortalPlan::Undescribed | PortalPlan::Asked => None,
    }
}

fn take_denial(expect: &mut Expect) -> Option<Vec<u8>> {
    match expect {
        Expect::Parse { denial, .. }
        | Expect::Bind { denial, .. }
        | Expect::DescribeStatement { denial }
        | Expect::Execute { denial, .. } => denial.as_ref().map(|denial| denial.frame.clone()),
        Expect::DescribePortal { .. } | Expect::Close | Expect::Sync { .. } | Expect::Query(_) => None,
    }
}
