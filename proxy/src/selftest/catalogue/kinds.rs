//! Other kinds of socket.
//!
//! Rows of the catalogue and nothing else; the attempts are in the folder beside this one.
//! Known limit: one form of each attempt.

use super::{More, PLAIN, Proof, Vector, row};
use crate::selftest::attempts::kinds;
use crate::selftest::report::{Expected, Layer, Method};
use Expected::Stopped;
use Layer::{Connect, Create, Egress, Jail, Security, Sendmsg, Sentinel};
use Method::{Namespace, Slice};

pub(super) static ROWS: [Vector; 18] = [
    row("11", ("udp-lite", "UDP-Lite"), Stopped, kinds::udp_lite, &[Create, Sendmsg, Sentinel, Egress]),
    row("11", ("sctp", "SCTP"), Stopped, kinds::sctp, &[Create, Connect, Sentinel, Egress]),
    row("11", ("dccp", "DCCP"), Stopped, kinds::dccp, &[Create, Connect, Sentinel, Egress]),
    row("11", ("smc", "SMC"), Stopped, kinds::smc, &[Create, Connect, Sentinel, Egress]),
    row("13", ("ping", "ping socket"), Stopped, kinds::ping, &[Create, Egress]),
    row("13", ("ping6", "ping socket over IPv6"), Stopped, kinds::ping6, &[Create, Egress]),
    row(
        "14",
        ("ping-connected", "ping socket, connected"),
        Stopped,
        kinds::ping_connected,
        &[Create, Connect, Sentinel, Egress],
    ),
    row("15", ("raw-icmp", "raw socket"), Stopped, kinds::raw_icmp, &[Create, Egress]),
    row("15", ("raw-connected", "raw socket, connected"), Stopped, kinds::raw_connected, &[Create, Egress]),
    row("15", ("raw-six", "raw socket over IPv6"), Stopped, kinds::raw_six, &[Create, Egress]),
    row(
        "15",
        ("raw-header", "raw socket with a header of its own"),
        Stopped,
        kinds::raw_header,
        &[Create, Egress],
    ),
    row("16", ("packet-frame", "frames by a packet socket"), Stopped, kinds::packet_frame, &[Jail, Security])
        .but(More { open: &[Slice, Namespace], ..PLAIN }),
    row(
        "16",
        ("packet-datagram", "packets by a packet socket"),
        Stopped,
        kinds::packet_datagram,
        &[Jail, Security],
    )
    .but(More { open: &[Slice, Namespace], ..PLAIN }),
    row("16", ("xdp", "XDP socket"), Stopped, kinds::express, &[Jail, Security]).but(More {
        proof: Proof::Success,
        open: &[Slice, Namespace],
        ..PLAIN
    }),
    row("17", ("vsock", "stream to the hypervisor"), Stopped, kinds::hypervisor, &[Jail, Security])
        .but(More { proof: Proof::Success, open: &[Slice, Namespace], ..PLAIN }),
    row("18", ("alg", "the kernel's cipher sockets"), Stopped, kinds::crypto, &[Jail, Security]).but(More {
        proof: Proof::Success,
        open: &[Slice, Namespace],
        ..PLAIN
    }),
    row("18", ("families", "every other family"), Stopped, kinds::families, &[Jail, Security]).but(More {
        proof: Proof::Success,
        open: &[Slice, Namespace],
        ..PLAIN
    }),
    row("63", ("routes", "change routes"), Stopped, kinds::routes, &[Jail]).but(More {
        proof: Proof::Success,
        open: &[Slice, Namespace],
        ..PLAIN
    }),
];
