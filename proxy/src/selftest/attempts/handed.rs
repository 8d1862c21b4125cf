//! What an agent has from outside: sockets opened before it was one, sockets that others pass on, other processes, cgroups.
//!
//! Connections that stand already are a known way where the kernel lets no program have its security hooks. They are tried all
//! the same, so that the table says what is open. Known limit: of other processes, one is tried, which belongs to root.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};

use nix::libc;

use super::{Answer, Scene, dial, name, speak, stream, throw};
use crate::intercept::raw;
use crate::selftest::FAR4;

pub(in super::super) fn early_connect(scene: &Scene) -> Answer {
    let [tcp, ..] = scene.early;
    dial(&raw::inherited(tcp)?, &scene.at(FAR4))
}

pub(in super::super) fn early_send(scene: &Scene) -> Answer {
    let [_, udp, ..] = scene.early;
    throw(&raw::inherited(udp)?, &scene.at(FAR4))
}

pub(in super::super) fn early_raw(scene: &Scene) -> Answer {
    let [_, _, bare, ..] = scene.early;
    throw(&raw::inherited(bare)?, &bare_address())
}

pub(in super::super) fn early_connected(scene: &Scene) -> Answer {
    let [.., connected] = scene.early;
    speak(&raw::inherited(connected)?)
}

/// Everything but sending and connecting: any answer that is not a refusal is a use.
pub(in super::super) fn early_uses(scene: &Scene) -> Answer {
    let [_, _, _, spare, connected] = scene.early;
    let (spare, connected) = (raw::inherited(spare)?, raw::inherited(connected)?);
    let here = name(SocketAddr::from(([127, 0, 0, 1], 0)));
    let uses = [
        (
            "an option set",
            raw::set_option(&spare, libc::SOL_SOCKET, libc::SO_KEEPALIVE, &1_i32.to_ne_bytes()),
        ),
        ("an option read", raw::option(&spare, libc::SOL_SOCKET, libc::SO_KEEPALIVE).map(drop)),
        ("bound", raw::bind(&spare, &here)),
        ("listened on", raw::listen(&spare)),
        ("accepted on", raw::accept(&spare).map(drop)),
        ("read", raw::receive(&connected, &mut [0; 8]).map(drop)),
    ];
    let refused = |answer: &io::Result<()>| {
        answer.as_ref().is_err_and(|problem| problem.raw_os_error() == Some(libc::EPERM))
    };
    match uses.into_iter().find(|(_, answer)| !refused(answer)) {
        Some((word, _)) => Ok(word),
        None => Err(io::Error::from_raw_os_error(libc::EPERM)),
    }
}

pub(in super::super) fn passed_connect(scene: &Scene) -> Answer {
    dial(&scene.passed()?, &scene.at(FAR4))
}

pub(in super::super) fn passed_send(scene: &Scene) -> Answer {
    throw(&scene.passed()?, &scene.at(FAR4))
}

pub(in super::super) fn passed_connected_datagrams(scene: &Scene) -> Answer {
    throw(&scene.passed()?, &[])
}

/// The programs on options belong to the socket's cgroup as well.
pub(in super::super) fn passed_join(scene: &Scene) -> Answer {
    let joined = super::options::join_on(&scene.passed()?);
    // The kernel says goodbye as well, some moments later.
    std::thread::sleep(super::PAUSE * 40);
    joined
}

pub(in super::super) fn passed_raw(scene: &Scene) -> Answer {
    throw(&scene.passed()?, &bare_address())
}

pub(in super::super) fn passed_connected(scene: &Scene) -> Answer {
    speak(&scene.passed()?)
}

/// Takes the socket out of the process that has it.
pub(in super::super) fn taken(scene: &Scene) -> Answer {
    let (pid, descriptor) = scene.outsider;
    speak(&raw::take_descriptor(pid, descriptor)?)
}

pub(in super::super) fn debugger(scene: &Scene) -> Answer {
    let (pid, _) = scene.outsider;
    raw::seize(pid).map(|()| "attached")
}

pub(in super::super) fn memory(scene: &Scene) -> Answer {
    let (pid, _) = scene.outsider;
    OpenOptions::new().write(true).open(format!("/proc/{pid}/mem")).map(|_| "opened")
}

/// Makes a table, as whoever loads programs does first.
pub(in super::super) fn programs(_scene: &Scene) -> Answer {
    raw::make_table().map(|_| "made")
}

/// An abstract address of somebody outside.
pub(in super::super) fn abstract_door(scene: &Scene) -> Answer {
    let socket = stream(libc::AF_UNIX)?;
    raw::connect(&socket, &abstract_name(&scene.door))?;
    speak(&socket)
}

/// The same by a datagram.
pub(in super::super) fn abstract_letter(scene: &Scene) -> Answer {
    throw(&super::datagram(libc::AF_UNIX)?, &abstract_name(&format!("{}-letters", scene.door)))
}

fn abstract_name(name: &str) -> Vec<u8> {
    let mut address = 1_u16.to_ne_bytes().to_vec();
    address.push(0);
    address.extend_from_slice(name.as_bytes());
    address
}

pub(in super::super) fn clone_out(scene: &Scene) -> Answer {
    raw::clone_into(&File::open(&scene.elsewhere)?).map(|()| "cloned")
}

/// Namespaces of its own do not take it out of its cgroup.
pub(in super::super) fn new_namespace(scene: &Scene) -> Answer {
    let address = scene.at(FAR4);
    let thread = std::thread::spawn(move || {
        let home = File::open("/proc/thread-self/ns/net")?;
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
        let inside = stream(libc::AF_INET).and_then(|socket| dial(&socket, &address));
        nix::sched::setns(home, nix::sched::CloneFlags::CLONE_NEWNET)?;
        inside
    });
    thread.join().unwrap_or_else(|_panic| Err(io::Error::other("the thread died")))
}

/// Leaves the cgroup for good; the last attempt of a process.
pub(in super::super) fn move_out(scene: &Scene) -> Answer {
    let mut file = OpenOptions::new().write(true).open(scene.elsewhere.join("cgroup.procs"))?;
    file.write_all(std::process::id().to_string().as_bytes())?;
    drop(file);
    dial(&stream(libc::AF_INET)?, &scene.at(FAR4))
}

fn bare_address() -> Vec<u8> {
    let far: IpAddr = FAR4;
    name(SocketAddr::new(far, 0))
}
