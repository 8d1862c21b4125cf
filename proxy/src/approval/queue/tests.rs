use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::{Approver, Verdict};
use super::*;
use crate::model::{BoundValue, HoldTerms, Operation};

const OPENED: UnixMillis = UnixMillis(1_000_000);
const WINDOW: Duration = Duration::from_secs(60);

struct Desk {
    dir: PathBuf,
    clock: Clock,
}

impl Desk {
    fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("approval-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self { dir: std::env::temp_dir().join(name), clock: Clock::fixed(OPENED) }
    }

    fn settings(&self) -> Settings {
        let person = |name: &str, uid, groups: &[&str]| Approver {
            name: name.to_owned(),
            uid,
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        };
        let approvers = vec![
            person("ann", 1001, &["dba", "sec"]),
            person("bob", 1002, &["dba", "sec"]),
            person("cid", 1003, &["dba"]),
        ];
        Settings { dir: self.dir.clone(), approvers }
    }

    fn open(&self) -> Queue {
        Queue::open(&self.settings(), &self.clock).unwrap()
    }

    fn later(&self, by: Duration) {
        self.clock.set(self.clock.now().plus(by));
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.dir));
    }
}

fn ask(fingerprint: &str) -> Ask {
    Ask {
        fingerprint: fingerprint.to_owned(),
        agent: AgentName("reporter".into()),
        subject: Some("svc".into()),
        resource: "orders-db".into(),
        statement: "delete from orders\n".into(),
        values: vec![BoundValue { type_oid: 25, text: Some("a\u{202e}b".into()) }],
        operation: Operation::unknown(),
        terms: HoldTerms { approvers: BTreeSet::from(["dba".into()]), quorum: 1, window: WINDOW },
        requester_uids: BTreeSet::from([500]),
        policies: vec!["bulk".into()],
        step: None,
        in_transaction: false,
    }
}

fn wait(queue: &Queue, ask: Ask) -> (TicketId, Waiter) {
    match queue.submit(ask).unwrap() {
        Submission::Waiting(ticket, waiter) => (ticket.id, waiter),
        Submission::Ready(approval) => panic!("released without a vote: {approval:?}"),
    }
}

fn cast(queue: &Queue, id: &TicketId, uid: u32, vote: Vote) -> Result<Ticket, ApprovalError> {
    queue.vote(id, &queue.voter(uid).unwrap(), vote, Some("because".into()))
}

/// What `waiter` has by now, without waiting.
async fn now(waiter: &mut Waiter) -> Option<Verdict> {
    tokio::select! {
        biased;
        verdict = waiter.verdict() => Some(verdict),
        () = std::future::ready(()) => None,
    }
}

#[tokio::test]
async fn an_approved_request_is_released_with_the_names_of_who_agreed() {
    let desk = Desk::new();
    let queue = desk.open();
    let (id, mut waiter) = wait(&queue, ask("f"));
    assert!(now(&mut waiter).await.is_none());
    assert_eq!(cast(&queue, &id, 1001, Vote::Approve).unwrap().state, State::Approved);
    let Verdict::Approved(approval) = waiter.verdict().await else { panic!("not released") };
    assert_eq!((approval.ticket(), approval.fingerprint()), (&id, "f"));
    assert_eq!(approval.approvers(), ["ann"]);
    assert_eq!(queue.show(&id).unwrap().state, State::Consumed);
}

#[tokio::test]
async fn a_voter_that_waits_elsewhere_wakes_the_request() {
    let desk = Desk::new();
    let queue = desk.open();
    let (id, mut waiter) = wait(&queue, ask("f"));
    let other = queue.clone();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        cast(&other, &id, 1001, Vote::Approve).unwrap();
    });
    assert!(matches!(waiter.verdict().await, Verdict::Approved(_)));
    thread.join().unwrap();
}

#[tokio::test]
async fn one_approval_releases_exactly_one_of_two_waiters() {
    let desk = Desk::new();
    let queue = desk.open();
    let (id, mut one) = wait(&queue, ask("f"));
    let (same, mut two) = wait(&queue, ask("f"));
    assert_eq!((&id, queue.show(&id).unwrap().waiting), (&same, 2));
    cast(&queue, &id, 1001, Vote::Approve).unwrap();
    assert!(matches!(now(&mut two).await, Some(Verdict::Approved(_))));
    assert!(now(&mut one).await.is_none());
    assert_ne!(one.ticket().id, id);
    assert_eq!(queue.show(&one.ticket().id).unwrap().waiting, 1);
    cast(&queue, &one.ticket().id.clone(), 1002, Vote::Approve).unwrap();
    assert!(matches!(now(&mut one).await, Some(Verdict::Approved(_))));
    drop((one, two));
    assert!(queue.list().iter().all(|ticket| ticket.waiting == 0 && ticket.state == State::Consumed));
}

#[tokio::test]
async fn a_ticket_survives_the_client_and_a_retry_is_released_once() {
    let desk = Desk::new();
    let queue = desk.open();
    let (id, waiter) = wait(&queue, ask("f"));
    drop(waiter);
    assert_eq!(queue.show(&id).map(|ticket| (ticket.state, ticket.waiting)), Some((State::Pending, 0)));
    cast(&queue, &id, 1001, Vote::Approve).unwrap();
    assert!(matches!(queue.submit(ask("f")), Ok(Submission::Ready(approval)) if *approval.ticket() == id));
    let (other, _waiter) = wait(&queue, ask("f"));
    assert_ne!(other, id);
}

#[tokio::test]
async fn tickets_and_approvals_survive_a_restart_and_consumption_does_too() {
    let desk = Desk::new();
    let (id, waiter) = wait(&desk.open(), ask("f"));
    drop(waiter);
    let queue = desk.open();
    assert_eq!(queue.show(&id).unwrap().state, State::Pending);
    cast(&queue, &id, 1001, Vote::Approve).unwrap();
    let queue = desk.open();
    assert!(matches!(queue.submit(ask("f")), Ok(Submission::Ready(_))));
    let queue = desk.open();
    assert_eq!(queue.show(&id).unwrap().state, State::Consumed);
    assert!(matches!(queue.submit(ask("f")), Ok(Submission::Waiting(..))));
}

#[tokio::test]
async fn a_consumption_the_disk_refuses_releases_nothing() {
    let desk = Desk::new();
    let queue = desk.open();
    let (id, mut waiter) = wait(&queue, ask("f"));
    cast(&queue, &id, 1001, Vote::Approve).unwrap();
    fs::remove_dir_all(&desk.dir).unwrap();
    assert!(matches!(now(&mut waiter).await, Some(Verdict::Failed(ApprovalError::File { .. }))));
    assert_eq!(queue.show(&id).unwrap().state, State::Consumed);
    assert!(matches!(queue.submit(ask("f")), Err(ApprovalError::File { .. })));
}

#[tokio::test]
async fn an_approval_the_disk_refuses_does_not_count_and_a_denial_does() {
    let desk = Desk::new();
    let queue = desk.open();
    let (id, mut waiter) = wait(&queue, ask("f"));
    fs::remove_dir_all(&desk.dir).unwrap();
    assert!(matches!(cast(&queue, &id, 1001, Vote::Approve), Err(ApprovalError::File { .. })));
    assert_eq!(queue.show(&id).unwrap().state, State::Pending);
    assert!(now(&mut waiter).await.is_none());
    assert!(matches!(cast(&queue, &id, 1002, Vote::Deny), Err(ApprovalError::File { .. })));
    assert!(matches!(now(&mut waiter).await, Some(Verdict::Denied { by, .. }) if by == "bob"));
}

#[tokio::test]
async fn quorum_counts_distinct_people_in_every_group() {
    let desk = Desk::new();
    let queue = desk.open();
    let mut wanted = ask("f");
    wanted.terms.quorum = 2;
    wanted.terms.approvers = BTreeSet::from(["dba".into(), "sec".into()]);
    let (id, mut waiter) = wait(&queue, wanted);
    let not_qualified = cast(&queue, &id, 1003, Vote::Approve);
    assert!(
        matches!(not_qualified, Err(ApprovalError::NotQualified { by, group }) if by == "cid" && group == "sec")
    );
    assert!(matches!(cast(&queue, &id, 1003, Vote::Deny), Err(ApprovalError::NotQualified { .. })));
    assert_eq!(cast(&queue, &id, 1001, Vote::Approve).unwrap().state, State::Pending);
    assert!(matches!(cast(&queue, &id, 1001, Vote::Approve), Err(ApprovalError::AlreadyVoted(_))));
    assert!(now(&mut waiter).await.is_none());
    assert_eq!(cast(&queue, &id, 1002, Vote::Approve).unwrap().approved_by(), ["ann", "bob"]);
    assert!(matches!(now(&mut waiter).await, Some(Verdict::Approved(_))));
}

#[test]
fn nobody_votes_on_a_request_of_their_own() {
    let desk = Desk::new();
    let queue = desk.open();
    let mut own = ask("f");
    own.requester_uids = BTreeSet::from([500, 1001]);
    let (id, _waiter) = wait(&queue, own);
    for vote in [Vote::Approve, Vote::Deny] {
        assert!(matches!(cast(&queue, &id, 1001, vote), Err(ApprovalError::OwnRequest(by)) if by == "ann"));
    }
    cast(&queue, &id, 1002, Vote::Approve).unwrap();
    assert!(queue.voter(0).is_none());
}

#[test]
fn an_approval_by_somebody_behind_the_retry_does_not_release_it() {
    let desk = Desk::new();
    let queue = desk.open();
    let (id, waiter) = wait(&queue, ask("f"));
    cast(&queue, &id, 1001, Vote::Approve).unwrap();
    drop(waiter);
    let mut retry = ask("f");
    retry.requester_uids = BTreeSet::from([1001]);
    let (other, _waiter) = wait(&queue, retry);
    assert_ne!(other, id);
}

#[test]
fn an_approval_fits_nothing_but_the_request_that_was_shown() {
    let desk = Desk::new();
    let queue = desk.open();
    let (id, waiter) = wait(&queue, ask("f"));
    cast(&queue, &id, 1001, Vote::Approve).unwrap();
    drop(waiter);
    let changes: [fn(&mut Ask); 7] = [
        |ask| ask.fingerprint = "g".into(),
        |ask| ask.agent = AgentName("other".into()),
        |ask| ask.resource = "other".into(),
        |ask| ask.statement = "delete from orders ".into(),
        |ask| ask.values.clear(),
        |ask| ask.terms.quorum = 2,
        |ask| ask.in_transaction = true,
    ];
    for change in changes {
        let mut other = ask("f");
        change(&mut other);
        assert!(matches!(queue.submit(other.clone()), Ok(Submission::Waiting(..))), "{other:?}");
    }
    assert!(matches!(queue.submit(ask("f")), Ok(Submission::Ready(_))));
}

#[tokio::test]
async fn one_denial_denies_and_is_told_with_its_reason() {
    let desk = Desk::new();
    let queue = desk.open();
    let (id, mut waiter) = wait(&queue, ask("f"));
    cast(&queue, &id, 1002, Vote::Deny).unwrap();
    let Verdict::Denied { by, reason } = waiter.verdict().await else { panic!("not denied") };
    assert_eq!((by.as_str(), reason.as_deref()), ("bob", Some("because")));
    let again = cast(&queue, &id, 1001, Vote::Approve);
    assert!(matches!(again, Err(ApprovalError::Settled { state: State::Denied, .. })));
}

#[test]
fn a_denial_of_an_unused_approval_revokes_it() {
    let desk = Desk::new();
    let queue = desk.open();
    let (id, waiter) = wait(&queue, ask("f"));
    drop(waiter);
    cast(&queue, &id, 1001, Vote::Approve).unwrap();
    assert_eq!(cast(&queue, &id, 1001, Vote::Deny).unwrap().state, State::Revoked);
    assert!(matches!(desk.open().submit(ask("f")), Ok(Submission::Waiting(..))));
}

#[tokio::test]
async fn the_end_of_the_window_is_expiry_and_no_vote_counts_after_it() {
    let desk = Desk::new();
    let queue = desk.open();
    let (id, mut waiter) = wait(&queue, ask("f"));
    desk.later(WINDOW);
    let late = cast(&queue, &id, 1001, Vote::Approve);
    assert!(matches!(late, Err(ApprovalError::Settled { state: State::Expired, .. })));
    assert!(matches!(waiter.verdict().await, Verdict::Expired));
    assert!(queue.show(&id).unwrap().ballots.is_empty());
}

#[test]
fn an_approval_not_used_within_its_window_expires() {
    let desk = Desk::new();
    let queue = desk.open();
    let (id, waiter) = wait(&queue, ask("f"));
    drop(waiter);
    desk.later(WINDOW / 2);
    cast(&queue, &id, 1001, Vote::Approve).unwrap();
    desk.later(WINDOW - Duration::from_millis(1));
    assert!(queue.expire().is_empty());
    desk.later(Duration::from_millis(1));
    let expired = queue.expire();
    assert_eq!(
        expired.iter().map(|ticket| (&ticket.id, ticket.state)).collect::<Vec<_>>(),
        [(&id, State::Expired)]
    );
    assert!(matches!(queue.submit(ask("f")), Ok(Submission::Waiting(..))));
}

#[tokio::test]
async fn withdrawing_cancels_the_ticket_unless_another_request_waits_for_it() {
    let desk = Desk::new();
    let queue = desk.open();
    let (id, one) = wait(&queue, ask("f"));
    let (_, two) = wait(&queue, ask("f"));
    assert!(one.cancel().unwrap().is_none());
    assert_eq!(queue.show(&id).unwrap().state, State::Pending);
    assert_eq!(two.cancel().unwrap().map(|ticket| ticket.state), Some(State::Cancelled));
    let (id, mut waiter) = wait(&queue, ask("f"));
    queue.cancel(&id).unwrap();
    assert!(matches!(waiter.verdict().await, Verdict::Cancelled));
    assert!(matches!(queue.cancel(&id), Err(ApprovalError::Settled { .. })));
}

#[test]
fn limits_hold_per_agent_in_all_and_per_request() {
    let desk = Desk::new();
    let queue = desk.open();
    for number in 0..PENDING_PER_AGENT_MAX {
        wait(&queue, ask(&number.to_string()));
    }
    assert!(matches!(queue.submit(ask("more")), Err(ApprovalError::AgentFull(PENDING_PER_AGENT_MAX))));
    assert!(matches!(queue.submit(ask("0")), Ok(Submission::Waiting(..))), "joining needs no room");
    for number in PENDING_PER_AGENT_MAX..PENDING_MAX {
        let mut other = ask(&number.to_string());
        other.agent = AgentName(format!("agent-{}", number / PENDING_PER_AGENT_MAX));
        wait(&queue, other);
    }
    let mut other = ask("more");
    other.agent = AgentName("last".into());
    assert!(matches!(queue.submit(other), Err(ApprovalError::QueueFull(PENDING_MAX))));
    let mut long = ask("long");
    long.statement = "x".repeat(ASK_BYTES_MAX + 1);
    assert!(matches!(queue.submit(long), Err(ApprovalError::TooLong { .. })));
}

#[test]
fn closed_tickets_are_forgotten_after_a_day_and_open_ones_are_not() {
    let desk = Desk::new();
    let queue = desk.open();
    let (id, waiter) = wait(&queue, ask("f"));
    drop(waiter);
    queue.cancel(&id).unwrap();
    assert!(queue.expire().is_empty());
    assert!(queue.show(&id).is_some());
    desk.later(CLOSED_KEPT);
    let (open, _waiter) = wait(&queue, ask("g"));
    assert!(queue.expire().is_empty());
    assert!(queue.show(&id).is_none());
    assert!(queue.show(&open).is_some());
    assert_eq!(desk.open().list().len(), 1);
}

#[test]
fn a_damaged_ticket_grants_nothing_and_does_not_stop_the_daemon() {
    let desk = Desk::new();
    let queue = desk.open();
    let (id, waiter) = wait(&queue, ask("f"));
    drop(waiter);
    cast(&queue, &id, 1001, Vote::Approve).unwrap();
    let path = desk.dir.join(format!("{id}.json"));
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.get(..text.len() / 2).unwrap()).unwrap();
    fs::write(desk.dir.join("T-00000000.tmp"), "half").unwrap();
    fs::write(desk.dir.join("T-00000000.json"), &text).unwrap();
    let queue = desk.open();
    assert!(queue.list().is_empty());
    assert!(!desk.dir.join("T-00000000.tmp").exists());
    assert!(matches!(queue.submit(ask("f")), Ok(Submission::Waiting(..))));
}

#[test]
fn two_approvers_with_one_account_are_refused() {
    let desk = Desk::new();
    for (name, uid) in [("ann", 2000), ("dan", 1001)] {
        let mut settings = desk.settings();
        settings.approvers.push(Approver { name: name.into(), uid, groups: BTreeSet::new() });
        assert!(matches!(Queue::open(&settings, &desk.clock), Err(ApprovalError::Approvers { .. })));
    }
}

#[test]
fn the_observer_sees_every_change_in_order() {
    let desk = Desk::new();
    let queue = desk.open();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    queue.observe(move |ticket| sink.lock().push(ticket.state));
    let (id, waiter) = wait(&queue, ask("f"));
    drop(waiter);
    cast(&queue, &id, 1001, Vote::Approve).unwrap();
    assert!(matches!(queue.submit(ask("f")), Ok(Submission::Ready(_))));
    assert_eq!(*seen.lock(), [State::Pending, State::Approved, State::Consumed]);
}

#[test]
fn tickets_show_text_inert() {
    let desk = Desk::new();
    let queue = desk.open();
    let (id, _waiter) = wait(&queue, ask("f"));
    let ticket = queue.show(&id).unwrap();
    assert_eq!(ticket.statement, "delete from orders\\n");
    assert_eq!(ticket.values[0].text.as_deref(), Some("a\\u{202e}b"));
}

#[test]
fn inert_text_moves_no_cursor_hides_nothing_and_is_unambiguous() {
    for (text, shown) in [
        ("plain \u{e9}\u{4e2d}", "plain \u{e9}\u{4e2d}"),
        ("\u{1b}[2J", "\\u{1b}[2J"),
        ("a\u{200b}\u{2066}\u{feff}\u{85}\u{a0}\u{ad}", "a\\u{200b}\\u{2066}\\u{feff}\\u{85}\\u{a0}\\u{ad}"),
        ("\\u{1b}", "\\\\u{1b}"),
        ("\r\n\t\u{0}\u{7f}", "\\r\\n\\t\\u{0}\\u{7f}"),
        ("\u{e0041}\u{fe0f}\u{2028}", "\\u{e0041}\\u{fe0f}\\u{2028}"),
    ] {
        assert_eq!(inert(text), shown);
    }
}
