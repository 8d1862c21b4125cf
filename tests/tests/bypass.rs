//! Every way out, one test for each: it is stopped, the witness saw nothing, and the same without its defence gets out.
//!
//! Needs root. The attempts are made by `chaperone selftest --standalone`, in namespaces and a cgroup of its own that it
//! removes; all rows of one run are shared by the tests. `guarded` holds what must be stopped. `undefended` switches a row's
//! kernel programs off and requires that the witness then sees it: a row that cannot get out proves nothing.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::tests_outside_test_module,
    reason = "a test stops where it fails, and this file holds nothing else"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use chaperone::selftest::{Layer, Method, Report, Row, Seen, Shown, Verdict};
use chaperone_tests::daemon::{Daemon, Plan};
use chaperone_tests::{daemon, process};
use nix::sys::signal::Signal;

/// A run takes 40 s on an idle machine.
const LIMIT: Duration = Duration::from_secs(240);

fn selftest(arguments: &[&str]) -> Report {
    let mut command = Command::new(daemon::program().unwrap());
    command.args(["selftest", "--standalone", "--json"]).args(arguments);
    // A jail hides this folder: the test must not depend on where it is started.
    command.current_dir(std::env::temp_dir());
    let finished = process::run(&mut command, LIMIT).unwrap();
    serde_json::from_str(&finished.stdout)
        .unwrap_or_else(|problem| panic!("no report ({problem}): {}", finished.stderr))
}

/// The whole guard, every launch method.
fn whole() -> &'static Report {
    static WHOLE: OnceLock<Report> = OnceLock::new();
    WHOLE.get_or_init(|| selftest(&[]))
}

fn row<'r>(report: &'r Report, name: &str) -> &'r Row {
    report.rows.iter().find(|row| row.name == name).unwrap_or_else(|| panic!("`{name}` was not tried"))
}

/// The names in the catalogue have hyphens.
fn spelled(name: &str) -> String {
    name.replace('_', "-")
}

/// Whether this kernel has nothing for the row. One that every kernel has something for is a test that fell asleep.
fn is_impossible(row: &Row) -> bool {
    assert!(
        !whole().untested().contains(&row.name.as_str()),
        "`{}` was not tried: {:?}",
        row.name,
        row.control
    );
    matches!(row.control, Shown::Impossible(_))
}

fn is_held(name: &str) {
    let row = row(whole(), name);
    let _known = is_impossible(row);
    assert!(!matches!(row.control, Shown::Missed(_)), "the witness is blind for this row: {:?}", row.control);
    for (method, seen) in &row.seen {
        assert_ne!(row.verdict(*method), Verdict::Bad, "{}: {seen:?}", method.name());
    }
}

/// One run for each set of layers, over the rows that have just this set.
fn without(layers: &[Layer], method: Method) -> Arc<Report> {
    type Runs = BTreeMap<(Vec<Layer>, Method), Arc<Report>>;
    static RUNS: Mutex<Runs> = Mutex::new(BTreeMap::new());
    let mut runs = RUNS.lock().unwrap_or_else(PoisonError::into_inner);
    let run = runs.entry((layers.to_vec(), method)).or_insert_with(|| {
        let programs: Vec<&str> = layers.iter().flat_map(|layer| layer.programs()).copied().collect();
        let rows = whole().rows.iter().filter(|row| row.layers == layers);
        let names: Vec<&str> = rows.map(|row| row.name.as_str()).collect();
        let (programs, names) = (programs.join(","), names.join(","));
        Arc::new(selftest(&["--methods", method.name(), "--without", &programs, "--only", &names]))
    });
    Arc::clone(run)
}

/// Without its kernel programs it gets out, unless this machine cannot do it at all.
fn gets_out_undefended(name: &str) {
    let held = row(whole(), name);
    if is_impossible(held) {
        return;
    }
    let report = without(&held.layers, Method::Slice);
    let (_, seen) = row(&report, name).seen.first().unwrap();
    assert!(matches!(seen, Seen::Out(_)), "still stopped without {:?}: {seen:?}", held.layers);
}

/// What only the jail stops, or the security hooks with it, gets out where there is neither.
fn gets_out_unjailed(name: &str) {
    let held = row(whole(), name);
    if is_impossible(held) {
        return;
    }
    assert_ne!(held.verdict(Method::RunUid), Verdict::Known);
    let out = |row: &Row| {
        let (_, seen) = row.seen.iter().find(|(method, _)| *method == Method::Slice).unwrap();
        assert!(matches!(seen, Seen::Out(_)), "stopped without a jail: {seen:?}");
    };
    if held.layers == [Layer::Jail] {
        out(held)
    } else {
        out(row(&without(&held.layers, Method::Slice), name))
    }
}

macro_rules! rows {
    ($module:ident, $check:ident: $(fn $name:ident();)+) => {
        mod $module {
            pub(super) const NAMES: &[&str] = &[$(stringify!($name)),+];
            $(
                #[test]
                fn $name() {
                    super::$check(&super::spelled(stringify!($name)));
                }
            )+
        }
    };
}

rows! { guarded, is_held:
    fn tcp4(); fn tcp6(); fn tcp_mapped(); fn udp4_on_udp6(); fn udp_mapped(); fn fast_open4();
    fn fast_open6(); fn fast_open_later(); fn uring_connect(); fn uring_worker(); fn uring_polled();
    fn uring_socket(); fn uring_send(); fn multipath(); fn udp_lite(); fn sctp(); fn dccp(); fn smc();
    fn ping(); fn ping6(); fn ping_connected(); fn raw_icmp(); fn raw_connected(); fn raw_six();
    fn raw_header(); fn packet_frame(); fn packet_datagram(); fn xdp(); fn vsock(); fn alg(); fn families();
    fn lsrr_tcp(); fn lsrr_fast_open(); fn lsrr_udp(); fn lsrr_message(); fn srh_udp(); fn srh_tcp();
    fn srh_fast_open(); fn routing_message(); fn routing_old_message(); fn hop_options();
    fn destination_options(); fn flow_label(); fn bind_device(); fn bind_device_index(); fn unicast_if4();
    fn unicast_if6(); fn pktinfo4(); fn pktinfo6(); fn scope(); fn mark(); fn mark_message();
    fn free_bind(); fn free_bind6(); fn transparent(); fn early_connect(); fn early_send(); fn early_raw();
    fn early_connected(); fn early_uses(); fn passed_connect(); fn passed_send(); fn passed_connected();
    fn passed_connected_udp(); fn passed_raw(); fn passed_join(); fn pidfd_getfd(); fn clone_into(); fn abstract_socket();
    fn abstract_datagram();
    fn new_namespace(); fn take_port(); fn dial_proxy(); fn udp_elsewhere(); fn udp_connected_with();
    fn tcp_again(); fn udp_dns(); fn tcp_tls_dns(); fn udp4(); fn udp6(); fn udp_quic(); fn udp_ntp();
    fn udp_familyless(); fn udp_connected(); fn udp_connected6(); fn udp_broadcast(); fn udp_multicast4();
    fn udp_multicast6(); fn udp_segmented(); fn udp_corked(); fn udp_uncopied(); fn udp_timed();
    fn udp_fragmented(); fn inbound(); fn inbound_stamped(); fn tcp_loopback4(); fn tcp_loopback6();
    fn tcp_nowhere(); fn udp_loopback4(); fn udp_loopback6(); fn metadata(); fn debugger(); fn memory();
    fn kernel_programs(); fn routes(); fn orphan(); fn thread(); fn repair(); fn upper_layer(); fn igmp_join();
    fn igmp_join_group(); fn igmp_join_source(); fn igmp_join_source_group(); fn igmp_filter();
    fn mld_join(); fn mld_join_group(); fn mld_join_source_group(); fn anycast(); fn move_out();
}

rows! { undefended, gets_out_undefended:
    fn tcp4(); fn tcp6(); fn tcp_mapped(); fn udp4_on_udp6(); fn udp_mapped(); fn fast_open4();
    fn fast_open6(); fn fast_open_later(); fn uring_connect(); fn uring_worker(); fn uring_polled();
    fn uring_socket(); fn uring_send(); fn multipath(); fn udp_lite(); fn sctp(); fn dccp(); fn smc();
    fn ping(); fn ping6(); fn ping_connected(); fn raw_icmp(); fn raw_connected(); fn raw_six();
    fn raw_header(); fn lsrr_tcp(); fn lsrr_fast_open(); fn lsrr_udp(); fn lsrr_message(); fn srh_udp();
    fn srh_tcp(); fn srh_fast_open(); fn routing_message(); fn routing_old_message(); fn hop_options();
    fn destination_options(); fn flow_label(); fn bind_device(); fn bind_device_index(); fn unicast_if4();
    fn unicast_if6(); fn pktinfo4(); fn pktinfo6(); fn scope(); fn mark(); fn mark_message();
    fn free_bind6(); fn transparent(); fn early_connect(); fn early_send(); fn passed_connect(); fn passed_send();
    fn take_port(); fn udp_elsewhere(); fn udp_connected_with(); fn tcp_again(); fn udp_dns();
    fn tcp_tls_dns(); fn udp4(); fn udp6(); fn udp_quic(); fn udp_ntp(); fn udp_familyless();
    fn udp_connected(); fn udp_connected6(); fn udp_broadcast(); fn udp_multicast4(); fn udp_multicast6();
    fn udp_segmented(); fn udp_corked(); fn udp_uncopied(); fn udp_timed(); fn udp_fragmented();
    fn inbound(); fn inbound_stamped(); fn tcp_loopback4(); fn tcp_loopback6(); fn tcp_nowhere();
    fn udp_loopback4(); fn udp_loopback6(); fn metadata(); fn orphan(); fn thread(); fn repair();
    fn upper_layer(); fn igmp_join(); fn igmp_join_group(); fn igmp_join_source();
    fn igmp_join_source_group(); fn igmp_filter(); fn mld_join(); fn mld_join_group();
    fn mld_join_source_group(); fn anycast(); fn passed_connected(); fn passed_connected_udp(); fn passed_raw();
    fn passed_join(); fn abstract_socket(); fn abstract_datagram();
}

rows! { unjailed, gets_out_unjailed:
    fn packet_frame(); fn packet_datagram(); fn xdp(); fn vsock(); fn alg(); fn families(); fn early_raw();
    fn early_connected(); fn early_uses(); fn pidfd_getfd(); fn clone_into(); fn debugger(); fn memory(); fn kernel_programs();
    fn routes(); fn move_out();
}

#[test]
fn every_row_of_the_catalogue_is_a_test_and_every_defence_is_switched_off_once() {
    let spelled = |names: &[&str]| names.iter().map(|name| spelled(name)).collect::<BTreeSet<_>>();
    let tried = |fits: &dyn Fn(&Row) -> bool| {
        whole().rows.iter().filter(|row| fits(row)).map(|row| row.name.clone()).collect::<BTreeSet<_>>()
    };
    assert_eq!(spelled(guarded::NAMES), tried(&|_| true));
    let has_control = |row: &Row| !matches!(row.control, Shown::None(_));
    let jailed = |row: &Row| row.layers.contains(&Layer::Jail);
    let kernel = |row: &Row| !jailed(row) && !row.layers.is_empty();
    assert_eq!(spelled(undefended::NAMES), tried(&|row| kernel(row) && has_control(row)));
    assert_eq!(spelled(unjailed::NAMES), tried(&jailed));
}

#[test]
fn the_road_out_of_a_foreign_namespace_is_closed_by_the_guard_and_by_nothing_else() {
    let row = row(whole(), "tcp4");
    let (_, seen) = row.seen.iter().find(|(method, _)| *method == Method::Namespace).unwrap();
    assert!(matches!(seen, Seen::Refused(_)), "{seen:?}");
    let report = without(&row.layers, Method::Namespace);
    let (_, seen) = self::row(&report, "tcp4").seen.first().unwrap();
    assert!(matches!(seen, Seen::Out(_)), "{seen:?}");
}

#[test]
fn the_self_test_fails_when_something_gets_out() {
    let mut command = Command::new(daemon::program().unwrap());
    command.args(["selftest", "--standalone", "--only", "udp4", "--methods", "slice", "--without"]);
    command.arg("agent_egress,agent_sendmsg4,sentinel_send4");
    let finished = process::run(&mut command, LIMIT).unwrap();
    assert_eq!(finished.status.code(), Some(1), "{}", finished.stdout);
    assert!(finished.stdout.contains("OUT"), "{}", finished.stdout);
    let mut command = Command::new(daemon::program().unwrap());
    command.args(["selftest", "--standalone", "--only", "udp4", "--methods", "slice"]);
    assert!(process::run(&mut command, LIMIT).unwrap().status.success());
}

#[test]
fn a_known_way_out_is_counted_by_method_and_fails_the_test_where_it_is_to_be_strict() {
    let run = |more: &[&str]| {
        let mut command = Command::new(daemon::program().unwrap());
        // Root without a jail leaves its cgroup on every kernel; in a jail it does not.
        command.args(["selftest", "--standalone", "--only", "move-out"]).args(more);
        process::run(&mut command, LIMIT).unwrap()
    };
    let seen = run(&["--methods", "slice,run-uid"]);
    assert!(seen.status.success(), "{}", seen.both());
    assert!(seen.stdout.contains("1 known ways out (1 slice, 0 run-uid), 0 NOT STOPPED"), "{}", seen.stdout);
    assert_eq!(run(&["--methods", "slice,run-uid", "--strict"]).status.code(), Some(1));
    assert!(run(&["--methods", "run-uid", "--strict"]).status.success());
}

#[test]
fn the_guard_of_a_running_daemon_is_tested_and_the_result_is_in_its_record() {
    let plan = Plan { sentinel: true, ..Plan::default() }.with("[[agent]]\nname = \"fine\"");
    let mut daemon = Daemon::start(&plan).unwrap();
    let finished = process::run(&mut daemon.command(&["selftest"]), LIMIT).unwrap();
    assert!(finished.status.success(), "{}{}", finished.stdout, finished.stderr);
    assert!(finished.stdout.contains("the result is in the record"), "{}", finished.stdout);
    let found = daemon.cli(&["audit", "search", "--json"]).unwrap().success().unwrap();
    let event = found.lines().find(|line| line.contains("\"event\":\"selftest\"")).unwrap();
    assert!(event.contains("\"by\":\"uid:0\"") && event.contains("\"out\":[]"), "{event}");
    let refused = daemon.cli_as("nobody", &["selftest", "--methods", "slice"]).unwrap();
    assert!(!refused.status.success());
    // The guard stands without its daemon, and the result is in no record.
    daemon.stop(Signal::SIGTERM).unwrap();
    let few = ["selftest", "--only", "udp4", "--methods", "slice"];
    let seen = daemon.cli(&few).unwrap();
    assert!(seen.status.success() && seen.stdout.contains("not recorded"), "{}", seen.both());
    assert_eq!(daemon.cli(&[&few[..], &["--strict"]].concat()).unwrap().status.code(), Some(1));
}
