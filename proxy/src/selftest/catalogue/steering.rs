//! Options and control messages that steer packets, or make the kernel send some.
//!
//! Rows of the catalogue and nothing else; the attempts are in the folder beside this one.
//! Known limit: one form of each attempt.

use super::{More, PLAIN, Proof, Vector, row};
use crate::selftest::attempts::options;
use crate::selftest::report::{Expected, Layer};
use Expected::Stopped;
use Layer::{Connect, Egress, Option, Sendmsg, Sentinel};

pub(super) static ROWS: [Vector; 30] = [
    row(
        "19",
        ("lsrr-tcp", "source route on a stream"),
        Stopped,
        options::route_tcp,
        &[Option, Connect, Sentinel, Egress],
    ),
    row(
        "19",
        ("lsrr-fast-open", "source route and data with the first packet"),
        Stopped,
        options::route_fast_open,
        &[Option, Connect, Sentinel, Egress],
    ),
    row(
        "20",
        ("lsrr-udp", "source route on a datagram socket, to loopback"),
        Stopped,
        options::route_udp,
        &[Option, Sendmsg, Sentinel, Egress],
    ),
    row(
        "20",
        ("lsrr-message", "source route in a control message, to loopback"),
        Stopped,
        options::route_message,
        &[Sendmsg, Sentinel, Egress],
    ),
    row(
        "21",
        ("srh-udp", "segment routing on a datagram socket, to loopback"),
        Stopped,
        options::segments_udp,
        &[Option, Sendmsg, Sentinel, Egress],
    ),
    row(
        "22",
        ("srh-tcp", "segment routing on a stream"),
        Stopped,
        options::segments_tcp,
        &[Option, Connect, Sentinel, Egress],
    ),
    row(
        "22",
        ("srh-fast-open", "segment routing and data with the first packet"),
        Stopped,
        options::segments_fast_open,
        &[Option, Connect, Sentinel, Egress],
    ),
    row(
        "23",
        ("routing-message", "routing header in a control message"),
        Stopped,
        options::routing_message,
        &[Sendmsg, Sentinel, Egress],
    ),
    row(
        "23",
        ("routing-old-message", "the same by its older number"),
        Stopped,
        options::old_routing_message,
        &[Sendmsg, Sentinel, Egress],
    ),
    row(
        "23",
        ("hop-options", "hop-by-hop options in a control message"),
        Stopped,
        options::hop_options,
        &[Sendmsg, Sentinel, Egress],
    ),
    row(
        "23",
        ("destination-options", "destination options in a control message"),
        Stopped,
        options::destination_options,
        &[Sendmsg, Sentinel, Egress],
    ),
    row(
        "23",
        ("flow-label", "a leased flow label"),
        Stopped,
        options::flow_label,
        &[Option, Connect, Sentinel, Egress],
    ),
    row(
        "24",
        ("bind-device", "bound to a device by name"),
        Stopped,
        options::device_name,
        &[Option, Connect, Sentinel, Egress],
    ),
    row(
        "24",
        ("bind-device-index", "bound to a device by number"),
        Stopped,
        options::device_index,
        &[Option, Connect, Sentinel, Egress],
    ),
    row(
        "24",
        ("pktinfo4", "device in a control message"),
        Stopped,
        options::packet_info4,
        &[Sendmsg, Sentinel, Egress],
    ),
    row(
        "24",
        ("pktinfo6", "the same over IPv6"),
        Stopped,
        options::packet_info6,
        &[Sendmsg, Sentinel, Egress],
    ),
    row(
        "24",
        ("scope", "device in a link-local address"),
        Stopped,
        options::scope,
        &[Sendmsg, Sentinel, Egress],
    ),
    row("25", ("mark", "routing mark"), Stopped, options::mark, &[Option, Connect, Sentinel, Egress]),
    row(
        "25",
        ("mark-message", "routing mark in a control message"),
        Stopped,
        options::mark_message,
        &[Sendmsg, Sentinel, Egress],
    ),
    row(
        "76",
        ("repair", "connection declared without a handshake"),
        Stopped,
        options::repair,
        &[Option, Connect, Sentinel, Egress],
    ),
    row("76", ("upper-layer", "another protocol under the stream"), Stopped, options::upper_layer, &[Option])
        .but(More { proof: Proof::Success, ..PLAIN }),
    row(
        "77",
        ("igmp-join", "join an IPv4 group: the kernel announces it"),
        Stopped,
        options::join4,
        &[Option],
    ),
    row(
        "77",
        ("igmp-join-group", "the same by `MCAST_JOIN_GROUP`"),
        Stopped,
        options::join4_group,
        &[Option],
    ),
    row("77", ("igmp-join-source", "the same with a source"), Stopped, options::join4_source, &[Option]),
    row(
        "77",
        ("igmp-join-source-group", "the same by `MCAST_JOIN_SOURCE_GROUP`"),
        Stopped,
        options::join4_source_group,
        &[Option],
    ),
    row("77", ("igmp-filter", "change the sources of a group"), Stopped, options::filter4, &[Option]),
    row("77", ("mld-join", "join an IPv6 group"), Stopped, options::join6, &[Option]),
    row("77", ("mld-join-group", "the same by `MCAST_JOIN_GROUP`"), Stopped, options::join6_group, &[Option]),
    row(
        "77",
        ("mld-join-source-group", "the same with a source"),
        Stopped,
        options::join6_source_group,
        &[Option],
    ),
    row("77", ("anycast", "claim an anycast address"), Stopped, options::join_anycast, &[Option]),
];
