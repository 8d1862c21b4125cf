//! Writing, and reading back what was written.

use super::*;

#[tokio::test]
async fn appending_to_a_closed_log_is_refused() {
    let folder = Folder::new();
    let log = folder.open().unwrap();
    let appender = log.appender();
    log.close().await;
    assert!(matches!(appender.append(&loaded(1)), Err(AuditError::Closed)));
}

#[tokio::test]
async fn a_record_is_readable_before_it_is_synced_and_while_the_log_is_open() {
    let folder = Folder::new();
    let log = folder.open().unwrap();
    log.appender().append(&loaded(1)).unwrap();
    assert_eq!(folder.records().len(), 1);
    assert_eq!(verify(&folder.log()).unwrap().records, 1);
    log.close().await;
}

#[tokio::test]
async fn a_checkpoint_is_signed_every_thousand_records() {
    let folder = Folder::new();
    let log = folder.open().unwrap();
    for number in 0..2_500 {
        let receipt = log.appender().append(&loaded(number)).unwrap();
        if number % 100 == 99 {
            receipt.synced().await.unwrap();
        }
    }
    log.close().await;
    let report = verify(&folder.log()).unwrap();
    assert_eq!((report.records, report.signed), (2_500, 2_500));
    assert!(report.checkpoints >= 4, "{report:?}");
}

#[tokio::test]
async fn an_event_too_large_is_refused_and_harms_nothing() {
    let folder = Folder::new();
    let log = folder.open().unwrap();
    let huge = "x".repeat(chain::RECORD_BYTES_MAX);
    let event = Event::DaemonStopped { reason: huge.into() };
    assert!(matches!(log.appender().append(&event), Err(AuditError::TooLarge { .. })));
    log.appender().append(&loaded(1)).unwrap().synced().await.unwrap();
    log.close().await;
    assert_eq!(verify(&folder.log()).unwrap().records, 1);
}

#[tokio::test]
async fn appends_from_many_threads_keep_one_chain() {
    let folder = Folder::new();
    let log = folder.open().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let appender = log.appender();
            scope.spawn(move || {
                for number in 0..500 {
                    appender.append(&loaded(number)).unwrap();
                }
            });
        }
    });
    log.close().await;
    assert_eq!(verify(&folder.log()).unwrap().records, 2_000);
}

#[tokio::test]
async fn events_are_read_back_as_they_were_written() {
    let folder = Folder::new();
    let log = folder.open().unwrap();
    let agent = AgentName("reporter".into());
    let operation = Operation::unknown();
    let identity = Identity::Verified {
        issuer: "https://idp.example".into(),
        subject: "svc".into(),
        groups: BTreeSet::from(["support".into()]),
        expires_at: UnixMillis(9),
        token_sha256: "00".into(),
    };
    let outcome = Outcome::Failed { fault: Fault::Server, code: "42P01".into() };
    let events = [
        decided(&agent, "select '\u{202e}\u{0}'", &operation),
        Event::RequestEnded {
            request: RequestId { session: SessionId(7), number: 3 },
            agent: Cow::Borrowed(&agent),
            subject: None,
            outcome: Cow::Owned(outcome),
            tally: Tally { rows: 1, bytes: 2, masked: 3, ..Tally::default() },
        },
        Event::ConnectionRefused {
            account: 9,
            agent: None,
            destination: None,
            evidence: None,
            reason: "no resource".into(),
        },
        Event::SessionOpened {
            session: SessionId(7),
            principal: Cow::Owned(Principal { agent: agent.clone(), identity: identity.clone() }),
            evidence: Cow::Owned(Evidence { pid: 4, step: Some("plan".into()), ..Evidence::default() }),
            resource: "orders-db".into(),
            protocol: Protocol::Postgres,
            destination: "10.9.8.7:5432".parse().unwrap(),
            asked: None,
            client_tls: false,
            upstream_tls: UpstreamTlsMode::VerifyFull,
        },
        Event::IdentityChanged { agent: Cow::Borrowed(&agent), identity: Cow::Owned(identity) },
        Event::TicketVoted(TicketFacts {
            ticket: TicketId::from_random(5),
            fingerprint: "f".into(),
            agent: Cow::Borrowed(&agent),
            subject: None,
            resource: "orders-db".into(),
            by: Some("ann".into()),
            state: "approved".into(),
            reason: None,
        }),
    ];
    for event in &events {
        log.appender().append(event).unwrap();
    }
    log.close().await;
    let text = fs::read_to_string(folder.segment()).unwrap();
    for (line, event) in text.lines().zip(&events) {
        let record: Record = serde_json::from_str(line).unwrap();
        assert_eq!((&record.event, record.v), (event, SCHEMA));
    }
}

#[tokio::test]
async fn search_finds_by_every_filter_and_nothing_else() {
    let folder = Folder::filled(2).await;
    let log = folder.open().unwrap();
    let agent = AgentName("reporter".into());
    log.appender().append(&decided(&agent, "DROP TABLE orders", &Operation::unknown())).unwrap();
    log.close().await;
    let count =
        |filter: Filter| search(&folder.log(), &filter, &mut |_| ControlFlow::Continue(())).unwrap().found;
    let all = Filter::default;
    assert_eq!(count(all()), 3);
    assert_eq!(count(Filter { agent: Some("reporter".into()), ..all() }), 1);
    assert_eq!(count(Filter { agent: Some("report".into()), ..all() }), 0);
    assert_eq!(count(Filter { session: Some(SessionId(7)), ..all() }), 1);
    assert_eq!(count(Filter { session: Some(SessionId(8)), ..all() }), 0);
    assert_eq!(count(Filter { resource: Some("orders-db".into()), ..all() }), 1);
    assert_eq!(count(Filter { kind: Some("policy_loaded".into()), ..all() }), 2);
    assert_eq!(count(Filter { decision: Some("deny".into()), ..all() }), 1);
    assert_eq!(count(Filter { decision: Some("allow".into()), ..all() }), 0);
    assert_eq!(count(Filter { contains: Some("drop table".into()), ..all() }), 1);
    assert_eq!(count(Filter { since: Some(UnixMillis(1_000)), ..all() }), 3);
    assert_eq!(count(Filter { until: Some(UnixMillis(1_000)), ..all() }), 0);
    assert_eq!(count(Filter { sequence: Some(2), ..all() }), 1);
}

#[tokio::test]
async fn a_log_verifies_at_any_moment_while_it_is_written() {
    let folder = Folder::new();
    let (log, writing) = folder.growing(20_000);
    let mut rounds = 0;
    while !writing.is_finished() {
        verify(&folder.log()).unwrap();
        rounds += 1;
    }
    writing.join().unwrap();
    log.close().await;
    assert_eq!(verify(&folder.log()).unwrap().records, 20_000);
    assert!(rounds > 0);
}
