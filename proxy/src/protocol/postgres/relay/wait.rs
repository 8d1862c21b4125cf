//! What the frame at the head of the agent's buffer can wait for, and what happens when the wait ends.

use std::future::pending;
use std::sync::Arc;

use tokio::time::Instant;

use super::super::cancel::CancelCall;
use super::super::catalog::Catalog;
use super::super::dial::DialError;
use super::super::engine::View;
use super::super::{mask_table, notices};
use super::turn::Turn;
use super::{Boxed, HELD_NOTICE_EVERY, Relay};
use crate::gate::{HoldNews, Pending, Permit, Refusal, RefusalKind};
use crate::sql::Analysis;

/// What the frame at the head of the agent's buffer waits for.
pub(super) enum Wait {
    Nothing,
    Analysis(Boxed<Arc<Analysis>>),
    Catalog(Arc<Analysis>, Boxed<Result<Arc<Catalog>, DialError>>),
    Gate(Pending, Option<Hold>),
}

/// A hold in progress.
pub(super) struct Hold {
    pub(super) news: HoldNews,
    pub(super) next_notice: Instant,
}

/// What one turn of the loop brought.
pub(super) enum Event {
    Io(Turn),
    Analysed(Arc<Analysis>),
    Catalogued(Arc<Analysis>, Result<Arc<Catalog>, DialError>),
    Verdict(Result<Permit, Refusal>),
    Remind,
    Cancel(CancelCall),
    Stop(String),
    Drain,
}

impl Relay<'_> {
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

    pub(super) fn remind(&mut self) {
        let mut notice = None;
        if let Wait::Gate(_, Some(hold)) = &mut self.wait {
            hold.next_notice = Instant::now() + HELD_NOTICE_EVERY;
            notice = Some(notices::held(&hold.news));
        }
        if let Some(notice) = notice {
            self.say(&notice);
        }
    }

    /// A cancel ends a hold; otherwise it goes to the resource, but only while something runs there.
    pub(super) fn cancel(&mut self, call: CancelCall) {
        if let Wait::Gate(_, Some(hold)) = &self.wait {
            let ticket = Some(hold.news.ticket.clone());
            self.wait = Wait::Nothing;
            let refusal = Refusal { kind: RefusalKind::Cancelled, policies: Vec::new(), ticket };
            self.refused(&refusal);
            dealt_with(call);
            return;
        }
        let Some(key) = self.parts.upstream_key.clone().filter(|_| !self.engine.is_idle()) else {
            dealt_with(call);
            return;
        };
        let dialer = self.parts.dialer.clone();
        self.incoming.shutdown.spawn("postgres-cancel", async move {
            if let Err(error) = dialer.cancel(&key).await {
                tracing::warn!(%error, "cancel not delivered");
            }
            dealt_with(call);
        });
    }
}

/// A caller that has gone needs no answer.
fn dealt_with(call: CancelCall) {
    if call.send(()).is_err() {
        tracing::debug!("whoever cancelled has left");
    }
}

/// What the head frame waits for.
pub(super) async fn waited(wait: &mut Wait) -> Event {
    match wait {
        Wait::Nothing => pending().await,
        Wait::Analysis(analysis) => Event::Analysed(analysis.await),
        Wait::Catalog(analysis, catalog) => {
            let result = catalog.await;
            Event::Catalogued(Arc::clone(analysis), result)
        }
        Wait::Gate(verdict, _) => Event::Verdict(verdict.await),
    }
}

pub(super) async fn until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => pending().await,
    }
}

/// Returns when somebody ends the session.
pub(super) async fn stopped(kill: &mut tokio::sync::watch::Receiver<Option<String>>) -> String {
    match kill.wait_for(Option::is_some).await {
        Ok(why) => why.clone().unwrap_or_default(),
        // The registry is gone: so is the daemon.
        Err(_) => "the daemon is gone".to_owned(),
    }
}
