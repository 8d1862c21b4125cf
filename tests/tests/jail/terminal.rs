//! The terminal of whoever calls `run` is not the agent's: it has one of its own, which behaves like the caller's and ends with it.
//!
//! A caller here is a shell on a terminal of its own, with somebody who waits for words and types.

use super::*;

/// Runs a shell script on a new terminal of 33 rows and 77 columns. Arguments: the script, steps as JSON (what to wait for, then what to
/// type; `resize` is no keys but a new size), then the script's own arguments. Prints all that the terminal showed.
const TYPIST: &str = "
import fcntl, json, os, pty, select, signal, struct, sys, termios, time
script, steps, arguments = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]
size = lambda fd, rows, columns: fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))
pid, fd = pty.fork()
if pid == 0:
    size(0, 33, 77)
    # Whoever started the tests in the background ignores these, and a shell passes that on.
    for ignored in signal.SIGINT, signal.SIGQUIT: signal.signal(ignored, signal.SIG_DFL)
    os.execv('/bin/bash', ['bash', '-c', script, 'bash', *arguments])
shown, at, end = b'', 0, time.monotonic() + 50
def more():
    global shown
    if not select.select([fd], [], [], max(0, end - time.monotonic()))[0]: sys.exit(f'in vain: {shown}')
    try: part = os.read(fd, 65536)
    except OSError: part = b''
    shown += part
    return part
for words, keys in steps:
    while (found := shown.find(words.encode(), at)) < 0:
        if not more(): sys.exit(f'no {words!r} in {shown}')
    at = found + len(words)
    if keys == 'resize': size(fd, 40, 100)
    else: os.write(fd, keys.encode())
while more(): pass
os.waitpid(pid, 0)
sys.stdout.write(shown.decode().replace('\\r\\n', '\\n'))
";

/// What a terminal of root's shows; `"$@"` in the script is `chaperone run` up to the command.
fn shown(daemon: &Daemon, uid: u32, script: &str, steps: &[(&str, &str)]) -> String {
    let mut run = daemon.command(&["run"]);
    run.args(["--agent", AGENT]);
    if uid != 0 {
        run.args(["--uid", &uid.to_string()]);
    }
    typed(Command::new("/usr/bin/python3"), &run, script, steps)
}

fn typed(mut typist: Command, run: &Command, script: &str, steps: &[(&str, &str)]) -> String {
    typist.args(["-c", TYPIST, script, &serde_json::to_string(steps).unwrap()]);
    typist.arg(run.get_program()).args(run.get_args()).arg("--").current_dir("/");
    process::run(&mut typist, LIMIT).unwrap().success().unwrap()
}

/// The rest of the line that starts like this.
fn after<'s>(seen: &'s str, start: &str) -> &'s str {
    seen.lines().find_map(|line| line.strip_prefix(start)).unwrap_or_default()
}

/// An agent that leaves a child behind, which reads its terminal for as long as it can and then says what it got. Argument: a file.
const THIEF: &str = "
import os, signal, sys
file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY, 0o666)
told, tells = os.pipe()
if os.fork():
    os.read(told, 1)
    os._exit(7)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
os.write(tells, b'x')
got = b''
try:
    while part := os.read(0, 100): got += part
except OSError: pass
os.write(file, b'got:' + got + b'.')
";

#[test]
fn what_an_agent_leaves_behind_reads_nothing_that_is_typed_afterwards() {
    let daemon = stage("private_tmp = false");
    let folder = daemon.dir().folder("loot").unwrap();
    open_to_all(&folder);
    for uid in [0, UID] {
        let loot = folder.join(uid.to_string());
        let script = format!(
            "\"$@\" /usr/bin/python3 -c '{THIEF}' {loot}; echo \"code $?\"\n\
             for try in $(seq 100); do grep -qs got: {loot} && break; sleep 0.1; done\n\
             echo ready; read -r secret; echo \"shell got $secret\"; cat {loot}",
            THIEF = THIEF.replace('\'', "\""),
            loot = loot.display()
        );
        let seen = shown(&daemon, uid, &script, &[("ready", "password\r")]);
        assert!(seen.contains("code 7\n"), "{seen}");
        assert!(seen.contains("shell got password\n") && seen.contains("got:."), "{seen}");
    }
}

#[test]
fn an_agents_terminal_is_another_one_of_the_same_size_and_follows_it() {
    let daemon = stage("");
    let agent = "import os, signal\n\
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})\n\
        print(\"its\", os.ttyname(0), os.open(\"/dev/tty\", os.O_RDWR) > 2, os.get_terminal_size().columns, os.fstat(0).st_uid, flush=True)\n\
        print(\"waiting\", flush=True); signal.sigwait({signal.SIGWINCH})\n\
        print(\"now\", os.get_terminal_size().lines, flush=True)\n\
        print(\"said\", input(\"word? \"), flush=True)";
    let script = format!("echo \"mine $(tty)\"; \"$@\" /usr/bin/python3 -c '{agent}'");
    let seen = shown(&daemon, UID, &script, &[("waiting", "resize"), ("now 40", ""), ("word? ", "hello\r")]);
    let (mine, its) = (after(&seen, "mine "), after(&seen, "its "));
    assert!(
        mine.starts_with("/dev/pts/")
            && its.starts_with("/dev/pts/")
            && !its.starts_with(&format!("{mine} ")),
        "{seen}"
    );
    assert!(its.ends_with(&format!(" True 77 {UID}")), "{seen}");
    assert_eq!(after(&seen, "said "), "hello", "{seen}");
}

#[test]
fn keys_and_signals_reach_the_agent_and_the_callers_settings_come_back() {
    let daemon = stage("");
    let script = "before=$(stty -g); \"$@\" sh -c 'echo one; exec sleep 60'; echo \"code $?\"\n\
        [ \"$before\" = \"$(stty -g)\" ] && echo restored\n\
        \"$@\" sh -c 'trap \"echo told; exit 9\" TERM; echo two; while :; do sleep 0.1; done' & wait_for=$!\n\
        read -r word; kill -TERM $wait_for; wait $wait_for; echo \"code $?\"\n\
        (\"$@\" sh -c 'read -r x; echo \"<$x>\"') | tr a-z A-Z";
    // Ctrl-C; a word for the shell while an agent runs in the background; a word for an agent whose output is a pipe.
    let seen = shown(&daemon, UID, script, &[("one", "\u{3}"), ("two", "go\r"), ("code 9", "abc\r")]);
    assert!(seen.contains("code 130\nrestored\n"), "{seen}");
    assert!(seen.contains("told\n") && seen.contains("code 9\n"), "{seen}");
    assert!(seen.contains("<ABC>"), "{seen}");
}

#[test]
fn the_configured_account_has_the_terminal_too() {
    let plan = Plan::default().with(&format!("[[agent]]\nname = \"{AGENT}\"\nrun_as = \"backup\""));
    let daemon = Daemon::start(&plan).unwrap();
    let script = "\"$@\" /usr/bin/python3 -c 'import os; print(\"is\", os.getuid(), os.fstat(0).st_uid)'";
    let seen = shown(&daemon, 0, script, &[]);
    let backup = nix::unistd::User::from_name("backup").unwrap().unwrap().uid;
    assert_eq!(after(&seen, "is "), format!("{backup} {backup}"), "{seen}");
}

#[test]
fn an_agent_in_the_background_of_a_terminal_runs_and_is_not_stopped() {
    let daemon = stage("");
    let script = "set -m; \"$@\" sh -c 'echo there; exit 3' & wait $!; echo \"code $?\"";
    let seen = shown(&daemon, UID, script, &[]);
    assert!(seen.contains("there\n") && seen.contains("code 3\n"), "{seen}");
}

#[test]
fn a_root_agent_finds_no_terminal_of_others_and_can_make_its_own() {
    let daemon = stage("");
    let agent = "import os, sys\n\
        mine = sys.argv[1]\n\
        try: os.open(mine, os.O_RDWR); print(\"opened\")\n\
        except OSError as problem: print(\"it is\", problem.errno)\n\
        print(\"others\", [name for name in os.listdir(\"/dev/pts\") if name != \"ptmx\"])\n\
        print(\"own\", os.ttyname(0), os.isatty(0), os.ttyname(os.openpty()[1]))";
    let script = format!("\"$@\" /usr/bin/python3 -c '{agent}' $(tty)");
    let seen = shown(&daemon, 0, &script, &[]);
    assert!(seen.contains("it is 2\nothers []\nown /dev/console True /dev/pts/0\n"), "{seen}");
    // An account of its own has no right to the caller's.
    let seen = shown(&daemon, UID, &script, &[]);
    assert!(seen.contains("it is 13\n"), "{seen}");
}

#[test]
fn a_launcher_without_root_gets_its_agent_a_terminal_as_well() {
    let daemon = stage("");
    let mut run = daemon.command(&["run"]);
    run.args(["--agent", AGENT]);
    let mut typist = as_account("games").unwrap();
    typist.arg("/usr/bin/python3");
    let script = "echo \"mine $(tty)\"; \"$@\" sh -c 'echo \"its $(tty)\"; read -r word; echo \"said $word\"; exit 5'; echo \"code $?\"";
    let seen = typed(typist, &run, script, &[("its ", "hello\r")]);
    let (mine, its) = (after(&seen, "mine "), after(&seen, "its "));
    assert!(its.starts_with("/dev/pts/") && its != mine, "{seen}");
    assert!(seen.contains("said hello\ncode 5\n"), "{seen}");
}
