//! Connections as the kernel tracks them: counted by their mark, and told of as they come and go
//! (`linux/netfilter/nfnetlink_conntrack.h`).

use super::events::subscribe;
use super::netlink::{Message, Socket, find, put, split, u32_at};
use super::ruleset::NFGENMSG;
use super::{Error, refused, sysctl};
use core::fmt::{self, Display, Formatter};
use core::net::{IpAddr, SocketAddr};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::netlink::NETFILTER;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{RecvFlags, recv};
use std::collections::BTreeMap;

const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8;
/// A connection is there, or has changed.
const CT_NEW: u16 = SUBSYSTEM;
const CT_GET: u16 = SUBSYSTEM | 1;
const CT_DELETE: u16 = SUBSYSTEM | 2;
/// The flag of a message about a connection that is new.
const NLM_F_CREATE: u16 = 0x400;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_MARK: u16 = 8;
const CTA_COUNTERS_ORIG: u16 = 9;
const CTA_COUNTERS_REPLY: u16 = 10;
const CTA_MARK_MASK: u16 = 21;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_COUNTERS_PACKETS: u16 = 1;
const CTA_COUNTERS_BYTES: u16 = 2;
/// In [`CTA_STATUS`]: an answer has been seen (`IPS_SEEN_REPLY`, `linux/netfilter/nf_conntrack_common.h`).
const SEEN_REPLY: u32 = 2;

/// New, changed and ended connections (`NF_NETLINK_CONNTRACK_*`, `linux/netfilter/nfnetlink_compat.h`).
const GROUPS: u32 = 1 | 2 | 4;
/// Bytes of events that may wait to be read: some ten thousand of them.
const ROOM: usize = 8 << 20;
/// Events that are read in one go, so that what they say is shown while more of them come.
const GO: usize = 256;

/// A connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Its mark, with everybody's bits.
    pub mark: u32,
    /// Its transport protocol.
    pub protocol: Protocol,
    /// Who opened it.
    pub source: End,
    /// Whom it was opened to, before this host's own DNAT.
    pub destination: End,
    /// Who answers: the destination, after DNAT.
    pub answering: End,
    /// What the source has sent. `None` where the kernel does not say (`nf_conntrack_acct`).
    pub sent: Option<Traffic>,
    /// What has come back.
    pub answered: Option<Traffic>,
}

/// An end of a connection, displayed as `10.0.0.1:80`, `[fd00::1]:80`, or without a port as its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Its address.
    pub address: IpAddr,
    /// Its port, where the protocol has any.
    pub port: Option<u16>,
}

/// A transport protocol by its number (IANA), displayed by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocol(pub u8);

/// An amount of traffic, displayed as nft does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes, with the headers from IP on.
    pub bytes: u64,
}

/// What the kernel tells of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// There is one, and it has a mark.
    Taken(Connection),
    /// One that has a mark has ended.
    Ended(Connection),
    /// So many events were lost: they came faster than they were read.
    Lost(u32),
}

impl Display for End {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

impl Display for Protocol {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let number;
        f.pad(match self.0 {
            1 => "icmp",
            6 => "tcp",
            17 => "udp",
            58 => "icmpv6",
            132 => "sctp",
            other => {
                number = other.to_string();
                &number
            }
        })
    }
}

impl Display for Traffic {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "packets {} bytes {}", self.packets, self.bytes)
    }
}

/// How many connections there are of each mark: of those bits of theirs that are in `mask`. However many the kernel
/// tracks, none of them is kept.
///
/// # Errors
/// The kernel does not say.
pub fn count(mask: u32, marks: impl Iterator<Item = u32>) -> Result<BTreeMap<u32, u64>, Error> {
    let mut counts: BTreeMap<u32, u64> = marks.map(|mark| (mark, 0)).collect();
    // The kernel leaves out those that differ in the bits which all of the marks have in common.
    let Some(first) = counts.keys().next().copied() else { return Ok(counts) };
    let common = counts.keys().fold(mask, |common, mark| common & !(mark ^ first));
    let mut payload = vec![0; NFGENMSG];
    put(&mut payload, CTA_MARK, &(first & common).to_be_bytes());
    put(&mut payload, CTA_MARK_MASK, &common.to_be_bytes());
    let each = |message: &[u8]| {
        let mark = find(message.get(NFGENMSG..).unwrap_or(&[]), CTA_MARK).and_then(be32);
        if let Some(count) = mark.and_then(|mark| counts.get_mut(&(mark & mask))) {
            *count += 1;
        }
    };
    let mut socket =
        Socket::open(mnl::Bus::Netfilter).map_err(|error| Error::new(format!("connections: {error}")))?;
    socket
        .stream(&Message { kind: CT_GET, flags: 0, payload }, each)
        .map_err(|refusal| refused(format_args!("connections: cannot count them"), &refusal, NEEDS))?;
    Ok(counts)
}

const NEEDS: &str = "the kernel needs CONFIG_NF_CT_NETLINK (module nf_conntrack_netlink)";

/// A socket that hears of connections.
pub struct Events {
    socket: OwnedFd,
    lost: u32,
}

impl Events {
    /// From now on nothing is missed, as long as it is read fast enough.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn listen() -> Result<Events, Error> {
        let open = || {
            let socket = subscribe(Some(NETFILTER), GROUPS)?;
            let _ = set_socket_recv_buffer_size_force(&socket, ROOM); // a comfort
            Ok(Events { socket, lost: 0 })
        };
        open().map_err(|error: Errno| {
            let remedy = if error == Errno::PERM { "run it with CAP_NET_ADMIN" } else { NEEDS };
            Error::new(format!("connections: cannot hear of them: {error}; {remedy}"))
        })
    }

    /// Sleeps until there is something to be read. False: whoever reads what is written to `output` has gone.
    ///
    /// # Errors
    /// As [`Events::take`].
    pub fn wait(&self, output: BorrowedFd<'_>) -> Result<bool, Error> {
        let mut watched =
            [PollFd::new(&self.socket, PollFlags::IN), PollFd::new(&output, PollFlags::empty())];
        match poll(&mut watched, None) {
            Ok(_) => Ok(!watched[1].revents().intersects(PollFlags::ERR | PollFlags::HUP)),
            Err(Errno::INTR) => Ok(true),
            Err(error) => Err(deaf(error)),
        }
    }

    /// Shows what the kernel has told of connections with a mark, or as much of it as is read in one go.
    ///
    /// # Errors
    /// The kernel does not tell any more.
    pub fn take(&mut self, mut each: impl FnMut(Event)) -> Result<(), Error> {
        let mut buffer = [0; 8192]; // an event is some hundred bytes
        for _ in 0..GO {
            match recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    let mut rest = buffer.get(..length).unwrap_or(&[]);
                    while let Some((header, payload, after)) = split(rest) {
                        event(header.kind, header.flags, payload).into_iter().for_each(&mut each);
                        rest = after;
                    }
                }
                Err(Errno::NOBUFS | Errno::INTR) => {} // what was lost is counted below
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(deaf(error)),
            }
        }
        let lost = drops(&self.socket);
        if lost != self.lost {
            each(Event::Lost(lost.wrapping_sub(self.lost)));
            self.lost = lost;
        }
        Ok(())
    }
}

fn deaf(error: Errno) -> Error {
    Error::new(format!("connections: cannot hear of them any more: {error}; start it again"))
}

/// How many messages for a socket have been thrown away (`SK_MEMINFO_DROPS`, `linux/sock_diag.h`).
fn drops(socket: &OwnedFd) -> u32 {
    let mut numbers = [0_u32; 9];
    let mut size = size_of_val(&numbers) as libc::socklen_t;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_MEMINFO);
    // SAFETY: the descriptor is open, and `numbers` is `size` writable bytes during the call.
    let done = unsafe {
        libc::getsockopt(socket.as_fd().as_raw_fd(), level, name, numbers.as_mut_ptr().cast(), &mut size)
    };
    if done == 0 { numbers[8] } else { 0 }
}

/// What keeps the kernel from telling all that can be told, one line each with the remedy.
///
/// # Errors
/// `/proc` can not be read.
pub fn shortcomings() -> Result<Vec<String>, Error> {
    let settings = [
        ("net/netfilter/nf_conntrack_events", "the kernel tells of no connection"),
        ("net/netfilter/nf_conntrack_acct", "packets and bytes of connections are not counted"),
    ];
    let mut lines = Vec::new();
    for (name, effect) in settings {
        if sysctl::read(name)? == Some(0) {
            lines.push(format!("{name} is 0: {effect}; for new ones `sysctl -w {name}=1` changes that"));
        }
    }
    Ok(lines)
}

/// What a message tells of a connection; `None` where that is nothing about a mark.
///
/// The mark is set before a connection is confirmed, so the message about a new one has it already. One that was marked
/// later, since the policy came into force meanwhile, is told of as changed: what comes in marks it only as long as
/// nobody has answered. Later changes say nothing new.
fn event(kind: u16, flags: u16, payload: &[u8]) -> Option<Event> {
    let body = payload.get(NFGENMSG..)?;
    let mark = find(body, CTA_MARK).and_then(be32).filter(|mark| *mark != 0)?;
    match kind {
        CT_NEW if flags & NLM_F_CREATE == 0 && find(body, CTA_STATUS).and_then(be32)? & SEEN_REPLY != 0 => {
            None
        }
        CT_NEW => Some(Event::Taken(connection(mark, body)?)),
        CT_DELETE => Some(Event::Ended(connection(mark, body)?)),
        _ => None,
    }
}

fn connection(mark: u32, body: &[u8]) -> Option<Connection> {
    let (protocol, source, destination) = tuple(find(body, CTA_TUPLE_ORIG)?)?;
    let (_, answering, _) = tuple(find(body, CTA_TUPLE_REPLY)?)?;
    let counted = |kind| traffic(find(body, kind)?);
    Some(Connection {
        mark,
        protocol,
        source,
        destination,
        answering,
        sent: counted(CTA_COUNTERS_ORIG),
        answered: counted(CTA_COUNTERS_REPLY),
    })
}

/// Protocol, source and destination of one direction.
fn tuple(bytes: &[u8]) -> Option<(Protocol, End, End)> {
    let (ip, transport) = (find(bytes, CTA_TUPLE_IP)?, find(bytes, CTA_TUPLE_PROTO)?);
    let address = |v4, v6| match (find(ip, v4), find(ip, v6)) {
        (Some(bytes), _) => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        (None, bytes) => <[u8; 16]>::try_from(bytes?).ok().map(IpAddr::from),
    };
    let port = |kind| find(transport, kind)?.try_into().ok().map(u16::from_be_bytes);
    let &[protocol] = find(transport, CTA_PROTO_NUM)? else { return None };
    Some((
        Protocol(protocol),
        End { address: address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?, port: port(CTA_PROTO_SRC_PORT) },
        End { address: address(CTA_IP_V4_DST, CTA_IP_V6_DST)?, port: port(CTA_PROTO_DST_PORT) },
    ))
}

fn traffic(bytes: &[u8]) -> Option<Traffic> {
    let number = |kind| find(bytes, kind)?.try_into().ok().map(u64::from_be_bytes);
    Some(Traffic { packets: number(CTA_COUNTERS_PACKETS)?, bytes: number(CTA_COUNTERS_BYTES)? })
}

fn be32(bytes: &[u8]) -> Option<u32> {
    u32_at(bytes, 0).map(u32::from_be)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netlink::NESTED;
    use proptest::prelude::*;

    const CREATE: u16 = NLM_F_CREATE | 0x200;

    fn nested(parts: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        parts.iter().for_each(|(kind, value)| put(&mut bytes, *kind, value));
        bytes
    }

    fn ends(protocol: u8, source: (IpAddr, u16), destination: (IpAddr, u16)) -> Vec<u8> {
        let octets = |address| match address {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        };
        let kinds = if source.0.is_ipv4() { (1, 2) } else { (3, 4) };
        let ip = nested(&[(kinds.0, &octets(source.0)), (kinds.1, &octets(destination.0))]);
        let (from, to) = (source.1.to_be_bytes(), destination.1.to_be_bytes());
        let transport: &[(u16, &[u8])] = match protocol {
            1 | 58 => &[(1, &[protocol]), (4, &[0, 1]), (5, &[8]), (6, &[0])],
            _ => &[(1, &[protocol]), (2, &from), (3, &to)],
        };
        nested(&[(1 | NESTED, &ip), (2 | NESTED, &nested(transport))])
    }

    /// As the kernel tells of a connection from 198.51.100.7 to port 80 of 10.0.0.10, which 10.3.0.5 answers.
    fn told(protocol: u8, mark: u32, status: u32) -> Vec<u8> {
        let (client, host, inner) = ([198, 51, 100, 7].into(), [10, 0, 0, 10].into(), [10, 3, 0, 5].into());
        let count =
            |packets: u64, bytes: u64| nested(&[(1, &packets.to_be_bytes()), (2, &bytes.to_be_bytes())]);
        let parts: &[(u16, &[u8])] = &[
            (1 | NESTED, &ends(protocol, (client, 4711), (host, 80))),
            (2 | NESTED, &ends(protocol, (inner, 8080), (client, 4711))),
            (3, &status.to_be_bytes()),
            (8, &mark.to_be_bytes()),
            (9 | NESTED, &count(3, 180)),
            (10 | NESTED, &count(2, 120)),
        ];
        [vec![2, 0, 0, 0], nested(parts)].concat()
    }

    #[test]
    fn a_connection_is_read() {
        let Some(Event::Ended(connection)) = event(CT_DELETE, 0, &told(6, 0x1002, 0xe)) else { panic!() };
        let Connection { mark, protocol, source, destination, answering, sent, answered } = connection;
        assert_eq!((mark, protocol.to_string().as_str()), (0x1002, "tcp"));
        let ends = [source, destination, answering].map(|end| end.to_string());
        assert_eq!(ends, ["198.51.100.7:4711", "10.0.0.10:80", "10.3.0.5:8080"]);
        assert_eq!(sent, Some(Traffic { packets: 3, bytes: 180 }));
        assert_eq!(answered, Some(Traffic { packets: 2, bytes: 120 }));
    }

    #[test]
    fn an_echo_has_no_ports() {
        let Some(Event::Taken(connection)) = event(CT_NEW, CREATE, &told(1, 2, 0)) else { panic!() };
        assert_eq!(
            (connection.destination.to_string().as_str(), connection.source.port),
            ("10.0.0.10", None)
        );
    }

    #[test]
    fn an_end_of_ipv6_is_read() {
        let (a, b) =
            (IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 2]));
        let (protocol, source, destination) = tuple(&ends(17, (a, 53), (b, 5353))).unwrap();
        let text = format!("{protocol:4}|{source}|{destination}");
        assert_eq!(text, "udp |[fd00::1]:53|[fd00::2]:5353");
    }

    /// Only the first change of a connection that has its mark by then tells of something.
    #[test]
    fn what_is_told_of_once() {
        let taken = |flags, mark, status| event(CT_NEW, flags, &told(6, mark, status)).is_some();
        assert!(taken(CREATE, 2, 0) && taken(CREATE, 2, SEEN_REPLY));
        assert!(taken(0, 2, 0) && !taken(0, 2, SEEN_REPLY));
        assert!(!taken(CREATE, 0, 0) && event(CT_DELETE, 0, &told(6, 0, 0)).is_none());
        assert_eq!(event(CT_GET, CREATE, &told(6, 2, 0)), None);
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(
            at in 0..200_usize, change in proptest::collection::vec(any::<u8>(), 0..16), length in 0..300_usize
        ) {
            let mut bytes = told(6, 2, 0);
            bytes.iter_mut().skip(at).zip(change).for_each(|(byte, new)| *byte = new);
            bytes.truncate(length);
            for kind in [CT_NEW, CT_DELETE] {
                let _ = event(kind, 0, &bytes);
            }
        }

        #[test]
        fn no_bytes_at_all_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (event(CT_NEW, CREATE, &bytes), tuple(&bytes), traffic(&bytes));
        }
    }
}
