//! Datagrams: none may leave.
//!
//! Rows of the catalogue and nothing else; the attempts are in the folder beside this one.
//! Known limit: one form of each attempt.

use super::{Vector, row};
use crate::selftest::attempts::datagram;
use crate::selftest::report::{Expected, Layer};
use Expected::Stopped;
use Layer::{Connect, Egress, Sendmsg, Sentinel};

pub(super) static ROWS: [Vector; 23] = [
    row(
        "3",
        ("udp4-on-udp6", "IPv4 address on an IPv6 datagram socket"),
        Stopped,
        datagram::four_on_six,
        &[Sendmsg, Sentinel, Egress],
    ),
    row(
        "4",
        ("udp-mapped", "datagram to IPv4 in IPv6 form"),
        Stopped,
        datagram::mapped,
        &[Sendmsg, Sentinel, Egress],
    ),
    row(
        "8",
        ("uring-send", "datagram sent by `io_uring`"),
        Stopped,
        datagram::ring,
        &[Connect, Sentinel, Egress],
    ),
    row(
        "46",
        ("udp-elsewhere", "datagram socket connected here, sent there"),
        Stopped,
        datagram::elsewhere,
        &[Connect, Sendmsg, Sentinel, Egress],
    ),
    row(
        "46",
        ("udp-connected-with", "connected, with a control message and no name"),
        Stopped,
        datagram::connected_with,
        &[Connect, Sendmsg, Sentinel, Egress],
    ),
    row("49", ("udp-dns", "datagram to port 53"), Stopped, datagram::dns, &[Sendmsg, Sentinel, Egress]),
    row("51", ("udp4", "datagram to IPv4"), Stopped, datagram::four, &[Sendmsg, Sentinel, Egress]),
    row("51", ("udp6", "datagram to IPv6"), Stopped, datagram::six, &[Sendmsg, Sentinel, Egress]),
    row("51", ("udp-quic", "datagram to port 443"), Stopped, datagram::quic, &[Sendmsg, Sentinel, Egress]),
    row("51", ("udp-ntp", "datagram to port 123"), Stopped, datagram::ntp, &[Sendmsg, Sentinel, Egress]),
    row(
        "51",
        ("udp-familyless", "datagram to an address without a family"),
        Stopped,
        datagram::familyless,
        &[Sendmsg, Sentinel, Egress],
    ),
    row(
        "51",
        ("udp-connected", "datagram socket, connected"),
        Stopped,
        datagram::connected,
        &[Connect, Sentinel, Egress],
    ),
    row(
        "51",
        ("udp-connected6", "the same over IPv6"),
        Stopped,
        datagram::connected6,
        &[Connect, Sentinel, Egress],
    ),
    row("51", ("udp-broadcast", "broadcast"), Stopped, datagram::broadcast, &[Sendmsg, Sentinel, Egress]),
    row(
        "51",
        ("udp-multicast4", "datagram to a group"),
        Stopped,
        datagram::multicast4,
        &[Sendmsg, Sentinel, Egress],
    ),
    row(
        "51",
        ("udp-multicast6", "the same over IPv6"),
        Stopped,
        datagram::multicast6,
        &[Sendmsg, Sentinel, Egress],
    ),
    row(
        "51",
        ("udp-segmented", "several datagrams at once"),
        Stopped,
        datagram::segmented,
        &[Sendmsg, Sentinel, Egress],
    ),
    row(
        "51",
        ("udp-corked", "datagram put together in parts"),
        Stopped,
        datagram::corked,
        &[Sendmsg, Sentinel, Egress],
    ),
    row(
        "51",
        ("udp-uncopied", "datagram without copying"),
        Stopped,
        datagram::uncopied,
        &[Sendmsg, Sentinel, Egress],
    ),
    row("51", ("udp-timed", "datagram for later"), Stopped, datagram::timed, &[Sendmsg, Sentinel, Egress]),
    row(
        "51",
        ("udp-fragmented", "datagram in fragments"),
        Stopped,
        datagram::fragmented,
        &[Sendmsg, Sentinel, Egress],
    ),
    row(
        "54",
        ("udp-loopback4", "datagram to loopback"),
        Stopped,
        datagram::loopback,
        &[Sendmsg, Sentinel, Egress],
    ),
    row(
        "54",
        ("udp-loopback6", "the same over IPv6"),
        Stopped,
        datagram::loopback6,
        &[Sendmsg, Sentinel, Egress],
    ),
];
