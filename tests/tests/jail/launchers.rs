//! Launchers without root: the daemon places them, by its own configuration, after looking at them.

use chaperone_tests::agent::dsn;
use chaperone_tests::postgres::program_path;
use chaperone_tests::shop::{Setup, Shop};

use super::*;

/// Asks the daemon to be placed, after `before`, and prints whether it was and which cgroup it is in.
fn asking(daemon: &Daemon, account: &str, agent: &str, before: &str) -> Vec<String> {
    let script = format!(
        "{PRELUDE}\nimport json, threading, time\n{before}\n\
         control = socket.socket(socket.AF_UNIX)\ncontrol.connect('{}')\n\
         control.sendall(json.dumps({{'call': 'place', 'agent': '{agent}', 'step': None}}).encode() + b'\\n')\n\
         answer = json.loads(control.recv(65536))\n\
         print(answer['answer'], answer.get('why', ''))\n\
         print('{}' in open('/proc/self/cgroup').read())\n\
         sys.stdout.flush(); os._exit(0)",
        daemon.control_socket().display(),
        daemon.parent()
    );
    let mut command = as_account(account).unwrap();
    lines(command.args(["/usr/bin/python3", "-c", &script]))
}

/// `chaperone run` as an account, with a script for the agent.
fn running(daemon: &Daemon, account: &str, script: &str) -> process::Finished {
    let mut command = as_account(account).unwrap();
    command.arg(daemon.program()).args(["run", "--config"]).arg(daemon.config());
    command.args([
        "--agent",
        AGENT,
        "--step",
        "by hand",
        "--",
        "/usr/bin/python3",
        "-c",
        &format!("{PRELUDE}\n{script}"),
    ]);
    process::run(command.current_dir("/"), LIMIT).unwrap()
}

const WHERE: &str = "
status = dict(line.split(':\\t', 1) for line in open('/proc/self/status').read().splitlines())
print(os.getuid(), status['CapEff'], status['CapBnd'], status['NoNewPrivs'], status['Seccomp'])
print([l for l in open('/proc/self/cgroup').read().splitlines() if l.startswith('0::')][0])
print(os.listdir('/run'))
say(lambda: socket.create_connection(('192.0.2.1', 80), 5))
say(lambda: call(165, b'x', b'/run', b'tmpfs', 0, 0))
say(lambda: call(321, 0, 0, 0))
";

#[test]
fn an_account_that_is_named_starts_an_agent_in_the_whole_jail() {
    let (daemon, service) = (stage(""), Service::in_run());
    let script = format!("{WHERE}\nsay(lambda: unix('{}'))", service.path.display());
    let printed = running(&daemon, "games", &script).success().unwrap();
    let seen: Vec<&str> = printed.lines().collect();
    let none = "0000000000000000";
    let games = nix::unistd::User::from_name("games").unwrap().unwrap().uid;
    assert_eq!(seen[0], format!("{games} {none} {none} 1 2"));
    assert!(seen[1].starts_with(&format!("0::/{}/{AGENT}/", daemon.parent())), "{printed}");
    assert_eq!(seen[2], "[]");
    // The proxy answers and resets, because nothing is registered there; nothing left the machine.
    assert!(["ok", "ECONNRESET"].contains(&seen[3]), "{printed}");
    // The last: this launcher could have skipped the jail, so the kernel still denies unix sockets by name.
    assert_eq!(seen[4..], ["EPERM", "EPERM", "EPERM"]);
    let record = daemon.cli(&["audit", "search", "--json"]).unwrap().success().unwrap();
    assert!(
        record.lines().any(|line| line.contains("operator_acted") && line.contains(&format!("uid:{games}"))),
        "{record}"
    );
}

#[test]
fn an_agent_that_was_started_without_root_is_identified_and_masked_like_any_other() {
    let shop = Shop::open(&Setup { agent: "run_by = [\"games\"]\n".to_owned(), ..Setup::default() }).unwrap();
    let mut command = as_account("games").unwrap();
    command.arg(shop.daemon.program()).args(["run", "--config"]).arg(shop.daemon.config());
    command.args(["--agent", AGENT, "--step", "by hand", "--"]).arg(program_path("psql"));
    command.args(["-XAtw", "-d", &dsn(&shop.server), "-c", "SELECT email FROM customers WHERE id = 7"]);
    let printed = process::run(command.current_dir("/"), LIMIT).unwrap().success().unwrap();
    assert!(printed.trim().ends_with("mple") && printed.contains('*'), "{printed}");
    let opened = shop.records("session_opened").unwrap();
    assert!(opened.iter().any(|record| record.to_string().contains("by hand")), "{opened:?}");
}

#[test]
fn an_account_that_is_not_named_starts_nothing() {
    let daemon = stage("");
    let refused = running(&daemon, "man", "print('ran')");
    assert_eq!(refused.status.code(), Some(1), "{}", refused.both());
    assert!(refused.stderr.contains("run_by") && refused.stdout.is_empty(), "{}", refused.both());
    assert_eq!(running(&daemon, "games", "print('ran')").success().unwrap(), "ran\n");
}

#[test]
fn without_the_daemon_nothing_is_started_without_root() {
    let mut daemon = stage("");
    daemon.stop(Signal::SIGTERM).unwrap();
    let refused = running(&daemon, "games", "print('ran')");
    assert_eq!(refused.status.code(), Some(3), "{}", refused.both());
    assert!(
        refused.stderr.contains("the daemon places agents") && refused.stdout.is_empty(),
        "{}",
        refused.both()
    );
    assert_eq!(inside(&daemon, UID, "print('ran')"), ["ran"], "root needs no daemon");
}

#[test]
fn a_process_with_a_network_socket_or_threads_is_not_placed() {
    let daemon = stage("");
    let refused = |before: &str| {
        let seen = asking(&daemon, "games", AGENT, before);
        assert!(seen[0].starts_with("refused") && seen[1] == "False", "{before}: {seen:?}");
        seen[0].clone()
    };
    for socket in [
        "socket.AF_INET",
        "socket.AF_INET6",
        "socket.AF_INET, socket.SOCK_DGRAM",
        "socket.AF_NETLINK, socket.SOCK_RAW",
    ] {
        assert!(refused(&format!("open_one = socket.socket({socket})")).contains("network socket"));
    }
    assert!(refused("ring = call(425, 1, ctypes.create_string_buffer(120))").contains("io_uring"));
    assert!(
        refused("threading.Thread(target=time.sleep, args=(600,), daemon=True).start()").contains("threads")
    );
    assert_eq!(asking(&daemon, "games", AGENT, "pair = socket.socketpair()"), ["placed ", "True"]);
}

#[test]
fn a_name_with_line_ends_passes_no_network_socket_off_as_a_local_one() {
    let daemon = stage("");
    let folder = temp::Dir::new("names").unwrap();
    open_to_all(folder.path());
    let before = format!(
        "open_one = socket.socket(socket.AF_INET)\n\
         number = os.readlink(f'/proc/self/fd/{{open_one.fileno()}}')[8:-1]\nos.chdir('{}')\n\
         named = socket.socket(socket.AF_UNIX)\n\
         named.bind(f'x\\n0: 00000003 00000000 00000000 0001 03 {{number}} y')",
        folder.path().display()
    );
    let seen = asking(&daemon, "games", AGENT, &before);
    assert!(seen[0].starts_with("refused") && seen[0].contains("network socket"), "{seen:?}");
    assert_eq!(seen[1], "False");
    let waiting = "one, two = socket.socketpair()\nsocket.send_fds(one, [b'x'], [0])";
    let seen = asking(&daemon, "games", AGENT, waiting);
    assert!(seen[0].starts_with("refused") && seen[1] == "False", "{seen:?}");
}

#[test]
fn an_agent_is_not_placed_again_and_another_agents_name_is_refused() {
    let plan = Plan { intercept: "unix_sockets = \"audited\"".to_owned(), ..Plan::default() }
        .with("[[agent]]\nname = \"worker\"\nrun_by = [\"games\"]")
        .with("[[agent]]\nname = \"other\"\nrun_by = [\"man\"]");
    let daemon = Daemon::start(&plan).unwrap();
    assert!(asking(&daemon, "games", "other", "")[0].contains("run_by"));
    let again = format!(
        "first = socket.socket(socket.AF_UNIX); first.connect('{}')\n\
         first.sendall(b'{{\"call\": \"place\", \"agent\": \"worker\", \"step\": null}}\\n')\n\
         print(json.loads(first.recv(65536))['answer'])",
        daemon.control_socket().display()
    );
    let seen = asking(&daemon, "games", AGENT, &again);
    assert_eq!(seen, ["placed", "refused agents have no business here", "True"]);
}

/// Refuses this process, and what it becomes, to make namespaces: as hosts do that forbid them to accounts without root.
const WITHOUT_NAMESPACES: &str = "
import struct
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, 272), (0x06, 0, 0, 0x50000 | errno.EPERM), (0x06, 0, 0, 0x7fff0000)]
code = b''.join(struct.pack('HBBI', *step) for step in steps)
text = ctypes.create_string_buffer(code)
program = struct.pack('HxxxxxxP', len(steps), ctypes.addressof(text))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0
os.execv(sys.argv[1], sys.argv[1:])
";

#[test]
fn where_mounts_cannot_be_changed_without_root_nothing_is_started() {
    let daemon = stage("");
    let run = |prelude: &str| {
        let mut command = as_account("games").unwrap();
        command.args(["/usr/bin/python3", "-c", &format!("{PRELUDE}\n{prelude}")]);
        command.arg(daemon.program()).args(["run", "--config"]).arg(daemon.config());
        command.args(["--agent", AGENT, "--", "/bin/echo", "ran"]);
        process::run(command.current_dir("/"), LIMIT).unwrap()
    };
    let refused = run(WITHOUT_NAMESPACES);
    assert_eq!((refused.status.code(), refused.stdout.as_str()), (Some(1), ""), "{}", refused.both());
    assert!(refused.stderr.contains("user namespace"), "{}", refused.both());
    assert_eq!(run("os.execv(sys.argv[1], sys.argv[1:])").success().unwrap(), "ran\n");
}

#[test]
fn root_starts_an_agent_under_the_account_that_the_configuration_names_unless_it_names_another() {
    let plan = Plan { jail: "private_tmp = false\n".to_owned(), ..Plan::default() };
    let agent = format!("[[agent]]\nname = \"{AGENT}\"\nrun_as = \"backup\"\nrun_by = [\"games\"]");
    let daemon = Daemon::start(&plan.with(&agent)).unwrap();
    let backup = nix::unistd::User::from_name("backup").unwrap().unwrap().uid.as_raw();
    let said = |more: &[&str]| {
        let mut command = daemon.command(&["run", "--agent", AGENT]);
        command.args(more).args([
            "--",
            "/usr/bin/python3",
            "-c",
            "import os; print(os.getuid(), os.getgroups())",
        ]);
        let finished = process::run(&mut command, LIMIT).unwrap();
        assert!(!finished.stderr.contains("runs as root"), "{}", finished.stderr);
        finished.success().unwrap().trim().to_owned()
    };
    assert_eq!(said(&[]), format!("{backup} []"));
    assert_eq!(said(&["--uid", &UID.to_string()]), format!("{UID} []"));
    // Whoever starts it without root starts it as itself.
    let games = nix::unistd::User::from_name("games").unwrap().unwrap().uid.as_raw();
    let own = running(&daemon, "games", "import os; print(os.getuid())").success().unwrap();
    assert_eq!(own.trim(), games.to_string());
}

#[test]
fn another_account_cannot_be_asked_for_without_root() {
    let daemon = stage("");
    let mut command = as_account("games").unwrap();
    command.arg(daemon.program()).args(["run", "--config"]).arg(daemon.config());
    command.args(["--agent", AGENT, "--uid", "man", "--", "/bin/true"]);
    let refused = process::run(command.current_dir("/"), LIMIT).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", refused.both());
    assert!(refused.stderr.contains("only root"), "{}", refused.both());
}
