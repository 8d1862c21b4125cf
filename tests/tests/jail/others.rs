//! What an agent may do to processes outside its jail that run under its own account: nothing.

use super::*;

/// A process outside that has a secret in its environment and listens on an abstract socket.
struct Outsider {
    process: process::Process,
    name: String,
    _dir: temp::Dir,
}

impl Outsider {
    fn under(uid: u32) -> Self {
        let dir = temp::Dir::new("outsider").unwrap();
        let name = format!("chaperone-test-{}", temp::unique());
        let script = format!(
            "import socket, time\nserver = socket.socket(socket.AF_UNIX)\nserver.bind('\\0{name}')\nserver.listen()\n\
             print('ready', flush=True)\ntime.sleep(600)"
        );
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".to_owned()]);
        command.args(["/usr/bin/python3", "-c", &script]).env("SECRET", "sesame").current_dir("/");
        let log = dir.path().join("log");
        let mut process =
            process::Process::start("an outsider", &mut command, &log, Signal::SIGKILL).unwrap();
        process
            .wait_ready(LIMIT, || Ok(std::fs::read_to_string(&log)?.contains("ready").then_some(())))
            .unwrap();
        Self { process, name, _dir: dir }
    }

    fn script(&self) -> String {
        format!(
            "pid = {}\n\
             say(lambda: open(f'/proc/{{pid}}/environ').read())\n\
             say(lambda: os.listdir(f'/proc/{{pid}}/root'))\n\
             say(lambda: os.close(os.open(f'/proc/{{pid}}/mem', os.O_RDWR)))\n\
             say(lambda: os.readlink(f'/proc/{{pid}}/fd/1'))\n\
             say(lambda: os.kill(pid, 0))\n\
             say(lambda: signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGCONT))\n\
             say(lambda: unix('\\0{}'))",
            self.process.pid(),
            self.name
        )
    }
}

#[test]
fn processes_outside_are_neither_read_nor_signalled_nor_talked_to() {
    let daemon = stage("");
    for uid in [UID, 0] {
        let outsider = Outsider::under(uid);
        let script = outsider.script();
        let seen = inside(&daemon, uid, &script);
        assert_eq!(seen, ["EACCES", "EACCES", "EACCES", "EACCES", "EPERM", "EPERM", "EPERM"], "as {uid}");
        assert_eq!(outside(uid, &script), ["ok"; 7], "as {uid}");
    }
}

#[test]
fn other_processes_memory_and_descriptors_are_out_of_reach_by_every_call() {
    let daemon = stage("");
    let outsider = Outsider::under(UID);
    let script = format!(
        "pid = {}\nbuffer = ctypes.create_string_buffer(8)\n\
         say(lambda: call(101, 0x4206, pid, 0, 0))\n\
         say(lambda: call(438, os.pidfd_open(pid), 1, 0))\n\
         say(lambda: call(312, pid, pid, 0, 0, 1))",
        outsider.process.pid()
    );
    assert_eq!(inside(&daemon, UID, &script), ["EPERM"; 3]);
    assert_eq!(outside(UID, &script), ["ok"; 3]);
}

#[test]
fn processes_outside_keep_their_limits_and_priorities() {
    let daemon = stage("");
    for uid in [UID, 0] {
        let outsider = Outsider::under(uid);
        let script = format!(
            "import resource\npid = {}\n\
             say(lambda: resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0)))\n\
             say(lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))\n\
             say(lambda: os.setpriority(os.PRIO_PGRP, pid, 19))\n\
             say(lambda: os.setpriority(os.PRIO_USER, 64777, 19))\n\
             say(lambda: os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0)))\n\
             say(lambda: os.sched_setparam(pid, os.sched_param(0)))\n\
             say(lambda: call(314, pid, struct.pack('IIQiIQQQ', 48, 3, 0, 19, 0, 0, 0, 0), 0))\n\
             say(lambda: call(251, 1, pid, 3 << 13))\n\
             say(lambda: call(279, pid, 0, 0, 0, 0, 0))",
            outsider.process.pid()
        );
        let script = format!("import struct\n{script}");
        assert_eq!(inside(&daemon, uid, &script), ["EPERM"; 9], "as {uid}");
        // Nobody runs as that user.
        let free = ["ok", "ok", "ok", "ESRCH", "ok", "ok", "ok", "ok", "ok"];
        assert_eq!(outside(uid, &script), free, "as {uid}");
    }
}

#[test]
fn an_agent_changes_its_own_limits_and_priorities() {
    let script = "
import resource
say(lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CORE))
say(lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)))
say(lambda: os.sched_setaffinity(os.getpid(), os.sched_getaffinity(0)))
say(lambda: os.nice(1))
say(lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)))
say(lambda: call(251, 1, 0, 3 << 13))
";
    assert_eq!(inside(&stage(""), UID, script)[1..], ["ok"; 5]);
}

#[test]
fn netlink_leads_to_the_kernel_and_to_no_process() {
    let daemon = stage("");
    let script = "for protocol in [0, 4, 15, 2, 16]:\n\
                  \x20   say(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol).close())\n\
                  print(len(socket.if_nameindex()) > 0)";
    let seen = ["ok", "ok", "ok", "EPROTONOSUPPORT", "EPROTONOSUPPORT", "True"];
    assert_eq!(inside(&daemon, UID, script), seen);
    assert_eq!(outside(UID, script), ["ok", "ok", "ok", "ok", "ok", "True"]);
}
