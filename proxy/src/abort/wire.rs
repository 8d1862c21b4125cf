//! The bytes of `sock_diag(7)`: ask for every socket of a table, read who they are, ask to end one.
//!
//! Pure. Numbers and layouts are those of `linux/netlink.h`, `sock_diag.h` and `inet_diag.h`; the machine's byte order, as
//! netlink has it. INVARIANT: a socket is named to the kernel by the very bytes, cookie included, by which the kernel named it,
//! so that another that took its addresses meanwhile is not ended. Refuses: what is shorter than it says.
//! Known limit: sockets without an owner any more (`TIME_WAIT`, handshakes under way) have no cgroup and are passed over.

/// A netlink message's header.
const HEADER: usize = 16;
/// `struct inet_diag_sockid`.
const NAME: usize = 48;
/// `struct inet_diag_msg`.
const TOLD: usize = 72;
/// Where the socket's name begins in it.
const NAME_AT: usize = 4;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// `NLM_F_REQUEST` with `NLM_F_DUMP`.
const LIST: u16 = 0x301;
/// `NLM_F_REQUEST` with `NLM_F_ACK`.
const DO: u16 = 0x5;
/// `INET_DIAG_CGROUP_ID`; kernels from 5.8 on tell it unasked.
const CGROUP_ID: u16 = 21;

/// One of the kernel's tables of sockets: a family and a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Table {
    family: u8,
    protocol: u8,
}

/// IPv4 and IPv6, TCP and UDP.
pub(super) const TABLES: [Table; 4] = [
    Table { family: 2, protocol: 6 },
    Table { family: 10, protocol: 6 },
    Table { family: 2, protocol: 17 },
    Table { family: 10, protocol: 17 },
];

/// A socket as the kernel named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Socket {
    table: Table,
    name: [u8; NAME],
    /// The cgroup that it was made in.
    pub(super) cgroup: u64,
}

/// What one datagram of the kernel's holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) sockets: Vec<Socket>,
    /// Sockets of which no cgroup was told.
    pub(super) unmarked: usize,
    /// The answer is complete: 0, or the kernel's error number.
    pub(super) end: Option<i32>,
}

/// The bytes are no such answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

/// Asks for every socket of a table.
pub(super) fn list(table: Table) -> Vec<u8> {
    request((SOCK_DIAG_BY_FAMILY, LIST), table, &[0; NAME])
}

/// Asks to end a socket.
pub(super) fn end(socket: &Socket) -> Vec<u8> {
    request((SOCK_DESTROY, DO), socket.table, &socket.name)
}

/// Asks to end a socket that no kernel has.
pub(super) fn end_nothing(table: Table) -> Vec<u8> {
    request((SOCK_DESTROY, DO), table, &[0; NAME])
}

fn request((kind, flags): (u16, u16), table: Table, name: &[u8; NAME]) -> Vec<u8> {
    // Header 16, `struct inet_diag_req_v2` 8 and 48.
    let length: u32 = 72;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&[table.family, table.protocol, 0, 0]);
    // In whatever state.
    bytes.extend_from_slice(&u32::MAX.to_ne_bytes());
    bytes.extend_from_slice(name);
    bytes
}

/// Reads a datagram that answers a request about `table`.
pub(super) fn read(table: Table, mut bytes: &[u8]) -> Result<Batch, Unreadable> {
    let mut batch = Batch::default();
    while !bytes.is_empty() {
        let length = usize::try_from(word(bytes, 0).ok_or(Unreadable)?).map_err(|_longer| Unreadable)?;
        let kind = half(bytes, 4).ok_or(Unreadable)?;
        let body = bytes.get(HEADER..length).ok_or(Unreadable)?;
        match kind {
            SOCK_DIAG_BY_FAMILY => match socket(table, body)? {
                Some(socket) => batch.sockets.push(socket),
                None => batch.unmarked = batch.unmarked.saturating_add(1),
            },
            // Both begin with a negative error number, or 0. An end of a list may come without one.
            NLMSG_ERROR => batch.end = Some(code(body).ok_or(Unreadable)?),
            NLMSG_DONE => batch.end = Some(code(body).unwrap_or(0)),
            _others => {}
        }
        // Each begins at a multiple of four.
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(batch)
}

fn socket(table: Table, body: &[u8]) -> Result<Option<Socket>, Unreadable> {
    let name = body.get(NAME_AT..NAME_AT + NAME).and_then(|name| name.try_into().ok()).ok_or(Unreadable)?;
    let mut rest = body.get(TOLD..).ok_or(Unreadable)?;
    while rest.len() >= 4 {
        let length = usize::from(half(rest, 0).ok_or(Unreadable)?);
        let value = rest.get(4..length).ok_or(Unreadable)?;
        if half(rest, 2) == Some(CGROUP_ID) {
            let cgroup = value.try_into().map(u64::from_ne_bytes).map_err(|_other_size| Unreadable)?;
            return Ok(Some(Socket { table, name, cgroup }));
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(None)
}

fn code(body: &[u8]) -> Option<i32> {
    let bytes = body.get(..4)?.try_into().ok()?;
    i32::from_ne_bytes(bytes).checked_neg()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at.checked_add(2)?)?.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: Table = Table { family: 2, protocol: 6 };

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(HEADER + body.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&[0; 10]);
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// A socket whose name is this byte all over, with an attribute before its cgroup.
    fn told(byte: u8, cgroup: Option<u64>) -> Vec<u8> {
        let mut body = vec![0; TOLD];
        body[NAME_AT..NAME_AT + NAME].fill(byte);
        body.extend_from_slice(&[5, 0, 8, 0, 1, 0, 0, 0]);
        if let Some(cgroup) = cgroup {
            body.extend_from_slice(&[12, 0, 21, 0]);
            body.extend_from_slice(&cgroup.to_ne_bytes());
        }
        message(SOCK_DIAG_BY_FAMILY, &body)
    }

    #[test]
    fn a_socket_is_ended_by_the_very_name_that_the_kernel_gave_it() {
        let batch = read(TCP, &told(7, Some(4711))).unwrap();
        let [socket] = batch.sockets.as_slice() else { panic!("one socket was told") };
        assert_eq!((socket.cgroup, batch.end), (4711, None));
        let request = end(socket);
        assert_eq!(request.len(), 72);
        assert_eq!(&request[..8], &[72, 0, 0, 0, 21, 0, 5, 0]);
        assert_eq!(&request[16..24], &[2, 6, 0, 0, 255, 255, 255, 255]);
        assert_eq!(&request[24..], &[7; NAME]);
    }

    #[test]
    fn a_list_goes_on_until_the_kernel_says_that_it_ends() {
        let both = [told(1, Some(1)), told(2, None)].concat();
        let batch = read(TCP, &both).unwrap();
        assert_eq!((batch.sockets.len(), batch.unmarked, batch.end), (1, 1, None));
        let last = read(TCP, &message(NLMSG_DONE, &[0; 4])).unwrap();
        assert_eq!(last.end, Some(0));
        let refused = read(TCP, &message(NLMSG_ERROR, &(-95_i32).to_ne_bytes())).unwrap();
        assert_eq!(refused.end, Some(95));
    }

    #[test]
    fn what_is_shorter_than_it_says_is_unreadable() {
        let whole = told(1, Some(1));
        for length in 1..whole.len() {
            assert_eq!(read(TCP, &whole[..length]), Err(Unreadable), "{length}");
        }
        let mut endless = whole.clone();
        endless[..4].copy_from_slice(&0_u32.to_ne_bytes());
        assert_eq!(read(TCP, &endless), Err(Unreadable));
        let mut attribute = whole;
        attribute[HEADER + TOLD..HEADER + TOLD + 2].copy_from_slice(&0_u16.to_ne_bytes());
        assert_eq!(read(TCP, &attribute), Err(Unreadable));
    }
}
