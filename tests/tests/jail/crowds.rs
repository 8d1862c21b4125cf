//! What others leave in the file system for the next agent: automount points, and more sockets than can be covered.

use super::*;

/// An automount point whose program outside writes down every name that it is asked for, and finds none of them.
struct Automount {
    process: process::Process,
    folder: PathBuf,
    _dir: temp::Dir,
}

const AUTOMOUNTER: &str = "
import fcntl, select, struct
folder = sys.argv[1]
reader, writer = os.pipe()
options = b'fd=%d,pgrp=%d,minproto=5,maxproto=5,indirect' % (writer, os.getpgrp())
if libc.mount(b'chaperone-test', folder.encode(), b'autofs', 0, options):
    raise OSError(ctypes.get_errno(), 'mount')
os.close(writer)
root = os.open(folder, os.O_RDONLY)
print('ready', flush=True)
form = 'iiIIQIIIII'
while True:
    packet = os.read(reader, 400)
    fields = struct.unpack_from(form, packet)
    token, length = fields[2], fields[9]
    at = struct.calcsize(form)
    print('asked for', packet[at:at + length].decode(), flush=True)
    fcntl.ioctl(root, 0x9361, token)
";

impl Automount {
    fn open() -> Self {
        let dir = temp::Dir::new("automount").unwrap();
        let folder = dir.folder("point").unwrap();
        let log = dir.path().join("log");
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", &format!("{PRELUDE}\n{AUTOMOUNTER}")]).arg(&folder).current_dir("/");
        let process = process::Process::start("an automounter", &mut command, &log, Signal::SIGKILL).unwrap();
        let mut automount = Self { process, folder, _dir: dir };
        automount
            .process
            .wait_ready(LIMIT, || Ok(std::fs::read_to_string(&log)?.contains("ready").then_some(())))
            .unwrap();
        automount
    }

    fn was_asked_for(&self, name: &str) -> bool {
        self.process.log().unwrap().contains(&format!("asked for {name}\n"))
    }
}

impl Drop for Automount {
    fn drop(&mut self) {
        // Before the program goes, which would leave whoever looks waiting.
        nix::mount::umount2(&self.folder, nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn names_below_an_automount_point_are_asked_of_nobody() {
    let automount = Automount::open();
    let daemon = stage("private_tmp = false");
    let script = |name: &str| {
        format!("say(lambda: os.stat('{0}/{name}'))\nprint(os.listdir('{0}'))", automount.folder.display())
    };
    assert_eq!(inside(&daemon, UID, &script("secret")), ["ENOENT", "[]"]);
    assert_eq!(inside(&daemon, 0, &script("rootly")), ["ENOENT", "[]"]);
    assert_eq!(outside(UID, &script("outsider")), ["ENOENT", "[]"]);
    assert!(automount.was_asked_for("outsider"), "{}", automount.process.log_tail());
    assert!(!automount.was_asked_for("secret"), "{}", automount.process.log_tail());
    assert!(!automount.was_asked_for("rootly"), "{}", automount.process.log_tail());
}

const CROWD: &str = "
import resource, time
resource.setrlimit(resource.RLIMIT_NOFILE, (9000, 9000))
crowd = []
for number in range(8300):
    one = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    one.bind(f'{sys.argv[1]}/{number}')
    crowd.append(one)
print('ready', flush=True)
time.sleep(600)
";

#[test]
fn a_crowd_of_sockets_keeps_no_agent_from_starting() {
    let dir = temp::Dir::new("crowd").unwrap();
    let folder = dir.folder("open").unwrap();
    open_to_all(&folder);
    let service = Service::at(dir.path().join("service.sock"));
    let daemon = stage("private_tmp = false");
    let log = dir.path().join("log");
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={UID}"), &format!("--regid={UID}"), "--clear-groups"]);
    command.args(["/usr/bin/python3", "-c", &format!("{PRELUDE}\n{CROWD}")]).arg(&folder).current_dir("/");
    let mut process = process::Process::start("a crowd", &mut command, &log, Signal::SIGKILL).unwrap();
    process.wait_ready(LIMIT, || Ok(std::fs::read_to_string(&log)?.contains("ready").then_some(()))).unwrap();
    let script = format!(
        "say(lambda: unix('{}'))\nsay(lambda: os.stat('{}/7'))",
        service.path.display(),
        folder.display()
    );
    assert_eq!(inside(&daemon, UID, &script), ["ECONNREFUSED", "EACCES"]);
    assert_eq!(outside(UID, &script), ["ok", "ok"]);
}
