//! Streams: every one must end at the proxy.
//!
//! Rows of the catalogue and nothing else; the attempts are in the folder beside this one.
//! Known limit: one form of each attempt.

use super::{Control, More, PLAIN, Proof, Vector, row};
use crate::selftest::attempts::tcp;
use crate::selftest::report::{Expected, Layer, Method};
use crate::selftest::{PROXY_PORT, SINK_PORT};
use Expected::{Caught, Redirected, Stopped};
use Layer::{Bind, Connect, Egress, Ingress, Option, Sentinel};
use Method::Namespace;

pub(super) static ROWS: [Vector; 28] = [
    row("1", ("tcp4", "connect to an IPv4 address"), Redirected, tcp::four, &[Connect, Sentinel, Egress]),
    row("1", ("tcp6", "connect to an IPv6 address"), Redirected, tcp::six, &[Connect, Sentinel, Egress]),
    row(
        "2",
        ("tcp-mapped", "IPv4 in IPv6 form on an IPv6 socket"),
        Redirected,
        tcp::mapped,
        &[Connect, Sentinel, Egress],
    ),
    row(
        "6",
        ("fast-open4", "data with the first packet, no `connect`"),
        Redirected,
        tcp::fast_open4,
        &[Connect, Sentinel, Egress],
    ),
    row("6", ("fast-open6", "the same over IPv6"), Redirected, tcp::fast_open6, &[Connect, Sentinel, Egress]),
    row(
        "7",
        ("fast-open-later", "`TCP_FASTOPEN_CONNECT`"),
        Redirected,
        tcp::fast_open_later,
        &[Connect, Sentinel, Egress],
    ),
    row(
        "8",
        ("uring-connect", "connect by `io_uring`"),
        Caught,
        tcp::ring_connect,
        &[Connect, Sentinel, Egress],
    ),
    row(
        "8",
        ("uring-worker", "the same on a kernel worker"),
        Caught,
        tcp::ring_worker,
        &[Connect, Sentinel, Egress],
    ),
    row(
        "8",
        ("uring-polled", "the same by the kernel's polling thread"),
        Caught,
        tcp::ring_polled,
        &[Connect, Sentinel, Egress],
    ),
    row(
        "8",
        ("uring-socket", "socket made by `io_uring`"),
        Caught,
        tcp::ring_socket,
        &[Connect, Sentinel, Egress],
    ),
    row("10", ("multipath", "multipath TCP"), Redirected, tcp::multipath, &[Connect, Sentinel, Egress]),
    row("24", ("unicast-if4", "`IP_UNICAST_IF`"), Caught, tcp::unicast_if4, &[Connect, Sentinel, Egress]),
    row("24", ("unicast-if6", "`IPV6_UNICAST_IF`"), Caught, tcp::unicast_if6, &[Connect, Sentinel, Egress]),
    row("26", ("free-bind", "foreign source address"), Caught, tcp::free_bind, &[])
        .but(More { control: Control::None("the kernel finds no road from a foreign source"), ..PLAIN }),
    row(
        "26",
        ("free-bind6", "foreign source address over IPv6"),
        Stopped,
        tcp::free_bind6,
        &[Option, Connect, Sentinel, Egress],
    ),
    row(
        "26",
        ("transparent", "foreign source address, transparent"),
        Stopped,
        tcp::transparent,
        &[Option, Connect, Sentinel, Egress],
    ),
    row("42", ("take-port", "the proxy's own port"), Stopped, tcp::take_port, &[Bind]).but(More {
        proof: Proof::Success,
        skips: &[Namespace],
        ..PLAIN
    }),
    row(
        "43",
        ("dial-proxy", "the proxy's port, dialled directly"),
        Redirected,
        tcp::proxy,
        &[Connect, Sentinel, Egress],
    )
    .but(More {
        control: Control::None("what an outsider sends there is reset"),
        lands: PROXY_PORT,
        ..PLAIN
    }),
    row(
        "46",
        ("tcp-again", "disconnected and connected elsewhere"),
        Redirected,
        tcp::again,
        &[Connect, Sentinel, Egress],
    ),
    row("50", ("tcp-tls-dns", "DNS over TLS"), Redirected, tcp::over_tls, &[Connect, Sentinel, Egress])
        .but(More { lands: 853, ..PLAIN }),
    row("53", ("inbound", "an outsider dials in"), Stopped, tcp::inbound, &[Egress, Ingress])
        .but(More { provoked: true, ..PLAIN }),
    row(
        "53",
        ("inbound-stamped", "the same to a socket that was redirected before"),
        Stopped,
        tcp::stamped_listener,
        &[Egress, Ingress],
    )
    .but(More { provoked: true, ..PLAIN }),
    row(
        "54",
        ("tcp-loopback4", "server on loopback"),
        Redirected,
        tcp::loopback4,
        &[Connect, Sentinel, Egress],
    )
    .but(More { lands: SINK_PORT, ..PLAIN }),
    row(
        "54",
        ("tcp-loopback6", "the same over IPv6"),
        Redirected,
        tcp::loopback6,
        &[Connect, Sentinel, Egress],
    )
    .but(More { lands: SINK_PORT, ..PLAIN }),
    row(
        "54",
        ("tcp-nowhere", "address zero, which means loopback"),
        Redirected,
        tcp::nowhere4,
        &[Connect, Sentinel, Egress],
    )
    .but(More { lands: SINK_PORT, ..PLAIN }),
    row(
        "55",
        ("metadata", "the cloud's metadata address"),
        Redirected,
        tcp::metadata,
        &[Connect, Sentinel, Egress],
    ),
    row(
        "69",
        ("orphan", "grandchild without a parent"),
        Redirected,
        tcp::orphan,
        &[Connect, Sentinel, Egress],
    ),
    row("70", ("thread", "another thread"), Redirected, tcp::threaded, &[Connect, Sentinel, Egress]),
];
