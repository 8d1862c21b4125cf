//! The rules of the room.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::identity::AgentMatch;
use crate::intercept::{Ingress, SecurityHooks, UnixSockets};
use crate::model::{AgentName, Protocol, UpstreamTlsMode};

const FULL: &str = r#"
state_dir   = "/var/lib/chaperone"
runtime_dir = "/run/chaperone"
policy_dir  = "/etc/chaperone/policies"
default     = "deny"

[[agent]]
name  = "reporter"
match = { unit = "reporter.service" }
identity = { issuer = "https://idp.example", audience = "chaperone", token_file = "/run/tokens/reporter.jwt", groups_claim = "roles", lifetime_max = "1h", subject = "s", ca_file = "/etc/idp.pem" }

[[agent]]
name = "loose"
processes = 64
run_by = ["4711"]
run_as = "4712"

[[resource]]
name      = "orders-db"
protocol  = "postgres"
addresses = ["db.internal:5432", "10.20.0.0/16:5432"]
labels    = { env = "prod" }
credential = { user = "svc_reporter", password_file = "/run/credentials/orders-db" }
tls        = { mode = "verify-full", ca_file = "/etc/ssl/certs/ca-certificates.crt", server_name = "db.internal" }
hold = "5s"
agent_auth = "scram"
sync_reads = true

[[approver]]
name = "alice"
user = 4242
groups = ["dba"]

[intercept]
parent = "agents.slice"
port = 15999
unix_sockets = "denied"
ingress = "open"
security_hooks = false
pin_dir = "/sys/fs/bpf/chaperone"

[jail]
keep = ["/run/postgresql"]
private_tmp = false
io_uring = true

[audit]
sync_every = "10ms"
checkpoint_every = "2s"

[sql]
workers = 3

[limits]
connections_per_agent = 12

[metrics]
listen = "127.0.0.1:9187"
"#;

const RESOURCE: &str =
    "[[resource]]\nname=\"db\"\nprotocol=\"postgres\"\naddresses=[\"h:1\"]\ncredential={user=\"u\"}\n";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("chaperone.toml"))
}

fn problems(text: &str) -> Vec<Problem> {
    match parse(text) {
        Err(ConfigError::Invalid { problems, .. }) => problems,
        other => panic!("{other:?}"),
    }
}

fn lines(text: &str) -> Vec<usize> {
    problems(text).iter().map(|problem| problem.line).collect()
}

#[test]
fn a_full_file_reaches_every_room() {
    let config = parse(FULL).unwrap();
    let [reporter, loose] = config.identity.agents.as_slice() else { panic!("two agents") };
    assert_eq!(reporter.matches, Some(AgentMatch::Unit("reporter.service".into())));
    let source = reporter.source.as_ref().unwrap();
    assert_eq!((source.groups_claim.as_str(), source.lifetime_max), ("roles", Duration::from_hours(1)));
    assert_eq!((&loose.matches, &loose.source), (&None, &None));
    let resource = &config.resources[0];
    assert_eq!(resource.addresses.len(), 2);
    assert_eq!(resource.tls.server_name.as_deref(), Some("db.internal"));
    assert!(resource.agent_scram && resource.sync_reads);
    assert_eq!(resource.hold, Duration::from_secs(5));
    assert_eq!(config.approval.approvers[0].uid, 4242);
    assert_eq!(config.intercept.port, 15999);
    let intercept = &config.intercept;
    let intercept = (intercept.unix_sockets, intercept.ingress, intercept.security_hooks);
    assert_eq!(intercept, (UnixSockets::Denied, Ingress::Open, SecurityHooks::Off));
    assert_eq!(config.audit.sync_every, Duration::from_millis(10));
    assert_eq!(config.audit.dir, Path::new("/var/lib/chaperone/audit"));
    assert_eq!(config.jail.keep, [Path::new("/run/postgresql")]);
    assert_eq!((config.jail.tmp, config.jail.uring), (jail::Tmp::Shared, jail::Uring::Allowed));
    assert!(config.jail.hidden.contains(&PathBuf::from("/run/credentials/orders-db")));
    let launchers: Vec<_> =
        config.jail.launchers.iter().map(|(agent, uids)| (agent.0.as_str(), uids)).collect();
    assert_eq!(launchers, [("loose", &[4711].into()), ("reporter", &[].into())]);
    assert_eq!(config.jail.accounts, [(AgentName("loose".to_owned()), "4712".to_owned())].into());
    let processes = |name: &str| config.jail.processes_of(&AgentName(name.to_owned()));
    assert_eq!((processes("loose"), processes("reporter")), (64, jail::PROCESSES));
    assert_eq!(config.sql.workers, 3);
    assert_eq!(config.connections_per_agent, 12);
    assert!(matches!(config.metrics, Some(MetricsAddress::Loopback(_))));
}

#[test]
fn an_empty_file_denies_everything_with_defaults() {
    let config = parse("").unwrap();
    assert_eq!(config.default, DefaultVerdict::Deny);
    assert!(config.resources.is_empty() && config.identity.agents.is_empty());
    let intercept = &config.intercept;
    let intercept = (intercept.unix_sockets, intercept.ingress, intercept.security_hooks);
    assert_eq!(intercept, (UnixSockets::DeniedUnlessRoot, Ingress::Closed, SecurityHooks::On));
    assert_eq!(config.metrics, None);
    assert_eq!(config.connections_per_agent, 1000);
    let config = parse(RESOURCE).unwrap();
    assert_eq!(config.resources[0].tls.mode, UpstreamTlsMode::VerifyFull);
    assert_eq!(config.resources[0].hold, Duration::from_secs(50));
}

#[test]
fn a_limit_of_processes_that_is_none_is_a_mistake_with_its_line() {
    for wrong in ["0", "7", "4194305"] {
        let text = format!("[[agent]]\nname = \"a\"\nprocesses = {wrong}\n");
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.contains("line 3") && error.contains("`processes` must be from 8"), "{error}");
    }
}

#[test]
fn a_jail_is_closed_unless_opened_and_its_mistakes_have_lines() {
    let config = parse("").unwrap();
    assert_eq!((config.jail.tmp, config.jail.uring), (jail::Tmp::Private, jail::Uring::Refused));
    assert!(config.jail.keep.is_empty() && config.jail.launchers.is_empty());
    let text = "[[agent]]\nname = \"a\"\nrun_by = [\"root\", \"no-such-user-here\"]\n\
                [jail]\nkeep = [\"run/x\", \"/\"]\nprivate_tmp = \"yes\"\nprivate = true\n";
    assert_eq!(lines(text), [3, 3, 5, 5, 6, 7]);
    for wrong in ["root", "0", "no-such-user-here"] {
        assert_eq!(lines(&format!("[[agent]]\nname = \"a\"\nrun_as = \"{wrong}\"\n")), [3], "{wrong}");
    }
}

#[test]
fn every_mistake_is_reported_with_its_line() {
    let text = r#"state_dir = "lib"
policy_dirs = "/etc"
default = "allow"
[[agent]]
name = "Reporter"
match = { unit = "a.service", cgroup = "b" }
identity = { issuer = "http://idp", audience = "a", token_file = "t", colour = 1 }
[[resource]]
protocol = "mysql"
addresses = ["nowhere"]
credential = { password_file = "/p" }
tls = { mode = "maybe" }
extra = 1
[[approver]]
name = "ghost"
user = "no-such-user-here"
[intercept]
port = 40000
[metrics]
listen = "0.0.0.0:1"
"#;
    let found = problems(text);
    let lines: Vec<usize> = found.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [1, 2, 3, 5, 6, 7, 7, 7, 8, 11, 13, 16, 18, 20], "{found:#?}");
    let error = parse(text).unwrap_err().to_string();
    assert!(error.starts_with("14 problems in chaperone.toml:\n  line 1: "), "{error}");
}

#[test]
fn a_syntax_error_has_a_line_and_hides_nothing_before_it() {
    let found = problems("wrong = 1\n[[agent]\nname = \"a\"\n");
    assert!(found.iter().any(|problem| problem.line == 1 && problem.message.contains("wrong")), "{found:?}");
    assert!(found.iter().any(|problem| problem.line == 2), "{found:?}");
}

#[test]
fn things_that_could_be_taken_for_each_other_are_refused() {
    let agents = "[[agent]]\nname=\"a\"\nmatch={unit=\"x.service\"}\n[[agent]]\nname=\"a\"\nmatch={unit=\"x.service\"}\n";
    assert_eq!(lines(agents), [5, 6]);
    assert_eq!(lines(&format!("{RESOURCE}{RESOURCE}")), [7, 9]);
    let approvers = "[[approver]]\nname=\"a\"\nuser=7\n[[approver]]\nname=\"b\"\nuser=\"7\"\n";
    assert_eq!(lines(approvers), [6]);
    let token = |name: &str| {
        format!(
            "[[agent]]\nname=\"{name}\"\nidentity={{issuer=\"https://i\",audience=\"a\",token_file=\"/t\"}}\n"
        )
    };
    assert_eq!(lines(&format!("{}{}", token("a"), token("b"))), [6]);
}

#[test]
fn overlapping_networks_of_two_resources_are_refused() {
    let resource = |name: &str, address: &str| {
        RESOURCE.replace("\"db\"", &format!("\"{name}\"")).replace("h:1", address)
    };
    let pair = |a: &str, b: &str| format!("{}{}", resource("a", a), resource("b", b));
    assert_eq!(lines(&pair("10.0.0.0/8:1", "10.1.2.3:1")), [9]);
    assert_eq!(lines(&pair("10.1.2.3:1", "10.0.0.0/8:1")), [9]);
    assert!(parse(&pair("10.0.0.0/8:1", "10.1.2.3:2")).is_ok());
    assert!(parse(&pair("10.0.0.0/8:1", "11.1.2.3:1")).is_ok());
}

#[test]
fn tls_and_credentials_must_fit_together() {
    let with = |tls: &str, credential: &str| {
        format!("{RESOURCE}tls={{{tls}}}\n").replace("{user=\"u\"}", &format!("{{user=\"u\"{credential}}}"))
    };
    assert_eq!(lines(&with("mode=\"require\",ca_file=\"/c\"", "")), [6]);
    assert_eq!(lines(&with("mode=\"verify-ca\"", ",client_cert_file=\"/c\"")), [5]);
    assert_eq!(lines(&with("mode=\"disable\"", ",client_cert_file=\"/c\",client_key_file=\"/k\"")), [5]);
    assert_eq!(lines(&with("mode=\"verify-full\"", ",password_file=\"relative\"")), [5]);
    assert!(parse(&with("mode=\"verify-full\"", ",client_cert_file=\"/c\",client_key_file=\"/k\"")).is_ok());
}

#[test]
fn an_opaque_resource_needs_no_credential_and_takes_none() {
    let opaque = "[[resource]]\nname=\"web\"\nprotocol=\"opaque\"\naddresses=[\"192.0.2.1:443\"]\n";
    let config = parse(&format!("{opaque}idle=\"5m\"\nlabels={{env=\"prod\"}}\n")).unwrap();
    let resource = &config.resources[0];
    assert_eq!((resource.protocol, resource.idle), (Protocol::Opaque, Duration::from_mins(5)));
    assert_eq!(resource.labels.keys().collect::<Vec<_>>(), ["env"]);
    assert_eq!(
        lines(&format!("{opaque}credential={{user=\"u\"}}\ntls={{mode=\"disable\"}}\nsync_reads=true\n")),
        [5, 6, 7]
    );
    assert_eq!(lines(&format!("{RESOURCE}idle=\"5m\"\n")), [1]);
    assert_eq!(lines("[[resource]]\nname=\"db\"\nprotocol=\"postgres\"\naddresses=[\"h:1\"]\n"), [1]);
}

#[test]
fn what_stands_for_the_unregistered_exists_only_where_it_is_observed_and_nothing_else_passes_for_it() {
    assert_eq!(parse("").unwrap().unregistered, None);
    let config = parse("default = \"observe\"").unwrap();
    assert_eq!(config.default, DefaultVerdict::Observe);
    let unregistered = config.unregistered.unwrap();
    assert_eq!(
        (unregistered.name.as_str(), unregistered.labels["registered"].as_str()),
        ("unregistered", "no")
    );
    assert_eq!(lines(&RESOURCE.replace("\"db\"", "\"unregistered\"")), [2]);
    assert_eq!(lines(&format!("{RESOURCE}labels={{registered=\"no\"}}\n")), [6]);
}

#[test]
fn values_out_of_range_or_of_the_wrong_type_are_refused() {
    for wrong in [
        "[audit]\nsync_every=\"5\"\n",
        "[audit]\nsync_every=\"2s\"\n",
        "[sql]\nworkers=0\n",
        "[limits]\nconnections_per_agent=0\n",
        "[limits]\nconnections_per_agent=70000\n",
        "[intercept]\nport=80\n",
        "[intercept]\nport=\"15432\"\n",
        "[intercept]\nunix_sockets=\"deny\"\n",
        "[intercept]\ningress=true\n",
        "[intercept]\ningress=\"shut\"\n",
        "[intercept]\nparent=\"/agents\"\n",
        "[dns]\nport=53\n",
        "[dns]\nport=15430\n",
        "[dns]\nenabled=\"yes\"\n",
        "[dns]\nupstreams=[\"dns.example\"]\n",
        "[dns]\nupstreams=[\"9.9.9.9:0\"]\n",
        "[dns]\ndenial=\"servfail\"\n",
        "[intercept]\nparent=\"a/../b\"\n",
        "[metrics]\nlisten=\"unix:relative\"\n",
        "agent=\"\"\nname=1\n",
    ] {
        assert_eq!(lines(wrong).last(), Some(&2), "{wrong}");
    }
    assert_eq!(lines("[[agent]]\nname=\"a b\"\n"), [2]);
    assert_eq!(lines(&format!("{RESOURCE}labels={{\"a=b\"=\"c\"}}\n")), [6]);
}

#[test]
fn names_are_answered_unless_switched_off_beside_the_proxys_own_port() {
    let dns_port = |text: &str| parse(text).unwrap().intercept.dns_port;
    assert_eq!(dns_port(""), Some(15_433));
    assert_eq!(dns_port("[intercept]\nport=15435\n"), Some(15_436));
    assert_eq!(dns_port("[dns]\nport=16000\n"), Some(16_000));
    assert_eq!(dns_port("[dns]\nenabled=false\n"), None);
    let upstreams = parse("[dns]\nupstreams=[\"9.9.9.9\",\"[::1]:5353\"]\n").unwrap().dns.upstreams.unwrap();
    assert_eq!(upstreams, ["9.9.9.9:53".parse().unwrap(), "[::1]:5353".parse().unwrap()]);
    assert_eq!(
        lines(&RESOURCE.replace("\"db\"", "\"dns\"")),
        [2],
        "a resource that policy takes for the resolver"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    assert!(matches!(Config::load(Path::new("/nonexistent.toml")), Err(ConfigError::Read { .. })));
}
