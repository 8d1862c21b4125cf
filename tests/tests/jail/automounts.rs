//! Automounters: a name that an agent looks at must not be told to a process outside.

use super::*;

/// In a mount namespace of its own: mounts an automounter, runs a command, and says which names it was told meanwhile. Below the
/// automounter there is one folder that is mounted already.
const AUTOMOUNTER: &str = r"
import ctypes, fcntl, os, select, struct, subprocess, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
def do(answer):
    if answer: raise OSError(ctypes.get_errno(), 'refused')
do(libc.unshare(0x20000))
do(libc.mount(None, b'/', None, 0x44000, None))
place, command = sys.argv[1].encode(), sys.argv[2:]
os.setpgrp(); heard, told = os.pipe()
options = b'fd=%d,pgrp=%d,minproto=5,maxproto=5,indirect' % (told, os.getpgrp())
do(libc.mount(b'test', place, b'autofs', 0, options))
os.close(told); root = os.open(place, os.O_RDONLY)
# Its own process group may make folders.
os.mkdir(place + b'/here'); do(libc.mount(b'test', place + b'/here', b'tmpfs', 0, None))
open(place + b'/here/file', 'w').write('kept')
child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=os.setpgrp)
names = []
while child.poll() is None:
    if select.select([heard], [], [], 0.05)[0]:
        packet = os.read(heard, 400)
        fields = struct.unpack_from('iiIIQIIIII', packet)
        names.append(packet[struct.calcsize('iiIIQIIIII'):][:fields[9]].decode())
        fcntl.ioctl(root, 0x9361, fields[2])
print(child.stdout.read(), end=''); print('told:', *names)
";

fn beside_automounter(place: &Path, command: &Command) -> Vec<String> {
    let mut whole = Command::new("/usr/bin/python3");
    whole.args(["-c", AUTOMOUNTER]).arg(place).arg(command.get_program()).args(command.get_args());
    lines(&mut whole)
}

#[test]
fn what_is_mounted_below_an_automounter_stays_and_nothing_else_is_asked_for() {
    let daemon = stage("private_tmp = false");
    let dir = temp::Dir::new("automounts").unwrap();
    let place = dir.folder("place").unwrap();
    let look = format!(
        "import os\nprint(os.path.exists('{0}/secret'), open('{0}/here/file').read())",
        place.display()
    );
    let python = ["/usr/bin/python3", "-c", &look];
    for uid in [UID, 0] {
        let mut jailed = daemon.command(&["run"]);
        jailed.args(["--agent", AGENT]);
        if uid != 0 {
            jailed.args(["--uid", &uid.to_string()]);
        }
        jailed.arg("--").args(python);
        assert_eq!(beside_automounter(&place, &jailed), ["False kept", "told:"], "as {uid}");
    }
    let mut free = Command::new("/usr/bin/env");
    free.args(python);
    assert_eq!(beside_automounter(&place, &free), ["False kept", "told: secret"]);
}
