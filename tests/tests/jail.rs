//! The jail of `chaperone run`: what an agent can no longer see, call or reach, each time beside a process that can.
//!
//! Real daemon, real kernel, agents in their own cgroup. Needs root.

#![expect(clippy::tests_outside_test_module, reason = "the whole file is a test program")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test they serve")]

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use chaperone_tests::agent::{Agent, UID};
use chaperone_tests::daemon::{Daemon, Plan, as_account};
use chaperone_tests::{process, temp};
use nix::sys::signal::Signal;

#[path = "jail/automounts.rs"]
mod automounts;
#[path = "jail/bomb.rs"]
mod bomb;
#[path = "jail/crowds.rs"]
mod crowds;
#[path = "jail/launchers.rs"]
mod launchers;
#[path = "jail/others.rs"]
mod others;
#[path = "jail/terminal.rs"]
mod terminal;
#[path = "jail/undoing.rs"]
mod undoing;

const LIMIT: Duration = Duration::from_secs(60);
const AGENT: &str = "worker";
/// What every script may use. `say` prints what came of something: `ok`, or the name of the error.
const PRELUDE: &str = "
import ctypes, errno, os, signal, socket, stat, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    answer = libc.syscall(number, *args)
    if answer < 0:
        raise OSError(ctypes.get_errno(), 'refused')
    return answer
def say(what):
    try:
        what(); print('ok')
    except OSError as problem:
        print(errno.errorcode.get(problem.errno, problem.errno))
def unix(path):
    socket.socket(socket.AF_UNIX).connect(path)
";

/// A daemon whose agents are jailed as `jail` says, and by default otherwise.
fn stage(jail: &str) -> Daemon {
    let plan = Plan { jail: format!("{jail}\n"), ..Plan::default() };
    Daemon::start(&plan.with(&format!("[[agent]]\nname = \"{AGENT}\"\nrun_by = [\"games\"]"))).unwrap()
}

/// What a script prints in the jail, line by line. Root's agents keep uid 0.
fn inside(daemon: &Daemon, uid: u32, script: &str) -> Vec<String> {
    let mut command = daemon.command(&["run"]);
    command.args(["--agent", AGENT]);
    if uid != 0 {
        command.args(["--uid", &uid.to_string()]);
    }
    command.args(["--", "/usr/bin/python3", "-c", &format!("{PRELUDE}\n{script}")]);
    lines(&mut command)
}

/// What the same script prints outside, under the same account.
fn outside(uid: u32, script: &str) -> Vec<String> {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".to_owned()]);
    command.args(["/usr/bin/python3", "-c", &format!("{PRELUDE}\n{script}")]);
    lines(&mut command)
}

fn lines(command: &mut Command) -> Vec<String> {
    let printed = process::run(command.current_dir("/"), LIMIT).unwrap().success().unwrap();
    printed.lines().map(str::to_owned).collect()
}

/// A socket of some host daemon, open to everybody; its file goes with it.
struct Service {
    path: PathBuf,
    _listener: UnixListener,
}

impl Service {
    fn at(path: PathBuf) -> Self {
        let listener = UnixListener::bind(&path).unwrap();
        open_to_all(&path);
        Self { path, _listener: listener }
    }

    fn in_run() -> Self {
        Self::at(format!("/run/chaperone-test-{}.sock", temp::unique()).into())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).unwrap();
    }
}

fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
}

#[test]
fn host_sockets_in_run_are_not_there() {
    let (daemon, service) = (stage(""), Service::in_run());
    let script = format!("say(lambda: unix('{0}'))\nsay(lambda: unix('/var{0}'))", service.path.display());
    assert_eq!(inside(&daemon, UID, &script), ["ENOENT", "ENOENT"]);
    assert_eq!(inside(&daemon, 0, &script), ["ENOENT", "ENOENT"]);
    assert_eq!(outside(UID, &script), ["ok", "ok"]);
}

#[test]
fn a_host_socket_anywhere_else_is_covered_whatever_path_leads_to_it() {
    let daemon = stage("private_tmp = false");
    let service = Service::at(daemon.dir().path().join("service.sock"));
    let link = daemon.dir().path().join("link");
    std::os::unix::fs::symlink(daemon.dir().path(), &link).unwrap();
    let script = format!(
        "say(lambda: unix('{0}'))\nsay(lambda: unix('{1}/service.sock'))\nos.chdir('{2}')\nsay(lambda: unix('service.sock'))\n\
         say(lambda: unix('/proc/self/root{0}'))",
        service.path.display(),
        link.display(),
        daemon.dir().path().display()
    );
    assert_eq!(inside(&daemon, UID, &script), ["ECONNREFUSED"; 4]);
    assert_eq!(inside(&daemon, 0, &script), ["ECONNREFUSED"; 4]);
    assert_eq!(outside(UID, &script), ["ok"; 4]);
}

#[test]
fn what_the_configuration_keeps_stays() {
    let dir = temp::Dir::new("kept").unwrap();
    let (kept, left) = (Service::in_run(), Service::in_run());
    let elsewhere = Service::at(dir.path().join("service.sock"));
    let daemon = stage(&format!("keep = [\"{}\", \"{}\"]", kept.path.display(), dir.path().display()));
    let script = format!(
        "say(lambda: unix('{}'))\nsay(lambda: unix('{}'))\nsay(lambda: unix('{}'))\nprint(len(os.listdir('/run')))",
        kept.path.display(),
        left.path.display(),
        elsewhere.path.display()
    );
    assert_eq!(inside(&daemon, UID, &script), ["ok", "ENOENT", "ok", "1"]);
}

#[test]
fn what_is_kept_deep_down_can_be_reached_whatever_the_launchers_mask() {
    let folder = format!("/run/chaperone-test-{}", temp::unique());
    let deep = format!("{folder}/one/two");
    std::fs::create_dir_all(&deep).unwrap();
    let service = Service::at(format!("{deep}/service.sock").into());
    let daemon = stage(&format!("keep = [\"/var{}\"]", service.path.display()));
    let mut command = Command::new("sh");
    command.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(daemon.program()).args(["run", "--config"]);
    command.arg(daemon.config()).args(["--agent", AGENT, "--uid", "65534", "--", "/usr/bin/python3", "-c"]);
    command.arg(format!("{PRELUDE}\nsay(lambda: unix('{}'))", service.path.display()));
    let seen = lines(&mut command);
    drop(service);
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(seen, ["ok"]);
}

#[test]
fn a_kept_path_that_became_a_link_keeps_nothing() {
    let (dir, service) = (temp::Dir::new("link").unwrap(), Service::in_run());
    let (file, folder) = (dir.path().join("harmless.sock"), dir.path().join("folder"));
    std::os::unix::fs::symlink(&service.path, &file).unwrap();
    std::os::unix::fs::symlink("/run", &folder).unwrap();
    for kept in [file, folder.join(service.path.file_name().unwrap())] {
        let daemon = stage(&format!("keep = [\"{}\"]", kept.display()));
        let script = format!(
            "{PRELUDE}\nsay(lambda: unix('{}'))\nsay(lambda: unix('{}'))",
            service.path.display(),
            kept.display()
        );
        let mut command = Agent::new(&daemon, AGENT).command("/usr/bin/python3");
        let seen = process::run(command.args(["-c", &script]).current_dir("/"), LIMIT).unwrap();
        assert_eq!((seen.status.code(), seen.stdout.as_str()), (Some(1), ""), "{}", seen.both());
        assert!(seen.stderr.contains("a link on the way"), "{}", seen.both());
    }
}

#[test]
fn memory_that_others_share_is_not_the_agents() {
    let daemon = stage("");
    let name = format!("/dev/shm/chaperone-test-{}", temp::unique());
    std::fs::write(&name, "x").unwrap();
    let key = std::process::id();
    let segment = format!("identity = call(29, {key}, 64, 0o1666)");
    assert!(outside(0, &segment).is_empty());
    let script = format!("say(lambda: open('{name}'))\nsay(lambda: call(29, {key}, 64, 0o666))");
    let (seen, free) = (inside(&daemon, UID, &script), outside(UID, &script));
    std::fs::remove_file(&name).unwrap();
    assert!(outside(0, &format!("call(31, call(29, {key}, 64, 0o666), 0, 0)")).is_empty());
    assert_eq!((seen, free), (vec!["ENOENT".to_owned(); 2], vec!["ok".to_owned(); 2]));
}

#[test]
fn tmp_is_the_agents_own_unless_it_is_shared() {
    let dir = temp::Dir::new("note").unwrap();
    let note = dir.write("note", "x", 0o644).unwrap();
    let name = format!("/tmp/chaperone-test-{}", temp::unique());
    let script = format!("say(lambda: open('{}'))\nsay(lambda: open('{name}', 'w'))", note.display());
    let private = inside(&stage("private_tmp = true"), UID, &script);
    let leaked = std::fs::remove_file(&name).is_ok();
    let shared = inside(&stage("private_tmp = false"), UID, &script);
    let left = std::fs::remove_file(&name).is_ok();
    assert_eq!((private, leaked), (vec!["ENOENT".to_owned(), "ok".to_owned()], false));
    assert_eq!((shared, left), (vec!["ok".to_owned(); 2], true));
}

#[test]
fn the_working_directory_leads_to_nothing_that_is_covered() {
    let (daemon, service) = (stage(""), Service::in_run());
    let name = service.path.file_name().unwrap().to_str().unwrap();
    let text = format!("{PRELUDE}\nsay(lambda: unix('{name}'))\nsay(lambda: unix('../run/{name}'))");
    let script = ["/usr/bin/python3", "-c", &text];
    let mut jailed = Agent::new(&daemon, AGENT).command(script[0]);
    let printed = process::run(jailed.args(&script[1..]).current_dir("/run"), LIMIT).unwrap();
    assert_eq!(printed.success().unwrap(), "ENOENT\nENOENT\n");
    let mut free = Command::new(script[0]);
    let printed = process::run(free.args(&script[1..]).current_dir("/run"), LIMIT).unwrap();
    assert_eq!(printed.success().unwrap(), "ok\nok\n");
    let hidden =
        process::run(Agent::new(&daemon, AGENT).command("/bin/true").current_dir(daemon.dir().path()), LIMIT)
            .unwrap();
    assert_eq!(hidden.status.code(), Some(1));
    assert!(hidden.stderr.contains("working directory"), "{}", hidden.both());
}

#[test]
fn what_configures_the_kernel_is_read_only_even_for_root() {
    let daemon = stage("");
    let tree = chaperone::intercept::Tree::find().unwrap();
    let script = format!(
        "for file in ['/proc/sys/kernel/core_pattern', '/proc/sys/vm/drop_caches', '/sys/kernel/profiling', '{0}/cgroup.procs']:\n\
         \x20   say(lambda: os.close(os.open(file, os.O_WRONLY)))\n\
         say(lambda: os.rmdir(os.mkdir('{0}/chaperone-test-jail') or '{0}/chaperone-test-jail'))",
        tree.mount().display()
    );
    assert_eq!(inside(&daemon, 0, &script), ["EROFS"; 5]);
    assert_eq!(outside(0, &script), ["ok"; 5]);
}

#[test]
fn a_root_agent_cannot_leave_its_cgroup() {
    let daemon = stage("");
    let tree = chaperone::intercept::Tree::find().unwrap();
    let script = format!(
        "say(lambda: open('{}/cgroup.procs', 'w').write(str(os.getpid())))\n\
         print([l for l in open('/proc/self/cgroup').read().splitlines() if l.startswith('0::')][0])",
        tree.mount().display()
    );
    let seen = inside(&daemon, 0, &script);
    assert_eq!(seen[0], "EROFS");
    assert!(seen[1].contains(daemon.parent()), "{seen:?}");
    assert_eq!(outside(0, &script), ["ok", "0::/"]);
}

#[test]
fn no_mount_can_be_taken_away_or_made_in_any_namespace() {
    let daemon = stage("");
    let script = "
CLONE = {'user': 0x10000000, 'mount': 0x20000, 'net': 0x40000000}
def apart(flags):
    child = os.fork()
    if child == 0:
        os._exit(0 if libc.unshare(flags) == 0 else ctypes.get_errno())
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code: raise OSError(code, 'refused')
def cloned():
    if call(56, CLONE['user'] | 17, 0, 0, 0, 0) == 0:
        os._exit(0)
    os.wait()
say(lambda: apart(CLONE['user']))
say(lambda: apart(CLONE['user'] | CLONE['mount']))
say(cloned)
say(lambda: call(166, b'/run', 0))
say(lambda: call(428, -100, b'/run', 1))
say(lambda: call(467, -100, b'/run', 1, 0, 0))
";
    assert_eq!(inside(&daemon, UID, script), ["EPERM"; 6]);
    assert_eq!(inside(&daemon, 0, script), ["EPERM"; 6]);
    let free = outside(UID, script);
    assert_eq!(free[..3], ["ok"; 3], "{free:?}");
}

#[test]
fn the_daemons_files_are_hidden_even_from_root() {
    let secret = temp::Dir::new("secret").unwrap();
    let password = secret.write("password", "sesame", 0o600).unwrap();
    let plan = Plan { jail: "private_tmp = false".to_owned(), ..Plan::default() };
    let plan = plan.with(&format!("[[agent]]\nname = \"{AGENT}\"")).with(&format!(
        "[[resource]]\nname = \"db\"\nprotocol = \"postgres\"\naddresses = [\"192.0.2.1:5432\"]\n\
         credential = {{ user = \"u\", password_file = \"{}\" }}",
        password.display()
    ));
    let daemon = Daemon::start(&plan).unwrap();
    let root = daemon.dir().path().display().to_string();
    let script = format!(
        "for folder in ['state', 'run', 'policies', 'bpf']:\n\
         \x20   print(len(os.listdir('{root}/' + folder)) > 0)\n\
         for file in ['{root}/chaperone.toml', '{}']:\n\
         \x20   print(len(open(file).read()) > 0)\n\
         say(lambda: unix('{root}/run/control.sock'))\n\
         say(lambda: open('{root}/policies/own.cedar', 'w'))",
        password.display()
    );
    let hidden = ["False", "False", "False", "False", "False", "False", "ENOENT", "EROFS"];
    assert_eq!(inside(&daemon, 0, &script), hidden);
    let open = ["True", "True", "True", "True", "True", "True", "ok", "ok"];
    assert_eq!(outside(0, &script), open);
}

#[test]
fn a_root_agent_has_no_disks_but_what_programs_need() {
    let script = "
import pty
nodes = [os.path.join(folder, name) for folder, _, names in os.walk('/dev') for name in names]
print(any(stat.S_ISBLK(os.lstat(node).st_mode) for node in nodes), os.path.exists('/dev/kmsg'))
for name in ['null', 'zero', 'urandom', 'ptmx', 'fd', 'shm']:
    say(lambda: os.close(os.open('/dev/' + name, os.O_RDONLY)))
say(lambda: pty.openpty())
say(lambda: os.write(os.open('/dev/null', os.O_WRONLY), b'x'))
say(lambda: call(133, b'/tmp/disk', 0o60600, 0x100))
";
    let works = ["ok"; 8];
    let seen = inside(&stage(""), 0, script);
    assert_eq!(
        (seen[0].as_str(), &seen[1..9], seen[9].as_str()),
        ("False False", &works.map(str::to_owned)[..], "EPERM")
    );
    let kept = inside(&stage("keep = [\"/dev/kmsg\"]"), 0, script);
    assert_eq!(kept[0], "False True");
    let free = outside(0, &script.replace("/tmp/disk", "/dev/shm/../null"));
    assert_eq!((free[0].as_str(), free[9].as_str()), ("True True", "EEXIST"));
}

#[test]
fn io_uring_works_only_where_the_configuration_says_so() {
    let script = "say(lambda: call(425, 1, ctypes.create_string_buffer(120)))";
    assert_eq!(inside(&stage(""), UID, script), ["EPERM"]);
    assert_eq!(inside(&stage("io_uring = true"), UID, script), ["ok"]);
    assert_eq!(outside(UID, script), ["ok"]);
}

#[test]
fn nobody_types_into_a_terminal_for_its_owner() {
    let script = "
import fcntl, pty, termios
master, slave = pty.openpty()
os.setsid()
fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
say(lambda: fcntl.ioctl(slave, termios.TIOCSTI, b'x'))
say(lambda: fcntl.ioctl(slave, termios.TIOCSTI | 1 << 32, b'x') if False else call(16, slave, ctypes.c_ulong(1 << 32 | termios.TIOCSTI), b'x'))
say(lambda: fcntl.ioctl(slave, 0x541C, b'\\3'))
say(lambda: fcntl.ioctl(slave, termios.TIOCGWINSZ, bytes(8)))
";
    let daemon = stage("");
    let child = format!("if os.fork(): os.wait(); os._exit(0)\n{script}");
    assert_eq!(inside(&daemon, UID, &child), ["EPERM", "EPERM", "EPERM", "ok"]);
    let free = outside(UID, &child);
    // The host may refuse it as well, in other words.
    assert!(free[0] == "ok" || free[0] == "EIO", "{free:?}");
    assert_eq!(free[2..], ["ENOTTY", "ok"]);
}

#[test]
fn a_folder_or_a_network_socket_is_no_standard_stream() {
    let daemon = stage("");
    let run = |input: Stdio| {
        let mut command = Agent::new(&daemon, AGENT).command("/bin/true");
        command.stdin(input).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap()
    };
    let folder = run(std::fs::File::open("/").unwrap().into());
    assert_eq!(folder.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&folder.stderr).contains("is a folder"), "{folder:?}");
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let network = run(std::os::fd::OwnedFd::from(socket).into());
    assert!(String::from_utf8_lossy(&network.stderr).contains("is a network socket"), "{network:?}");
    assert!(run(Stdio::null()).status.success());
}

#[test]
fn ordinary_work_goes_on() {
    let daemon = stage("");
    let script = "
import subprocess, tempfile
one, two = tempfile.mkdtemp(), tempfile.mkdtemp()
open(one + '/file', 'w').write('x')
say(lambda: os.rename(one + '/file', two + '/file'))
say(lambda: os.link(two + '/file', one + '/again'))
print(subprocess.run(['sh', '-c', 'sleep 100 & kill $!; wait; echo killed'], capture_output=True, text=True).stdout.strip())
server = socket.socket(socket.AF_UNIX); server.bind('/tmp/own'); server.listen()
say(lambda: unix('/tmp/own'))
abstract = socket.socket(socket.AF_UNIX); abstract.bind('\\0own'); abstract.listen()
say(lambda: unix('\\0own'))
say(lambda: open('/run/mine', 'w'))
say(lambda: open('/proc/self/oom_score_adj', 'w').write('500'))
";
    assert_eq!(inside(&daemon, UID, script), ["ok", "ok", "killed", "ok", "ok", "EACCES", "ok"]);
    assert_eq!(inside(&daemon, 0, script), ["ok", "ok", "killed", "ok", "ok", "ok", "ok"]);
}
