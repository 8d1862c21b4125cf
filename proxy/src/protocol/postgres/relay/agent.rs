//! The agent's frames: from the head of its buffer to the engine, the gate and the resource.
//!
//! A frame that waits stays at the head of the buffer; nothing behind it is looked at. INVARIANT: a frame leaves the buffer in
//! the same step in which it, or what stands for it, is queued for the resource.

use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use tokio::time::Instant;

use super::super::catalog::Catalog;
use super::super::dial::DialError;
use super::super::engine::{Ask, EngineError, Purpose, Step, View};
use super::super::wire::{Kind, next_frame};
use super::super::{mask_table, notices};
use super::{CATALOG_AGE_MAX, CATALOG_AGE_WHEN_IN_DOUBT, HELD_NOTICE_EVERY, Hold, Relay, Wait};
use crate::gate::{Admission, Permit, Refusal, RefusalKind, Request};
use crate::model::Effect;
use crate::sql::Analysis;

impl Relay<'_> {
    /// Handles the agent's next frame; false if there is none, or it waits.
    pub(super) fn pump_agent(&mut self) -> Result<bool, EngineError> {
        let buffer = &self.parts.client.buffer;
        let Some(header) = next_frame(buffer, &Kind::limits()).map_err(EngineError::Client)? else {
            return Ok(false);
        };
        let Some(frame) = buffer.get(..header.total) else { return Ok(false) };
        let step = self.engine.client(frame)?;
        self.later = false;
        match step {
            Step::Analyse(text) => match self.postgres.analyzer.cached(&text) {
                Some(analysis) => self.analysed(&analysis)?,
                None => {
                    let analyzer = self.postgres.analyzer.clone();
                    self.wait = Wait::Analysis(Box::pin(async move { analyzer.analyze(&text).await }));
                }
            },
            Step::Known(analysis) => self.analysed(&analysis)?,
            Step::Judge(ask) => self.judge(ask),
            Step::Follow { request, before } => {
                match self.released.get(&request) {
                    Some(released) => {
                        self.parts.upstream.follow(released, &before);
                        self.parts.upstream.follow(released, frame);
                    }
                    None => return Err(EngineError::ClientOrder("it used something that is gone")),
                }
                self.parts.client.buffer.advance(header.total);
            }
            Step::Constant(bytes) => {
                self.parts.upstream.constant(bytes);
                self.parts.client.buffer.advance(header.total);
            }
            Step::Ignore => self.parts.client.buffer.advance(header.total),
            Step::Later => {
                self.later = true;
                return Ok(false);
            }
            Step::Goodbye => {
                self.parts.client.buffer.clear();
                self.agent_ended = true;
                return Ok(false);
            }
        }
        Ok(matches!(self.wait, Wait::Nothing))
    }

    /// The length of the frame that waits at the head of the agent's buffer.
    fn head(&self) -> usize {
        match next_frame(&self.parts.client.buffer, &Kind::limits()) {
            Ok(Some(header)) => header.total,
            Ok(None) | Err(_) => 0,
        }
    }

    /// The head frame's statement is analysed: see to the catalog, then ask.
    pub(super) fn analysed(&mut self, analysis: &Arc<Analysis>) -> Result<(), EngineError> {
        self.renew_view();
        if let Some(age) = self.catalog_wanted(analysis) {
            self.engine.reads_catalog();
            let snapshots = self.postgres.snapshots.clone();
            let resource = self.incoming.door.session().resource.name.clone();
            let (database, dialer) = (self.parts.database.clone(), self.parts.dialer.clone());
            let read = async move { snapshots.current(&resource, &database, &dialer, age).await };
            self.wait = Wait::Catalog(Arc::clone(analysis), Box::pin(read));
            return Ok(());
        }
        self.ask(analysis)
    }

    pub(super) fn ask(&mut self, analysis: &Arc<Analysis>) -> Result<(), EngineError> {
        let head = self.head();
        let frame = self.parts.client.buffer.get(..head).unwrap_or_default();
        let ask = self.engine.ask(frame, analysis)?;
        self.judge(ask);
        Ok(())
    }

    /// The oldest catalog acceptable for this statement, if the present one is older.
    fn catalog_wanted(&self, analysis: &Analysis) -> Option<Duration> {
        if self.engine.masks_nothing() {
            return None;
        }
        let age = self.postgres.clock.instant().saturating_duration_since(self.catalog_at);
        if self.engine.doubts_catalog() {
            // Any snapshot is too old but one that is read from now on.
            return Some(Duration::from_nanos(1));
        }
        let doubt =
            self.catalog_stale || analysis.statements.iter().any(|one| self.engine.names_unknown(one));
        if doubt && age >= CATALOG_AGE_WHEN_IN_DOUBT {
            return Some(CATALOG_AGE_WHEN_IN_DOUBT);
        }
        (age >= CATALOG_AGE_MAX).then_some(CATALOG_AGE_MAX)
    }

    /// A new bundle or a new identity changes what is masked.
    fn renew_view(&mut self) {
        let standing = self.incoming.door.standing();
        if Arc::ptr_eq(&standing.0, &self.standing.0) && Arc::ptr_eq(&standing.1, &self.standing.1) {
            return;
        }
        self.standing = standing;
        let catalog = self.engine.catalog();
        // A session that began without a catalog has none: everything is then unknown, and masked, until it is read.
        self.catalog_stale |= catalog.is_empty();
        let table = Arc::new(mask_table(&self.incoming.door, &catalog));
        self.engine.set_view(View { catalog, table });
    }

    fn judge(&mut self, ask: Ask) {
        self.renew_view();
        let (leaks, purpose) = (ask.leaks, ask.purpose);
        let request = Request {
            operation: ask.operation,
            statement: ask.statement,
            values: ask.values,
            in_transaction: self.engine.in_transaction(),
            scope: Arc::clone(&self.scope),
        };
        let sets = purpose == Purpose::Run && request.operation.effects.contains(&Effect::Set);
        self.setting = sets.then(|| Arc::clone(&request.statement));
        if leaks {
            let refusal = self.incoming.door.refuse(request, RefusalKind::MaskedData);
            self.refused(&refusal);
            return;
        }
        let admission = match purpose {
            Purpose::Prepare => self.incoming.door.prepare(request),
            Purpose::Run => self.incoming.door.admit(request),
        };
        match admission {
            Admission::Permitted(permit) => self.permitted(permit),
            Admission::Refused(refusal) => self.refused(&refusal),
            Admission::Recording(pending) => self.wait = Wait::Gate(pending, None),
            Admission::Held(news, pending) => {
                self.say(&notices::held(&news));
                let hold = Hold { news, next_notice: Instant::now() + HELD_NOTICE_EVERY };
                self.wait = Wait::Gate(pending, Some(hold));
            }
        }
    }

    pub(super) fn permitted(&mut self, permit: Permit) {
        let head = self.head();
        let frame = self.parts.client.buffer.split_to(head);
        if self.engine.still_wanted() {
            let number = permit.request().number;
            let released = self.parts.upstream.release(permit, &frame);
            self.released.insert(number, released);
            self.engine.permitted(number);
            if let Some(statement) = self.setting.take() {
                self.scope = narrower(&self.scope, &statement);
            }
        }
    }

    pub(super) fn refused(&mut self, refusal: &Refusal) {
        let head = self.head();
        self.parts.client.buffer.advance(head);
        if self.engine.still_wanted() {
            let instead = self.engine.refused(&notices::error(refusal));
            self.parts.upstream.constant(instead);
        }
    }

    pub(super) fn catalogued(&mut self, result: Result<Arc<Catalog>, DialError>) {
        self.catalog_at = self.postgres.clock.instant();
        match result {
            Ok(catalog) => {
                self.catalog_stale = false;
                let table = Arc::new(mask_table(&self.incoming.door, &catalog));
                self.engine.set_view(View { catalog, table });
            }
            // What the old snapshot does not know stays masked, so going on is safe.
            Err(error) => {
                tracing::warn!(session = %self.incoming.door.session().id, %error, "catalog not refreshed");
            }
        }
    }
}

/// The scope after a statement that changes settings: a digest, so that it stays short however many there are.
fn narrower(scope: &str, statement: &str) -> Arc<str> {
    let digest =
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, format!("{scope}\0{statement}").as_bytes());
    Arc::from(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}
