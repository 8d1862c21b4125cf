//! Agents in network namespaces of their own: containers, and what they make for themselves.
//!
//! Real daemon, real PostgreSQL, real namespaces. The database is dialled at an address of the range for benchmarks
//! (198.18.0.0/15) that the test puts on the host's loopback device for its time, because loopback addresses mean another thing in
//! each namespace. Needs root. INVARIANT: namespaces, addresses and processes end with their values.

#![expect(clippy::tests_outside_test_module, reason = "the whole file is a test program")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "helpers of tests fail the test they serve, and figures are printed"
)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use chaperone::config::Config;
use chaperone::intercept::{self, PER_ACCOUNT_MAX, Tree};
use chaperone_tests::postgres::program_path;
use chaperone_tests::process::{self, Finished, Running};
use chaperone_tests::shop::{POLICY, Setup, Shop};
use chaperone_tests::{sample, temp, wait};
use nix::sys::signal::Signal;
use serde_json::Value;

#[path = "namespaces/far.rs"]
mod far;
#[path = "namespaces/hostile.rs"]
mod hostile;
#[path = "namespaces/runtime.rs"]
mod runtime;

use far::Far;

const LIMIT: Duration = Duration::from_secs(60);
/// Threads that the daemon's runtime may keep for blocking work, whatever happened before.
const IDLE_THREADS: usize = 8;
const ITEM: &str = "SELECT item FROM orders WHERE id = 7";

/// What every program of these tests may use: a new namespace with loopback up, a connection that is tried for a while.
const HELPERS: &str = r"
import ctypes, errno, fcntl, os, socket, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def raise_loopback():
    with socket.socket() as s:
        fcntl.ioctl(s, 0x8914, struct.pack('16sH14x', b'lo', 0x1 | 0x40))
def unshare(flags=0x40000000):
    if libc.unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), 'unshare')
def refusal(s):
    # The reset may have been heard by `connect`, which then tells it once.
    said = attempt(lambda: s.recv(1))
    return 'ECONNRESET' if said == 'ENOTCONN' else said
def attempt(what):
    try:
        what()
        return 'ok'
    except OSError as problem:
        return errno.errorcode.get(problem.errno, str(problem))
def patient(address, seconds=30):
    end = time.monotonic() + seconds
    while True:
        s = socket.socket(socket.AF_INET6 if ':' in address[0] else socket.AF_INET)
        try:
            s.connect(address)
            return s
        except ConnectionResetError:
            return s  # Let through and refused so soon that the call itself heard of it.
        except PermissionError:
            s.close()
            if time.monotonic() > end:
                raise
            time.sleep(0.001)
";

/// The shop, and its database at an address that means the same everywhere.
struct Stage {
    // The daemon goes before the address does.
    shop: Shop,
    far: Far,
    _dir: temp::Dir,
}

impl Stage {
    fn open() -> Self {
        let dir = temp::Dir::new("namespaces").unwrap();
        let password = dir.write("password", sample::PASSWORD, 0o600).unwrap();
        let far = Far::new().unwrap();
        let resource = format!(
            "\n[[resource]]\nname = \"far-db\"\nprotocol = \"postgres\"\naddresses = [\"{}\"]\n\
             credential = {{ user = \"{}\", password_file = \"{}\" }}\ntls = {{ mode = \"disable\" }}\n",
            far.address(),
            sample::USER,
            password.display()
        );
        let policy = format!(
            "{POLICY}\n@id(\"far\") permit (principal == Unidentified::\"worker\", action, resource in Resource::\"far-db\");"
        );
        let shop = Shop::open(&Setup { resource, policy, ..Setup::default() }).unwrap();
        far.lead_to(shop.server.v4());
        Self { shop, far, _dir: dir }
    }

    /// The cgroup of a container of this name; the agent is the shop's.
    fn cgroup(&self, name: &str) -> PathBuf {
        let parent = PathBuf::from(self.shop.daemon.parent());
        Tree::find().unwrap().create(&parent.join("worker").join(name)).unwrap().path().to_owned()
    }

    /// A command whose process is put into that cgroup before it begins, as a container's runtime does.
    fn tagged(&self, name: &str, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("echo $$ > '{}/cgroup.procs' && exec \"$0\" \"$@\"", self.cgroup(name).display()));
        command.arg(program).args(arguments).current_dir("/");
        command
    }

    /// Python as root in such a cgroup, in the host's namespace as yet.
    fn python(&self, name: &str, script: &str) -> Command {
        let text = format!(
            "{HELPERS}\nFAR = ('{}', {})\n{script}",
            self.far.address().ip(),
            self.far.address().port()
        );
        self.tagged(name, "python3", &["-c", &text])
    }

    fn says(&self, name: &str, script: &str) -> String {
        process::run(&mut self.python(name, script), LIMIT).unwrap().success().unwrap().trim().to_owned()
    }

    /// `psql` in a new namespace, once that has a proxy.
    fn psql(&self, name: &str, sql: &str) -> Finished {
        let script = format!(
            "unshare(); raise_loopback(); patient(FAR).close()\n\
             os.execv('{}', ['psql', '-XAtw', '-d', 'host=%s port=%d user={} dbname={}' % FAR, '-c', \"{sql}\"])",
            program_path("psql").display(),
            sample::USER,
            sample::DATABASE,
        );
        process::run(&mut self.python(name, &script), LIMIT).unwrap()
    }

    /// The kernel's scopes, and the daemon's descriptors and threads.
    fn costs(&self) -> (usize, usize, usize) {
        let own = PathBuf::from(format!("/proc/{}", self.shop.daemon.pid().unwrap()));
        let count = |name: &str| fs::read_dir(own.join(name)).unwrap().count();
        let config = Config::load(self.shop.daemon.config()).unwrap();
        (intercept::scopes(&config.intercept).unwrap(), count("fd"), count("task"))
    }

    /// Names of the daemon's threads.
    fn threads(&self) -> Vec<String> {
        let tasks =
            fs::read_dir(format!("/proc/{}/task", self.shop.daemon.pid().unwrap())).unwrap().flatten();
        tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok()).collect()
    }

    /// The proxy's port.
    fn port(&self) -> u16 {
        Config::load(self.shop.daemon.config()).unwrap().intercept.port
    }

    /// Waits for as many events of this kind.
    fn records(&self, kind: &str, many: usize) -> Vec<Value> {
        wait::until(kind, LIMIT, || Ok(Some(self.shop.records(kind)?).filter(|found| found.len() >= many)))
            .unwrap()
    }
}

#[test]
fn a_statement_from_another_namespace_goes_through_chaperone_and_the_record_names_the_namespace() {
    let stage = Stage::open();
    let seen = stage.psql("one", "SELECT email FROM customers WHERE id = 7").success().unwrap();
    assert_eq!(seen.trim(), "customer7@mail.example", "far-db has no classes");
    let opened = stage.records("namespace_opened", 1);
    let session = stage.records("session_opened", 1);
    let evidence = &session.first().unwrap()["evidence"];
    assert_eq!(evidence["netns"], opened.first().unwrap()["netns"]);
    assert_eq!(opened.first().unwrap()["account"], "worker");
    // The control: from the host's namespace the same agent has none.
    let host = format!(
        "import subprocess; sys.exit(subprocess.call(['{}', '-XAtw', '-d', 'host=%s port=%d user={} dbname={}' % FAR, '-c', '{ITEM}']))",
        program_path("psql").display(),
        sample::USER,
        sample::DATABASE
    );
    process::run(&mut stage.python("host", &host), LIMIT).unwrap().success().unwrap();
    let session = stage.records("session_opened", 2);
    assert!(session.iter().any(|one| one["evidence"].get("netns").is_none()));
    let verified = stage.shop.daemon.cli(&["audit", "verify", "--kernel"]).unwrap();
    assert!(verified.status.success(), "{}", verified.both());
}

#[test]
fn a_namespace_has_a_proxy_soon_after_it_is_first_seen() {
    let stage = Stage::open();
    let script = "begin = time.monotonic(); unshare(); raise_loopback(); failed = 0\n\
        while attempt(lambda: socket.socket().connect(FAR)) == 'EPERM': failed += 1; time.sleep(0.001)\n\
        print((time.monotonic() - begin) * 1000, failed)";
    let mut took: Vec<f64> = (0..20)
        .map(|number| {
            let said = stage.says(&format!("n{number}"), script);
            said.split(' ').next().unwrap().parse().unwrap()
        })
        .collect();
    took.sort_by(f64::total_cmp);
    println!("from unshare to the first connection that is let through, in ms, sorted: {took:.1?}");
    assert!(took.first().is_some_and(|best| *best < 100.0), "{took:?}");
}

#[test]
fn loopback_in_another_namespace_is_its_own_and_reaches_no_resource_of_the_host() {
    let stage = Stage::open();
    let port = stage.shop.server.port();
    let script = format!(
        "unshare(); raise_loopback(); patient(FAR).close()\n\
         for a in ('127.0.0.1', '127.8.8.8', '0.0.0.0', '::1', '::ffff:127.0.0.1'):\n\
         \x20   print(refusal(patient((a, {port}))))"
    );
    assert_eq!(stage.says("one", &script), ["ECONNRESET"; 5].join("\n"));
    let refused = stage.records("connection_refused", 5);
    let own = refused.iter().filter(|one| one["reason"].as_str().unwrap_or("").contains("its own")).count();
    assert_eq!(own, 5, "{refused:?}");
    // The control: from the host's namespace the address is the resource's.
    stage.shop.talk().unwrap().ask(ITEM).unwrap().cell().unwrap();
}

#[test]
fn two_namespaces_with_equal_source_ports_keep_their_own_identities() {
    let stage = Stage::open();
    // Both bind the same source port and stay open; each asks who it is by its destination.
    let script = |name: &str| {
        format!(
            "unshare(); raise_loopback(); patient(FAR).close()\n\
             s = socket.socket(); s.bind(('127.0.0.1', 23456)); print(s.getsockname()[1], flush=True)\n\
             print(attempt(lambda: (s.connect(('192.0.2.{name}', 5432)), s.recv(1)))); time.sleep(1)"
        )
    };
    let begin = |name: &str| Running::start(&mut stage.python(name, &script(name))).unwrap();
    let (one, two) = (begin("1"), begin("2"));
    for running in [one, two] {
        let said = running.finish(LIMIT).unwrap().success().unwrap();
        assert_eq!(said.trim(), "23456\nECONNRESET");
    }
    let refused = stage.records("connection_refused", 2);
    for name in ["1", "2"] {
        let destination = format!("192.0.2.{name}:5432");
        let found = refused.iter().find(|one| one["destination"] == destination.as_str()).unwrap();
        let cgroup = found["evidence"]["cgroup"].as_str().unwrap();
        assert!(cgroup.ends_with(&format!("worker/{name}")), "{destination} came from {cgroup}");
    }
}

#[test]
fn a_thousand_namespaces_appear_and_vanish_and_nothing_is_left_of_them() {
    let stage = Stage::open();
    let mut talk = stage.shop.talk().unwrap();
    talk.ask(ITEM).unwrap().cell().unwrap();
    let before = stage.costs();
    let script = "begin = time.monotonic()\n\
        for n in range(1000):\n\
        \x20   pid = os.fork()\n\
        \x20   if pid == 0:\n\
        \x20       unshare(); raise_loopback(); attempt(lambda: socket.socket().connect(FAR)); os._exit(0)\n\
        \x20   os.waitpid(pid, 0)\n\
        print('1000 namespaces in %.1f s' % (time.monotonic() - begin))";
    let many = Running::start(&mut stage.python("many", script)).unwrap();
    let mut asked = 0;
    let mut many = many;
    while many.is_alive().unwrap() {
        talk.ask(ITEM).unwrap().cell().unwrap();
        stage.shop.talk().unwrap().ask(ITEM).unwrap().cell().unwrap();
        asked += 1;
    }
    println!("{}", many.finish(LIMIT).unwrap().success().unwrap().trim());
    assert!(asked > 0, "nobody else was served meanwhile");
    let opened = stage.shop.records("namespace_opened").unwrap().len();
    // The runtime keeps a few idle threads that took work off it; those that entered a namespace end at once.
    let after = wait::until("the scopes, descriptors and threads of before", LIMIT, || {
        let now = stage.costs();
        let none_inside = !stage.threads().iter().any(|name| name.trim() == "namespace");
        let few = now.1 <= before.1 + 2 && now.2 <= before.2 + IDLE_THREADS;
        Ok((now.0 == before.0 && few && none_inside).then_some(now))
    });
    println!(
        "{opened} had a proxy; scopes, descriptors and threads before {before:?}, after {after:?}, last {:?}",
        stage.costs()
    );
    after.unwrap();
    // A namespace that comes now is served as the first was.
    stage.psql("later", ITEM).success().unwrap();
}

#[test]
fn an_agent_with_too_many_namespaces_is_refused_more_and_others_are_not() {
    let stage = Stage::open();
    // Each child keeps its namespace until the parent ends.
    let script = format!(
        "r, w = os.pipe(); kids = []\n\
         for n in range({PER_ACCOUNT_MAX} + 8):\n\
         \x20   pid = os.fork()\n\
         \x20   if pid == 0:\n\
         \x20       os.close(w); unshare(); raise_loopback()\n\
         \x20       os.read(r, 1); os._exit(0)\n\
         \x20   kids.append(pid)\n\
         print('made', flush=True); time.sleep(60)"
    );
    let mut many = Running::start(&mut stage.python("many", &script)).unwrap();
    let refused = stage.records("namespace_refused", 1);
    let first = refused.first().unwrap();
    assert!(first["reason"].as_str().unwrap().contains("uses 128 network namespaces"), "{first}");
    assert_eq!(first["account"], "worker");
    assert_eq!(stage.shop.records("namespace_opened").unwrap().len(), PER_ACCOUNT_MAX);
    assert!(many.is_alive().unwrap());
    // Another agent, which has a cgroup of its own right below the parent, gets its proxy meanwhile.
    let parent = PathBuf::from(stage.shop.daemon.parent());
    let other = Tree::find().unwrap().create(&parent.join("other").join("1")).unwrap();
    let text =
        format!("{HELPERS}\nunshare(); raise_loopback(); patient(('192.0.2.1', 80)); print('let through')");
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!("echo $$ > '{}/cgroup.procs' && exec python3 -c \"$0\"", other.path().display()));
    let said = process::run(command.arg(text), LIMIT).unwrap().success().unwrap();
    assert_eq!(said.trim(), "let through");
    many.signal(Signal::SIGKILL).unwrap();
    drop(many.finish(LIMIT));
}

#[test]
fn a_question_to_any_resolver_is_answered_in_another_namespace_too() {
    let stage = Stage::open();
    let script = "unshare(); raise_loopback()\n\
        question = b'\\x12\\x34\\x01\\x00\\x00\\x01' + bytes(6) + b'\\x03www\\x07example\\x00\\x00\\x01\\x00\\x01'\n\
        s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout(1)\n\
        for turn in range(50):\n\
        \x20   try:\n\
        \x20       s.sendto(question, ('192.0.2.53', 53)); answer, sender = s.recvfrom(512); break\n\
        \x20   except (PermissionError, TimeoutError):\n\
        \x20       time.sleep(0.1)\n\
        print(sender[0], answer[:2] == question[:2], answer[3] & 15)";
    let said = process::run(&mut stage.python("guest", script), LIMIT).unwrap().success().unwrap();
    // No policy permits the name: it does not exist for this agent.
    assert_eq!(said.trim(), "192.0.2.53 True 3");
    let denied = stage.records("name_denied", 1);
    assert_eq!(denied[0]["agent"], "worker");
}

#[test]
fn a_container_lives_through_a_restart_of_the_daemon_and_cannot_take_its_port_meanwhile() {
    let mut stage = Stage::open();
    let port = stage.port();
    let flag = temp::Dir::new("flag").unwrap();
    let file = flag.path().join("go").display().to_string();
    let script = format!(
        "unshare(); raise_loopback(); patient(FAR).close(); print('up', flush=True)\n\
         def wait(name):\n\
         \x20   while not os.path.exists('{file}' + name): time.sleep(0.01)\n\
         def take():\n\
         \x20   s = socket.socket(); s.setsockopt(1, 2, 1); s.setsockopt(1, 15, 1); s.bind(('127.0.0.1', {port}))\n\
         print('while up', attempt(take)); open('{file}0', 'w').close(); wait('1')\n\
         print('while down', attempt(take), attempt(lambda: socket.socket().connect(FAR)))\n\
         if os.fork() == 0:\n\
         \x20   unshare(); raise_loopback(); print('in a new one', attempt(take), flush=True); os._exit(0)\n\
         os.wait(); open('{file}2', 'w').close(); wait('3')\n\
         s = patient(FAR); print('again', s.getpeername()[0])"
    );
    let agent = Running::start(&mut stage.python("one", &script)).unwrap();
    stage.records("namespace_opened", 1);
    // The namespace is open a moment before the agent is through to the far side.
    let there = |name: &str| flag.path().join(name).exists();
    wait::until("the agent to be through", LIMIT, || Ok(there("go0").then_some(()))).unwrap();
    stage.shop.daemon.stop(Signal::SIGKILL).unwrap();
    flag.write("go1", "", 0o644).unwrap();
    wait::until("the agent to have tried", LIMIT, || Ok(there("go2").then_some(()))).unwrap();
    stage.shop.daemon.launch().unwrap();
    flag.write("go3", "", 0o644).unwrap();
    let said = agent.finish(LIMIT).unwrap().success().unwrap();
    let far = stage.far.address().ip();
    assert_eq!(
        said.trim(),
        format!("up\nwhile up EADDRINUSE\nwhile down EPERM ECONNREFUSED\nin a new one EPERM\nagain {far}")
    );
}

#[test]
fn a_namespace_in_which_somebody_else_has_the_port_stays_denied_and_the_record_says_why() {
    let stage = Stage::open();
    // A process outside makes the namespace and takes the port; the agent enters it afterwards.
    let script = format!(
        "{HELPERS}\nunshare(); raise_loopback(); s = socket.socket(); s.bind(('127.0.0.1', {port})); s.listen()\n\
         pid = os.getpid()\n\
         if os.fork() == 0:\n\
         \x20   open('{cgroup}/cgroup.procs', 'w').write(str(os.getpid()))\n\
         \x20   end = time.monotonic() + 3; said = set()\n\
         \x20   while time.monotonic() < end:\n\
         \x20       said.add(attempt(lambda: socket.socket().connect(('192.0.2.1', 80)))); time.sleep(0.05)\n\
         \x20   print(said, flush=True); os._exit(0)\n\
         os.wait()",
        port = stage.port(),
        cgroup = stage.cgroup("guest").display(),
    );
    let said = process::run(Command::new("python3").args(["-c", &script]), LIMIT).unwrap().success().unwrap();
    assert_eq!(said.trim(), "{'EPERM'}");
    let refused = stage.records("namespace_refused", 1);
    let reason = refused.first().unwrap()["reason"].as_str().unwrap();
    assert!(reason.contains(&format!("port {} cannot be had", stage.port())), "{reason}");
    assert!(reason.contains("in use"), "{reason}");
    assert!(stage.shop.records("namespace_opened").unwrap().is_empty());
    let denied = stage.records("kernel_denied", 1);
    assert!(denied.iter().any(|one| one["reason"] == "namespace-unknown"), "{denied:?}");
}

#[test]
fn a_thread_in_a_namespace_of_its_own_is_served_for_as_long_as_it_is_there() {
    let stage = Stage::open();
    let script = "import threading\n\
        def elsewhere():\n\
        \x20   unshare(); raise_loopback(); patient(FAR).close(); time.sleep(5)\n\
        \x20   print('still', attempt(lambda: socket.socket().connect(FAR)))\n\
        thread = threading.Thread(target=elsewhere); thread.start(); thread.join()";
    assert_eq!(stage.says("one", script), "still ok");
    assert_eq!(stage.shop.records("namespace_opened").unwrap().len(), 1, "it was given up in between");
}
