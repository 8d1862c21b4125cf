//! What an agent has from outside, and ways out of its cgroup.
//!
//! Rows of the catalogue and nothing else; the attempts are in the folder beside this one.
//! Known limit: one form of each attempt.

use super::{Control, More, PLAIN, Passes, Proof, Vector, row};
use crate::selftest::attempts::handed;
use crate::selftest::report::{Expected, Layer, Method};
use Expected::Stopped;
use Layer::{Jail, Security, Sentinel};
use Method::{Namespace, RunRoot, RunUid, Slice};

pub(super) static ROWS: [Vector; 20] = [
    row(
        "28",
        ("early-connect", "socket opened before it was an agent's, connected"),
        Stopped,
        handed::early_connect,
        &[Sentinel],
    ),
    row("28", ("early-send", "datagram socket opened before"), Stopped, handed::early_send, &[Sentinel]),
    row("28", ("early-raw", "raw socket opened before"), Stopped, handed::early_raw, &[Jail, Security])
        .but(More { open: &[Slice, Namespace], ..PLAIN }),
    row(
        "29",
        ("early-connected", "connection that stood before"),
        Stopped,
        handed::early_connected,
        &[Jail, Security],
    )
    .but(More { open: &[Slice, Namespace], ..PLAIN }),
    row(
        "29",
        ("early-uses", "sockets that stood before: set, bound, read"),
        Stopped,
        handed::early_uses,
        &[Jail, Security],
    )
    .but(More { proof: Proof::Success, open: &[Slice, Namespace], ..PLAIN }),
    row(
        "31",
        ("passed-connect", "socket passed by an outsider, connected"),
        Stopped,
        handed::passed_connect,
        &[Sentinel],
    )
    .but(More { passes: Passes::Stream, ..PLAIN }),
    row(
        "31",
        ("passed-send", "datagram socket passed by an outsider"),
        Stopped,
        handed::passed_send,
        &[Sentinel],
    )
    .but(More { passes: Passes::Datagram, ..PLAIN }),
    row(
        "32",
        ("passed-connected", "connection passed by an outsider"),
        Stopped,
        handed::passed_connected,
        &[Security],
    )
    .but(More { passes: Passes::Connected, open: &[Slice, RunRoot, RunUid, Namespace], ..PLAIN }),
    row(
        "32",
        ("passed-connected-udp", "connected datagram socket passed by an outsider"),
        Stopped,
        handed::passed_connected_datagrams,
        &[Security],
    )
    .but(More { passes: Passes::ConnectedDatagram, open: &[Slice, RunRoot, RunUid, Namespace], ..PLAIN }),
    row("32", ("passed-raw", "raw socket passed by an outsider"), Stopped, handed::passed_raw, &[Security])
        .but(More { passes: Passes::Raw, open: &[Slice, RunRoot, RunUid, Namespace], ..PLAIN }),
    row(
        "32",
        ("passed-join", "group joined on a socket passed by an outsider"),
        Stopped,
        handed::passed_join,
        &[Security],
    )
    .but(More { passes: Passes::Datagram, open: &[Slice, RunRoot, RunUid, Namespace], ..PLAIN }),
    row(
        "32",
        ("pidfd-getfd", "connection taken out of an outsider"),
        Stopped,
        handed::taken,
        &[Jail, Security],
    )
    .but(More { open: &[Slice], ..PLAIN }),
    row("35", ("clone-into", "process started in another cgroup"), Stopped, handed::clone_out, &[Jail])
        .but(More { proof: Proof::Success, open: &[Slice], ..PLAIN }),
    row(
        "38",
        ("abstract-socket", "abstract address of an outsider"),
        Stopped,
        handed::abstract_door,
        &[Security],
    )
    .but(More { open: &[Slice], open_still: &[Slice], open_unscoped: &[RunRoot, RunUid], ..PLAIN }),
    row(
        "38",
        ("abstract-datagram", "datagram to an outsider's abstract address"),
        Stopped,
        handed::abstract_letter,
        &[Security],
    )
    .but(More { open: &[Slice], open_still: &[Slice], open_unscoped: &[RunRoot, RunUid], ..PLAIN }),
    row("40", ("new-namespace", "network namespace of its own"), Stopped, handed::new_namespace, &[]).but(
        More {
            control: Control::None(
                "an empty namespace leads nowhere; the launch method `namespace` has a road",
            ),
            ..PLAIN
        },
    ),
    row(
        "58",
        ("debugger", "attach to an outsider as a debugger"),
        Stopped,
        handed::debugger,
        &[Jail, Security],
    )
    .but(More { proof: Proof::Success, open: &[Slice], ..PLAIN }),
    row("59", ("memory", "write an outsider's memory"), Stopped, handed::memory, &[Jail, Security])
        .but(More { proof: Proof::Success, open: &[Slice], ..PLAIN }),
    row("61", ("kernel-programs", "manage kernel programs"), Stopped, handed::programs, &[Jail, Security])
        .but(More { proof: Proof::Success, open: &[Slice, Namespace], ..PLAIN }),
    row("33", ("move-out", "move to another cgroup, then connect"), Stopped, handed::move_out, &[Jail])
        .but(More { open: &[Slice], ..PLAIN }),
];
