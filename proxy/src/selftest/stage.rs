//! The stage: namespaces, a cable to the witness, a guarded cgroup, a proxy that notes who arrives, servers on loopback.
//!
//! Everything is of this process: when it ends, however it ends, the kernel takes all of it away but the two cgroups, which
//! the caller removes. INVARIANT: nothing is set up in the host's own network namespace, and every mount is private.
//! Known limit: the sentinel hangs on the root of the real tree for as long as the stage stands.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::netlink::{End, Mac, Netlink};
use super::report::Layer;
use super::room::{Room, quieten};
use super::witness::Witness;
use super::{
    DEVICE, FAR_MAC, FAR4, FAR6, HELD_PORT, METADATA, NEAR_MAC, PROXY_PORT, SINK_PORT, SelftestError, text,
};
use crate::intercept::{
    self, Cgroup, Guard, Ingress, Listener, SecurityHooks, Sentinel, Settings, Tree, UnixSockets, raw,
};

/// Longest wait for the first bytes of a connection that arrived.
const FIRST_BYTES: Duration = Duration::from_millis(200);
const PRIVATE: u64 = 1 << 18 | 1 << 14;
const BIND: u64 = 1 << 12;

/// The far and the near end of a cable, and the networks on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cable {
    far_name: &'static str,
    macs: [Mac; 2],
    four: [Ipv4Addr; 2],
    six: [Ipv6Addr; 2],
}

/// The stage's own cable.
pub(super) const FIRST: Cable = Cable {
    far_name: "far0",
    macs: [NEAR_MAC, FAR_MAC],
    four: [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)],
    six: [Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)],
};
/// The cable of an agent in a namespace of its own.
pub(super) const SECOND: Cable = Cable {
    far_name: "far1",
    macs: [[2, 0xc4, 0, 0, 0, 3], [2, 0xc4, 0, 0, 0, 4]],
    four: [Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2)],
    six: [Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 1), Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 2)],
};

/// What stands while attempts run.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) name: String,
    pub(super) far: Room,
    pub(super) witness: Witness,
    pub(super) parent: Cgroup,
    pub(super) outside: Cgroup,
    pub(super) sinks: Sinks,
    pub(super) arrivals: Arrivals,
    pub(super) programs: Vec<(String, bool)>,
    /// Whether programs on security hooks are in effect.
    pub(super) secured: bool,
    /// Whether this kernel has Landlock's scopes.
    pub(super) scoped: bool,
    /// Its own guard; none where an installed one is tested.
    guard: Option<Guard>,
    settings: Settings,
    _held: TcpListener,
}

impl Stage {
    /// Builds it. This process must have no other thread yet.
    pub(super) fn build(name: &str, installed: Option<Settings>) -> Result<Self, SelftestError> {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
            .map_err(|problem| step("take namespaces of its own")(problem.into()))?;
        let own = installed.is_none();
        let settings = installed.unwrap_or_else(|| Settings {
            parent: name.into(),
            pin_dir: place(name).join("bpf/pins"),
            port: PROXY_PORT,
            dns_port: None,
            sentinel: Sentinel::On,
            unix_sockets: UnixSockets::DeniedUnlessRoot,
            ingress: Ingress::Closed,
            security_hooks: SecurityHooks::On,
        });
        furnish(name, &settings).map_err(step("mount what agents need"))?;
        quieten();
        let near = Netlink::open().map_err(step("open netlink"))?;
        near.up("lo").map_err(step("switch loopback on"))?;
        let far = Room::fresh().map_err(step("make the witness's namespace"))?;
        let witness = far
            .run(|| {
                quieten();
                Witness::open()
            })
            .and_then(|opened| opened)
            .map_err(step("open the witness"))?;
        lay(&near, &far, FIRST).map_err(step("lay the cable"))?;
        let held = far.run(hold).and_then(|opened| opened).map_err(step("listen at the far end"))?;
        let tree = Tree::find()?;
        let outside = tree.create(Path::new(&format!("{name}-daemon")))?;
        outside.admit(std::process::id())?;
        let guard = own.then(|| Guard::install(&settings)).transpose()?;
        let parent = tree.open(&settings.parent)?;
        let target = parent.child(name, "effective")?;
        let found = match &guard {
            Some(guard) => guard.effective(),
            None => intercept::effective(&settings, &target)?,
        };
        let secured = intercept::secured(&found);
        let programs = found.into_iter().map(|status| (status.name.to_owned(), status.effective)).collect();
        let arrivals = guard.as_ref().map_or_else(|| Ok(Arrivals::none()), Arrivals::open)?;
        let sinks = Sinks::open(name).map_err(step("open servers on loopback"))?;
        let name = name.to_owned();
        Ok(Self {
            name,
            far,
            witness,
            parent,
            outside,
            sinks,
            arrivals,
            programs,
            secured,
            scoped: crate::jail::is_scoped(),
            guard,
            settings,
            _held: held,
        })
    }

    /// Switches kernel programs off, to see what the others are good for.
    pub(super) fn without(&mut self, programs: &[String]) -> Result<(), SelftestError> {
        // What an installed guard is made of is not ours to take away.
        if programs.is_empty() || self.guard.is_none() {
            return Ok(());
        }
        self.secured &= Layer::Security.programs().iter().all(|name| !programs.iter().any(|one| one == name));
        // The guard holds every link; afterwards only the pins do.
        self.guard = None;
        let generations = fs::read_dir(&self.settings.pin_dir).map_err(step("list the pins"))?;
        for generation in generations.flatten() {
            for pin in programs.iter().map(|name| generation.path().join(name)).filter(|pin| pin.exists()) {
                fs::remove_file(pin).map_err(step("remove a pin"))?;
            }
        }
        Ok(())
    }

    /// Lays the second cable into the namespace of a process.
    pub(super) fn connect(&self, pid: u32) -> io::Result<()> {
        let room = Room::of(pid)?;
        let far = self.far.namespace().try_clone()?;
        room.run(move || {
            quieten();
            let near = Netlink::open()?;
            near.up("lo")?;
            lay_near(&near, &far, SECOND)
        })??;
        self.far.run(|| lay_far(SECOND))??;
        Ok(())
    }

    /// The far side dials the near one; the sockets that do are returned, so that they go on trying.
    pub(super) fn dial_in(&self, port: u16) -> io::Result<Vec<std::os::fd::OwnedFd>> {
        self.far.run(move || {
            let near = [FIRST, SECOND].map(|cable| SocketAddr::from((cable.near4(), port)));
            let dialled = near.map(|address| {
                let socket = super::attempts::stream(nix::libc::AF_INET)?;
                // Under way, or refused at once: the witness tells.
                drop(raw::connect(&socket, &super::attempts::name(address)));
                Ok(socket)
            });
            dialled.into_iter().collect::<io::Result<Vec<_>>>()
        })?
    }

    /// Whether an installed guard is tested, which does not know this stage's namespace.
    pub(super) fn is_borrowed(&self) -> bool {
        self.guard.is_none() && self.settings.parent != Path::new(&self.name)
    }

    /// The folder that agents can reach.
    pub(super) fn place(&self) -> PathBuf {
        place(&self.name)
    }
}

impl Cable {
    fn near4(self) -> Ipv4Addr {
        let [near, _] = self.four;
        near
    }
}

/// Where the stage's own files are; empty outside its mount namespace.
pub(super) fn place(name: &str) -> PathBuf {
    Path::new("/run").join(name)
}

/// Turns an error into one that says what was tried.
pub(super) fn step(what: &'static str) -> impl Fn(io::Error) -> SelftestError {
    move |source| SelftestError::Step { what, source }
}

/// Mounts of this process alone: a folder, a bpf file system, and the program where every account can start it.
fn furnish(name: &str, settings: &Settings) -> io::Result<()> {
    let folder = place(name);
    raw::mount(c"none", c"/", c"none", PRIVATE)?;
    fs::create_dir_all(&folder)?;
    raw::mount(c"tmpfs", &text(&folder)?, c"tmpfs", 0)?;
    for inside in ["bpf", "state", "policies", "run"] {
        fs::create_dir(folder.join(inside))?;
    }
    raw::mount(c"bpf", &text(&folder.join("bpf"))?, c"bpf", 0)?;
    let program = folder.join("chaperone");
    File::create(&program)?;
    raw::mount(&text(&std::env::current_exe()?)?, &text(&program)?, c"none", BIND)?;
    let (here, port, watched) = (folder.display(), settings.port, settings.sentinel == Sentinel::On);
    let (parent, pins) = (settings.parent.to_string_lossy(), settings.pin_dir.to_string_lossy());
    let config = format!(
        "state_dir = \"{here}/state\"\nruntime_dir = \"{here}/run\"\npolicy_dir = \"{here}/policies\"\n\
         [intercept]\nparent = {parent:?}\nport = {port}\npin_dir = {pins:?}\nsentinel = {watched}\n\
         unix_sockets = \"open\"\ningress = \"open\"\n[dns]\nenabled = false\n[jail]\nkeep = [\"{here}\"]\n\
         [[agent]]\nname = \"{name}\"\n"
    );
    fs::write(folder.join("chaperone.toml"), config)
}

fn lay(near: &Netlink, far: &Room, cable: Cable) -> io::Result<()> {
    lay_near(near, far.namespace(), cable)?;
    far.run(move || lay_far(cable))?
}

/// The near end: addresses, and a road to everywhere that needs no questions asked.
fn lay_near(near: &Netlink, far: &File, cable: Cable) -> io::Result<()> {
    let [near_mac, far_mac] = cable.macs;
    let ([four, gate4], [six, gate6]) = (cable.four, cable.six);
    near.cable(End { name: DEVICE, mac: near_mac }, End { name: cable.far_name, mac: far_mac }, far)?;
    near.up(DEVICE)?;
    near.address(DEVICE, four.into(), 24)?;
    near.address(DEVICE, six.into(), 64)?;
    near.neighbour(DEVICE, gate4.into(), far_mac)?;
    near.neighbour(DEVICE, gate6.into(), far_mac)?;
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
    near.neighbour(DEVICE, link_local.into(), far_mac)?;
    near.route(DEVICE, (Ipv4Addr::UNSPECIFIED.into(), 0), gate4.into())?;
    near.route(DEVICE, (Ipv6Addr::UNSPECIFIED.into(), 0), gate6.into())
}

/// The far end, on a thread of its namespace. Addresses that both cables lead to are there once.
fn lay_far(cable: Cable) -> io::Result<()> {
    let netlink = Netlink::open()?;
    let [near_mac, _] = cable.macs;
    let ([near4, far4], [near6, far6]) = (cable.four, cable.six);
    netlink.up(cable.far_name)?;
    netlink.address(cable.far_name, far4.into(), 24)?;
    netlink.address(cable.far_name, far6.into(), 64)?;
    for address in [FAR4, METADATA] {
        netlink.address(cable.far_name, address, 32)?;
    }
    netlink.address(cable.far_name, FAR6, 128)?;
    netlink.neighbour(cable.far_name, near4.into(), near_mac)?;
    netlink.neighbour(cable.far_name, near6.into(), near_mac)
}

/// A server at the far end, for connections that stand before anything is tried. Nobody accepts: the kernel greets.
fn hold() -> io::Result<TcpListener> {
    TcpListener::bind((FAR4, HELD_PORT))
}

/// The proxy's side: who arrived.
#[derive(Debug)]
pub(super) struct Arrivals(Arc<Mutex<Vec<SocketAddr>>>);

impl Arrivals {
    /// Nobody arrives at a proxy that does not listen here.
    fn none() -> Self {
        Self(Arc::default())
    }

    fn open(guard: &Guard) -> Result<Self, SelftestError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(step("start the proxy's thread"))?;
        let listener = runtime.block_on(async { guard.listen() })?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&log);
        // Lives as long as the process, which is as long as the stage.
        std::thread::spawn(move || runtime.block_on(greet(listener, &noted)));
        Ok(Self(log))
    }

    /// Where those who arrived since the last time wanted to go.
    pub(super) fn take(&self) -> Vec<SocketAddr> {
        std::mem::take(&mut *self.0.lock())
    }
}

async fn greet(listener: Listener, noted: &Mutex<Vec<SocketAddr>>) {
    while let Ok(mut connection) = listener.accept().await {
        noted.lock().push(connection.origin.destination);
        let mut first = [0_u8; 64];
        let read = tokio::time::timeout(FIRST_BYTES, connection.stream.read(&mut first)).await;
        if let Ok(Ok(length)) = read
            && length > 0
            && connection.stream.write_all(b"chaperone").await.is_err()
        {
            tracing::debug!("an agent left before it was answered");
        }
    }
}

/// Servers on loopback, outside the agents' cgroup, that no agent may reach.
#[derive(Debug)]
pub(super) struct Sinks {
    streams: [TcpListener; 2],
    datagrams: [UdpSocket; 2],
    door: UnixListener,
    letters: UnixDatagram,
}

impl Sinks {
    fn open(name: &str) -> io::Result<Self> {
        let places = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
            .map(|address| SocketAddr::new(address, SINK_PORT));
        let [four, six] = places;
        let streams = [TcpListener::bind(four)?, TcpListener::bind(six)?];
        let datagrams = [UdpSocket::bind(four)?, UdpSocket::bind(six)?];
        let address = |name: &str| std::os::unix::net::SocketAddr::from_abstract_name(name);
        let door = UnixListener::bind_addr(&address(name)?)?;
        let letters = UnixDatagram::bind_addr(&address(&format!("{name}-letters"))?)?;
        streams.iter().try_for_each(|one| one.set_nonblocking(true))?;
        datagrams.iter().try_for_each(|one| one.set_nonblocking(true))?;
        door.set_nonblocking(true)?;
        letters.set_nonblocking(true)?;
        Ok(Self { streams, datagrams, door, letters })
    }

    /// How many were reached since the last time.
    pub(super) fn take(&self) -> usize {
        let mut buffer = [0_u8; 64];
        let streams = self.streams.iter().filter(|one| one.accept().is_ok()).count();
        let datagrams = self.datagrams.iter().filter(|one| one.recv(&mut buffer).is_ok()).count();
        let local = [self.door.accept().is_ok(), self.letters.recv(&mut buffer).is_ok()];
        streams + datagrams + local.into_iter().filter(|reached| *reached).count()
    }
}
