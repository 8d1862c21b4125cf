//! The rules of the room, each against a bundle written for it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::*;
use crate::model::*;

/// A directory that goes away with its owner.
struct Dir(PathBuf);

impl Dir {
    fn new(files: &[(&str, &str)]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("chaperone-policy-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let dir = Self(dir);
        for (name, text) in files {
            dir.write(name, text);
        }
        dir
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).unwrap();
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

const EXAMPLE: &str = r#"
@id("no-ddl-on-prod")
forbid (principal, action == Action::"run", resource in Label::"env=prod")
when { context.effects.containsAny(["drop", "truncate", "alter", "grant", "unknown"]) };

@id("bulk-writes-need-a-dba")
@approvers("dba") @quorum("1") @window("10m")
forbid (principal, action == Action::"runUnattended", resource in Label::"env=prod")
when { context.effects.containsAny(["update", "delete"]) };

@id("emails-are-masked")
@mask("keep-last:4")
forbid (principal, action == Action::"readClear", resource)
when { resource.class == "pii.email" } unless { principal in Group::"support" };

@id("reporter-reads-and-writes-orders")
permit (principal == Agent::"reporter", action, resource in Resource::"orders-db");
"#;

const PERMIT: &str = r#"@id("all") permit (principal == Agent::"reporter", action, resource);"#;

fn load(policies: &str, columns: &str) -> Result<Set, PolicyError> {
    Set::load(&Dir::new(&[("a.cedar", policies), ("columns.toml", columns)]).0)
}

fn resource(name: &str) -> Resource {
    Resource {
        name: name.into(),
        protocol: Protocol::Postgres,
        addresses: Vec::new(),
        labels: BTreeMap::from([("env".into(), "prod".into())]),
        credential: Credential { user: "u".into(), password_file: None, client_certificate: None },
        tls: UpstreamTls { mode: UpstreamTlsMode::VerifyFull, ca_file: None, server_name: None },
        hold: Duration::from_secs(50),
        agent_scram: false,
        sync_reads: false,
        idle: Duration::ZERO,
    }
}

fn agent(name: &str, groups: &[&str]) -> Principal {
    let identity = Identity::Verified {
        issuer: "https://idp.example".into(),
        subject: name.into(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        expires_at: UnixMillis(10_000_000),
        token_sha256: String::new(),
    };
    Principal { agent: AgentName(name.into()), identity }
}

fn nobody(name: &str) -> Principal {
    let identity = Identity::Unidentified { reason: Unidentified::NoToken };
    Principal { agent: AgentName(name.into()), identity }
}

fn relation(text: &str) -> RelationName {
    relation_of(text).unwrap()
}

fn operation(effects: &[Effect], relations: &[&str]) -> Operation {
    Operation {
        effects: effects.iter().copied().collect(),
        relations: relations.iter().map(|text| relation(text)).collect(),
        ..Operation::default()
    }
}

fn evidence() -> Evidence {
    Evidence {
        exe: "/usr/bin/psql".into(),
        exe_sha256: "00".into(),
        cgroup: "agents.slice".into(),
        ..Evidence::default()
    }
}

fn decide(set: &Set, principal: &Principal, operation: &Operation) -> Decision {
    set.decide(&Question {
        principal,
        resource: &resource("orders-db"),
        operation,
        evidence: &evidence(),
        now: UnixMillis(5_000),
    })
}

fn reads(set: &Set, relations: &[&str]) -> Verdict {
    decide(set, &agent("reporter", &[]), &operation(&[Effect::Select], relations)).verdict
}

fn clearance(set: &Set, principal: &Principal, class: &str) -> Clearance {
    let column = column_of("public.customers.email").unwrap();
    set.clearance(&ColumnQuestion { principal, resource: &resource("orders-db"), column: &column, class })
}

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies")
}

#[test]
fn every_shipped_policy_file_has_cases_and_they_hold() {
    let set = Set::load(&shipped()).unwrap();
    assert_eq!(set.dead_rules(None), []);
    assert_eq!(set.warnings(), []);
    let mut total = 0;
    for entry in std::fs::read_dir(shipped()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "cedar") {
            let text = std::fs::read_to_string(path.with_extension("cases"))
                .expect("a `.cases` beside each `.cedar`");
            let report = Cases::parse("cases", &text).unwrap().run(&set);
            assert_eq!(report.failures, []);
            total += report.total;
        }
    }
    assert!(total > 20);
}

#[test]
fn the_handbook_example_is_valid_and_decides_as_written() {
    let set = load(EXAMPLE, "").unwrap();
    let reporter = agent("reporter", &[]);
    let verdict = |effect| decide(&set, &reporter, &operation(&[effect], &["public.orders"])).verdict;
    assert_eq!(verdict(Effect::Select), Verdict::Allow);
    assert_eq!(verdict(Effect::Drop), Verdict::Deny);
    let terms =
        HoldTerms { approvers: BTreeSet::from(["dba".into()]), quorum: 1, window: Duration::from_mins(10) };
    assert_eq!(verdict(Effect::Update), Verdict::Hold(terms));
    assert_eq!(
        clearance(&set, &reporter, "pii.email"),
        Clearance::Masked { strategy: MaskStrategy::KeepLast(4), policies: vec!["emails-are-masked".into()] }
    );
    assert_eq!(clearance(&set, &agent("reporter", &["support"]), "pii.email"), Clearance::Clear);
    assert_eq!(
        clearance(&set, &agent("other", &["support"]), "pii.email"),
        Clearance::Masked { strategy: MaskStrategy::Redact, policies: vec![] }
    );
}

#[test]
fn every_relation_needs_a_permit_of_its_own() {
    let set = load(
        r#"@id("orders") permit (principal, action, resource == Table::"orders-db/public.orders");"#,
        "",
    )
    .unwrap();
    assert_eq!(reads(&set, &["public.orders"]), Verdict::Allow);
    assert_eq!(reads(&set, &["public.orders", "public.salaries"]), Verdict::Deny);
    assert_eq!(reads(&set, &[]), Verdict::Deny);
}

#[test]
fn a_permit_of_run_alone_is_not_enough_and_does_not_hold() {
    let set = load(r#"@id("run") permit (principal, action == Action::"run", resource);"#, "").unwrap();
    let decision = decide(&set, &agent("reporter", &[]), &operation(&[Effect::Select], &[]));
    assert_eq!(decision.verdict, Verdict::Deny);
    assert_eq!(decision.reasons.policies, Vec::<String>::new());
}

#[test]
fn hold_terms_are_the_strictest_over_every_forbid_that_fired() {
    let set = load(
        &format!(
            r#"{PERMIT}
            @id("h1") @approvers("dba") @quorum("2") @window("1h")
            forbid (principal, action == Action::"runUnattended", resource == Table::"orders-db/public.a");
            @id("h2") @approvers("security") @window("2m")
            forbid (principal, action == Action::"runUnattended", resource == Table::"orders-db/public.b");"#
        ),
        "",
    )
    .unwrap();
    let terms = HoldTerms {
        approvers: BTreeSet::from(["dba".into(), "security".into()]),
        quorum: 2,
        window: Duration::from_mins(2),
    };
    assert_eq!(reads(&set, &["public.a", "public.b"]), Verdict::Hold(terms));
}

#[test]
fn an_evaluation_error_denies_and_masks() {
    let overflow = r#"@id("overflow") forbid (principal, action in [Action::"run", Action::"runUnattended"], resource)
        when { 9223372036854775807 + context.now.hour > 1 && false };
        @id("overflow-too") permit (principal, action == Action::"readClear", resource)
        when { 9223372036854775807 + 1 > 2 };"#;
    let set = load(&format!("{PERMIT}\n{overflow}"), "").unwrap();
    let question = Question {
        principal: &agent("reporter", &[]),
        resource: &resource("orders-db"),
        operation: &operation(&[Effect::Select], &[]),
        evidence: &evidence(),
        now: UnixMillis(7_200_000),
    };
    let decision = set.decide(&question);
    assert_eq!(decision.verdict, Verdict::Deny);
    assert!(!decision.reasons.errors.is_empty());
    assert_eq!(
        clearance(&set, question.principal, "x"),
        Clearance::Masked { strategy: MaskStrategy::Redact, policies: vec![] }
    );
}

#[test]
fn an_unconstrained_permit_does_not_reach_the_unidentified() {
    let set = load(r#"@id("all") permit (principal, action, resource);"#, "").unwrap();
    assert!(!set.names_unidentified());
    let read = operation(&[Effect::Select], &[]);
    assert_eq!(decide(&set, &agent("a", &[]), &read).verdict, Verdict::Allow);
    assert_eq!(decide(&set, &nobody("a"), &read).verdict, Verdict::Deny);
    assert!(matches!(clearance(&set, &nobody("a"), "x"), Clearance::Masked { .. }));
}

#[test]
fn a_permit_that_names_the_unidentified_reaches_them() {
    for scope in [r#"principal == Unidentified::"a""#, "principal is Unidentified"] {
        let set = load(&format!(r#"@id("p") permit ({scope}, action, resource);"#), "").unwrap();
        assert!(set.names_unidentified());
        let read = operation(&[Effect::Select], &["public.orders"]);
        assert_eq!(decide(&set, &nobody("a"), &read).verdict, Verdict::Allow);
        assert_eq!(decide(&set, &agent("a", &[]), &read).verdict, Verdict::Deny);
        assert_eq!(clearance(&set, &nobody("a"), "x"), Clearance::Clear);
    }
}

#[test]
fn an_expired_identity_is_denied() {
    let set = load(PERMIT, "").unwrap();
    let decision = set.decide(&Question {
        principal: &agent("reporter", &[]),
        resource: &resource("orders-db"),
        operation: &operation(&[Effect::Select], &[]),
        evidence: &evidence(),
        now: UnixMillis(10_000_000),
    });
    assert_eq!(decision.verdict, Verdict::Deny);
}

#[test]
fn an_operation_without_effects_is_denied() {
    let set = load(PERMIT, "").unwrap();
    assert_eq!(decide(&set, &agent("reporter", &[]), &Operation::default()).verdict, Verdict::Deny);
}

#[test]
fn a_missing_fact_that_a_policy_speaks_of_denies() {
    let forbid = r#"@id("no-curl") forbid (principal, action, resource) when { false };
        @id("no-evil") forbid (principal, action in [Action::"run", Action::"runUnattended"], resource)
        when { context.evidence.exe == "/usr/bin/evil" };"#;
    let set = load(&format!("{PERMIT}\n{forbid}"), "").unwrap();
    let question = |evidence: &Evidence| {
        set.decide(&Question {
            principal: &agent("reporter", &[]),
            resource: &resource("orders-db"),
            operation: &operation(&[Effect::Select], &[]),
            evidence,
            now: UnixMillis(0),
        })
        .verdict
    };
    assert_eq!(question(&evidence()), Verdict::Allow);
    assert_eq!(question(&Evidence { exe: String::new(), ..evidence() }), Verdict::Deny);
}

#[test]
fn a_forbid_of_a_qualified_table_reaches_its_unqualified_name() {
    let forbids =
        [r#"resource == Table::"orders-db/hr.salaries""#, r#"resource in Table::"orders-db/hr.salaries""#];
    for scope in forbids {
        let set =
            load(&format!(r#"{PERMIT} @id("f") forbid (principal, action == Action::"run", {scope});"#), "")
                .unwrap();
        assert_eq!(reads(&set, &["hr.salaries"]), Verdict::Deny, "{scope}");
        assert_eq!(reads(&set, &["salaries"]), Verdict::Deny, "{scope}");
        assert_eq!(reads(&set, &["other"]), Verdict::Allow, "{scope}");
    }
    let conditions = [
        r#"resource is Table && resource has schema && resource.schema == "hr""#,
        r#"resource is Table && resource has schema && resource.schema like "h*""#,
        r#"context.tables.contains("hr.salaries")"#,
    ];
    for condition in conditions {
        let forbid = format!(
            r#"@id("f") forbid (principal, action == Action::"run", resource) when {{ {condition} }};"#
        );
        let set = load(&format!("{PERMIT} {forbid}"), "").unwrap();
        assert_eq!(reads(&set, &["salaries"]), Verdict::Deny, "{condition}");
        assert_eq!(reads(&set, &["public.other"]), Verdict::Allow, "{condition}");
    }
}

#[test]
fn a_forbid_of_an_unqualified_table_reaches_its_qualified_names() {
    let forbid =
        r#"@id("f") forbid (principal, action == Action::"run", resource == Table::"orders-db/salaries");"#;
    let set = load(&format!("{PERMIT} {forbid}"), "").unwrap();
    assert_eq!(reads(&set, &["hr.salaries"]), Verdict::Deny);
}

#[test]
fn a_permit_of_a_qualified_table_does_not_reach_its_unqualified_name() {
    let set =
        load(r#"@id("p") permit (principal, action, resource in Table::"orders-db/public.orders");"#, "")
            .unwrap();
    assert_eq!(reads(&set, &["orders"]), Verdict::Deny);
    assert_eq!(reads(&set, &["\"public.orders\""]), Verdict::Deny);
}

#[test]
fn the_strictest_mask_wins_and_a_forbid_without_one_takes_the_class_default() {
    let columns = "[[column]]\nresource=\"*\"\ncolumn=\"a.b.c\"\nclass=\"c\"\n[class.c]\nmask=\"hash\"\n";
    let forbid = |id: &str, mask: &str| {
        format!(r#"@id("{id}") {mask} forbid (principal, action == Action::"readClear", resource);"#)
    };
    let strategy = |forbids: &[String]| {
        let set = load(&format!("{PERMIT}\n{}", forbids.join("\n")), columns).unwrap();
        match clearance(&set, &agent("reporter", &[]), "c") {
            Clearance::Masked { strategy, .. } => strategy,
            Clearance::Clear => panic!("clear"),
        }
    };
    assert_eq!(strategy(&[forbid("a", "")]), MaskStrategy::Hash);
    assert_eq!(strategy(&[forbid("a", ""), forbid("b", r#"@mask("keep-last:2")"#)]), MaskStrategy::Hash);
    assert_eq!(
        strategy(&[forbid("a", r#"@mask("keep-last:4")"#), forbid("b", r#"@mask("keep-last:2")"#)]),
        MaskStrategy::KeepLast(2)
    );
    assert_eq!(
        strategy(&[forbid("a", r#"@mask("token")"#), forbid("b", r#"@mask("null")"#)]),
        MaskStrategy::Null
    );
}

#[test]
fn every_error_of_a_bundle_is_reported_with_its_place() {
    let dir = Dir::new(&[
        ("a.cedar", "@id(\"one\")\npermit (principal, action, resource) when { resource.nothing };\n"),
        (
            "b.cedar",
            "permit (principal, action, resource);\n\n@id(\"one\") @foo(\"x\")\nforbid (principal, action, resource);\n",
        ),
        ("c.cedar", "permit (principal,\n"),
        (
            "d.cedar",
            "@id(\"two\") @mask(\"redact\")\npermit (principal, action, resource) when { context.effects.contains(\"udpate\") };",
        ),
        ("columns.toml", "colum = 1\n"),
    ]);
    let error = Set::load(&dir.0).unwrap_err();
    let places: BTreeSet<(&str, usize)> =
        error.findings().iter().map(|finding| (finding.file.as_str(), finding.line)).collect();
    for place in [("a.cedar", 2), ("b.cedar", 1), ("b.cedar", 3), ("d.cedar", 1), ("columns.toml", 1)] {
        assert!(places.contains(&place), "{place:?} in {error}");
    }
    assert!(places.iter().any(|(file, _)| *file == "c.cedar"), "{error}");
    assert!(error.to_string().contains("udpate"));
}

#[test]
fn names_that_no_request_can_have_are_refused() {
    for scope in [
        r#"action == Action::"readClear", resource in Table::"orders-db/customers""#,
        r#"action, resource in Table::"orders-db.customers""#,
        r#"action, resource in Label::"prod""#,
        r#"action == Action::"readClear", resource == Column::"orders-db/customers.email""#,
    ] {
        let forbid = format!(r#"@id("f") forbid (principal, {scope});"#);
        assert_eq!(load(&forbid, "").unwrap_err().findings().len(), 1, "{scope}");
    }
}

#[test]
fn one_id_twice_is_refused_also_across_files() {
    let permit = r#"@id("same") permit (principal, action, resource);"#;
    let dir = Dir::new(&[("a.cedar", permit), ("b.cedar", permit), ("columns.toml", "")]);
    assert!(Set::load(&dir.0).unwrap_err().to_string().contains("already used in a.cedar line 1"));
}

#[test]
fn a_bundle_without_columns_or_policies_is_refused() {
    assert!(Set::load(&Dir::new(&[("a.cedar", PERMIT)]).0).is_err());
    assert!(Set::load(&Dir::new(&[("columns.toml", "")]).0).is_err());
    assert!(matches!(Set::load(Path::new("/nonexistent")), Err(PolicyError::Directory { .. })));
}

#[test]
fn a_failed_reload_keeps_the_last_good_bundle() {
    let dir = Dir::new(&[("a.cedar", PERMIT), ("columns.toml", "")]);
    let live = Live::open(&Settings { dir: dir.0.clone() }).unwrap();
    let first = live.current().hash().clone();
    dir.write("a.cedar", "permit");
    assert!(live.reload().is_err());
    assert_eq!(live.current().hash(), &first);
    dir.write("a.cedar", EXAMPLE);
    let second = live.reload().unwrap();
    assert_ne!(second, first);
    assert_eq!(live.clone().current().hash(), &second);
}

#[test]
fn dead_rules_are_found_and_live_ones_are_not() {
    let set = load(
        r#"@id("never") permit (principal, action, resource) when { false };
        @id("shadowed") permit (principal == Agent::"a", action == Action::"run", resource in Resource::"r");
        @id("wide") forbid (principal is Agent, action == Action::"run", resource);
        @id("alive") permit (principal == Agent::"a", action, resource in Label::"env=prod");
        @id("class") forbid (principal, action == Action::"readClear", resource) when { resource.class == "gone" };
        @id("stranger") permit (principal == Agent::"b", action == Action::"readClear", resource in Resource::"s");"#,
        "",
    )
    .unwrap();
    let universe = Universe {
        agents: BTreeSet::from(["a".into()]),
        resources: BTreeSet::from(["r".into()]),
        labels: BTreeSet::from(["env=prod".into()]),
    };
    let dead: Vec<(String, DeadReason)> =
        set.dead_rules(Some(&universe)).into_iter().map(|dead| (dead.id, dead.reason)).collect();
    let name = |name: &str| DeadReason::UnknownName { name: name.into() };
    assert_eq!(
        dead,
        [
            ("never".to_owned(), DeadReason::NeverTrue),
            ("shadowed".to_owned(), DeadReason::Shadowed { by: "wide".into() }),
            ("class".to_owned(), DeadReason::UnknownClass { class: "gone".into() }),
            ("stranger".to_owned(), name(r#"Agent::"b""#)),
            ("stranger".to_owned(), name(r#"Resource::"s""#)),
        ]
    );
}

#[test]
fn an_explanation_agrees_with_the_decision_and_names_near_permits() {
    let set = load(
        r#"@id("near") permit (principal == Agent::"reporter", action in [Action::"run", Action::"runUnattended"], resource)
        when { context.hasFilter };"#,
        "",
    )
    .unwrap();
    let operation = operation(&[Effect::Select], &["public.orders"]);
    let principal = agent("reporter", &[]);
    let question = Question {
        principal: &principal,
        resource: &resource("orders-db"),
        operation: &operation,
        evidence: &evidence(),
        now: UnixMillis(0),
    };
    let explanation = set.explain(&question);
    assert_eq!(explanation.decision, set.decide(&question));
    assert_eq!(explanation.asked.len(), 2);
    assert!(explanation.asked.iter().all(|asked| asked.answer == Answer::NotPermitted));
    assert_eq!(explanation.asked[0].near[0].policy, "near (a.cedar:1)");
    assert_eq!(explanation.asked[0].near[0].why, "its scope fits, its condition is false");
}

#[test]
fn the_time_in_facts_is_utc() {
    // 1 000 000 000 s is Sunday, 9 September 2001, 01:46:40.
    let set = load(
        r#"@id("p") permit (principal, action in [Action::"run", Action::"runUnattended"], resource)
        when { context.now == { hour: 1, weekday: 7, epochSeconds: 1000000000 } };"#,
        "",
    )
    .unwrap();
    assert!(set.depends_on_time());
    let mut principal = agent("a", &[]);
    if let Identity::Verified { expires_at, .. } = &mut principal.identity {
        *expires_at = UnixMillis(u64::MAX);
    }
    let decision = set.decide(&Question {
        principal: &principal,
        resource: &resource("r"),
        operation: &operation(&[Effect::Select], &[]),
        evidence: &evidence(),
        now: UnixMillis(1_000_000_000_999),
    });
    assert_eq!(decision.verdict, Verdict::Allow);
}

#[test]
fn case_files_report_every_mistake_and_every_failure() {
    let error = Cases::parse(
        "x.cases",
        "[[case]]\nname = \"a\"\nexpect = \"alow\"\neffects = [\"select\"]\n[[case]]\nnam = \"b\"\n[[case]]\nname = \"c\"\nread = \"x\"\nexpect = \"mask\"\n",
    )
    .unwrap_err();
    let lines: Vec<usize> = error.findings.iter().map(|finding| finding.line).collect();
    assert_eq!(lines, [1, 6, 7], "{error}");
    let cases = Cases::parse(
        "x.cases",
        "[defaults]\nagent=\"reporter\"\nresource=\"orders-db\"\n[[case]]\nname=\"n\"\neffects=[\"select\"]\nexpect=\"deny\"\n",
    )
    .unwrap();
    let report = cases.run(&load(PERMIT, "").unwrap());
    assert_eq!(report.failures.len(), 1);
    assert_eq!(report.failures[0].got, "allow");
    assert!(Cases::parse("x.cases", "").is_err());
}

/// A thousand policies: most about other agents and tables, some about everyone.
fn thousand() -> String {
    let others = (0..900).map(|n| {
        format!("@id(\"p{n}\") permit (principal == Agent::\"a{n}\", action in [Action::\"run\", Action::\"runUnattended\"], resource in Table::\"orders-db/public.t{n}\") when {{ context.hasFilter }};\n")
    });
    let everyone = (0..100).map(|n| {
        format!("@id(\"f{n}\") forbid (principal, action == Action::\"run\", resource in Label::\"env=prod\") when {{ context.functions.contains(\"f{n}\") }};\n")
    });
    others.chain(everyone).collect()
}

#[test]
fn a_question_evaluates_only_the_policies_whose_scope_fits() {
    let set = load(&format!("{PERMIT}\n{}", thousand()), "").unwrap();
    let principal = agent("reporter", &[]);
    let read = operation(&[Effect::Select], &["public.orders"]);
    let question = Question {
        principal: &principal,
        resource: &resource("orders-db"),
        operation: &read,
        evidence: &evidence(),
        now: UnixMillis(0),
    };
    let answers = set.answers(&question).unwrap();
    let sizes: Vec<usize> = answers.iter().map(|answer| answer.slice.rules.len()).collect();
    assert_eq!(sizes, [101, 1]);
    assert_eq!(set.decide(&question).verdict, Verdict::Allow);
}
