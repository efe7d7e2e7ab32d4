//! What a guard listens to: the kernel's news of links, addresses, routes, rules and neighbours, of nftables, and of our
//! settings; and signals.

use super::Error;
use super::events::{NEIGHBOURS, subscribe};
use super::lookup::{CONNECTED, RTA_DST, is_on_link};
use super::neighbours::{NDA_DST, NDA_LLADDR, RTM_NEWNEIGH};
use super::netlink::{find, split, text, u32_at};
use super::ruleset::SUBSYSTEM;
use super::signals::{Signal, Signals};
use super::ways::{
    FRA_PROTOCOL, RTA_TABLE, RTM_DELROUTE, RTM_DELRULE, RTM_NEWLINK, RTM_NEWROUTE, RTM_NEWRULE,
};
use crate::plan::nft::TABLE;
use crate::plan::ways::PROTOCOL;
use crate::policy::Policy;
use core::fmt::{self, Display, Formatter};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, inotify, open};
use rustix::io::{Errno, read};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{RecvFlags, bind, getsockname, recv};
use std::fs;
use std::time::{Duration, Instant};

/// Links, IPv4 addresses, routes and rules, IPv6 addresses, routes and rules (bit n-1 for `RTNLGRP_*`,
/// `linux/rtnetlink.h`).
const ROUTING_GROUPS: u32 = 1 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 18;
/// `NFNLGRP_NFTABLES` (`linux/netfilter/nfnetlink.h`).
const NFTABLES_GROUP: u32 = 1 << 6;

const RTM_DELADDR: u16 = 21;
const RTM_DELNEIGH: u16 = 29;
/// The kernel gives a program's first socket its process number as port, a further one a number above all of these
/// (`netlink_autobind`, net/netlink/af_netlink.c; `PID_MAX_LIMIT`, linux/threads.h). 0 is the kernel itself. Our own
/// changes come by further ones: the first is the one that listens.
const PROCESSES: core::ops::RangeInclusive<u32> = 1..=4 << 20;
/// The end of a batch, and who has sent it (`linux/netfilter/nf_tables.h`).
const NEWGEN: u16 = SUBSYSTEM | 15;
const GEN_PROCESS: u16 = 2;
const GEN_PROGRAM: u16 = 3;

/// What of a policy the news are compared with.
#[derive(Default)]
struct Interest {
    tables: Vec<u32>,
    /// The ports that our routes lead through, by their indexes.
    ports: Vec<u32>,
    /// In network byte order.
    gateways: Vec<Vec<u8>>,
    /// What was last heard of each: port and address, and the MAC.
    neighbours: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Interest {
    fn of(policy: &Policy) -> Interest {
        let gateways4 = policy.paths.iter().filter_map(|path| Some(path.gateway4?.octets().to_vec()));
        let gateways6 = policy.paths.iter().filter_map(|path| Some(path.gateway6?.octets().to_vec()));
        Interest {
            tables: policy.paths.iter().map(|path| path.table).collect(),
            gateways: gateways4.chain(gateways6).collect(),
            ..Interest::default()
        }
    }

    /// Whether a gateway has another MAC than before, or is still silent, and is to be asked again. One that falls silent
    /// keeps its MAC; all else that happens to an entry happens every few seconds.
    fn has_changed(&mut self, neighbour: &[u8]) -> bool {
        // struct ndmsg is 12 bytes.
        let (Some(port), Some(rest)) = (neighbour.get(4..8), neighbour.get(12..)) else { return false };
        let address = find(rest, NDA_DST).unwrap_or_default();
        if !self.gateways.iter().any(|gateway| gateway == address) {
            return false;
        }
        let (place, mac) = ([port, address].concat(), find(rest, NDA_LLADDR).unwrap_or_default().to_vec());
        match self.neighbours.iter_mut().find(|(known, _)| *known == place) {
            Some((_, known)) if mac.is_empty() => known.is_empty(),
            Some((_, known)) => core::mem::replace(known, mac.clone()) != mac,
            None => {
                self.neighbours.push((place, mac));
                true
            }
        }
    }
}

/// What has been heard.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Something has changed that the policy may depend on.
    pub is_relevant: bool,
    /// A port of ours, its addresses or the MAC of a gateway have changed, and with it the kernel itself changes what is
    /// ours ([`super::differences::Cause`]).
    pub is_flap: bool,
    /// Who was the first to change something of ours. What comes after it may be what we have put back.
    pub who: Option<Who>,
}

/// A process that has changed something of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// Its number.
    pub process: u32,
    /// Its program; empty where the kernel does not tell, and the process has ended.
    pub program: String,
}

impl Display for Who {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.program.as_str() {
            "" => write!(f, "process {}", self.process),
            program => write!(f, "{program} (process {})", self.process),
        }
    }
}

/// Sockets that hear of changes. What they hear waits there until it is taken.
pub struct News {
    routing: OwnedFd,
    nftables: OwnedFd,
    /// `None`: nothing is to be listened to, or it can not be.
    settings: Option<OwnedFd>,
    /// The settings that are listened to.
    held: Vec<OwnedFd>,
    signals: Signals,
    interest: Interest,
    /// What is known so far of a batch of nftables.
    batch: Batch,
    buffer: Vec<u8>,
}

impl News {
    /// From now on nothing is missed.
    ///
    /// # Errors
    /// A socket can not be had.
    pub fn listen() -> Result<News, Error> {
        let failed = |what: &'static str| {
            move |error| {
                let remedy =
                    if error == Errno::PERM { "run it with CAP_NET_ADMIN" } else { "see the kernel log" };
                Error::new(format!("{what}: {error}; {remedy}"))
            }
        };
        Ok(News {
            routing: subscribe(None, ROUTING_GROUPS).map_err(failed("routing socket"))?,
            nftables: subscribe(Some(netlink::NETFILTER), NFTABLES_GROUP)
                .map_err(failed("nftables socket"))?,
            settings: None,
            held: Vec::new(),
            signals: Signals::catch().map_err(|e| Error::new(format!("signals: {e}; see the kernel log")))?,
            interest: Interest::default(),
            batch: Batch::default(),
            buffer: vec![0; 16 << 10],
        })
    }

    /// Which ports our routes lead through; in addition to those of before, while some of these may not be known.
    pub fn lead_through(&mut self, ports: &[u32], is_all: bool) {
        if is_all {
            self.interest.ports.clear();
        }
        self.interest.ports.extend(ports);
        self.interest.ports.sort();
        self.interest.ports.dedup();
    }

    /// Whose news these are from now on.
    pub fn attend(&mut self, policy: &Policy) {
        self.interest = Interest { ports: core::mem::take(&mut self.interest.ports), ..Interest::of(policy) };
        let more = if policy.has_auto_macs() { NEIGHBOURS } else { 0 };
        if let Err(error) = resubscribe(&self.routing, ROUTING_GROUPS | more) {
            log::error!("routing socket: {error}; MACs of gateways are not followed");
        }
    }

    /// Listens to these settings from now on: whoever writes to one through the same `/proc` is heard. A setting of a port
    /// that has been made again is another one, so all of it is made anew. What was heard of settings is forgotten.
    pub fn watch_settings(&mut self, names: &[String]) -> Result<(), Error> {
        // First, since each user may have so many only.
        self.settings = None;
        self.held.clear();
        let settings = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK);
        let settings = self.settings.insert(settings.map_err(|error| {
            Error::new(format!(
                "inotify: {error}; raise fs.inotify.max_user_instances; until then settings are looked at only when \
                 something else happens"
            ))
        })?);
        for name in names {
            let path = format!("/proc/sys/{name}");
            // A setting has another inode each time that it is looked up anew, unless somebody has it open
            // (`proc_sys_make_inode`, fs/proc/proc_sysctl.c). One that is not there has nothing to tell.
            self.held.extend(open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()));
            let _ = inotify::add_watch(&*settings, path, inotify::WatchFlags::MODIFY);
        }
        Ok(())
    }

    /// Sleeps until there is something to take, or until then.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn wait(&self, until: Option<Instant>) -> Result<(), Error> {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        // Rounded up: the kernel must not wake it before there is something to do.
        let left = left.map(|left| left + Duration::from_micros(1));
        let left = left.map(|t| Timespec { tv_sec: t.as_secs() as i64, tv_nsec: t.subsec_nanos().into() });
        let sockets = [self.routing.as_fd(), self.nftables.as_fd(), self.signals.as_fd()];
        let mut sockets: Vec<_> = sockets
            .into_iter()
            .chain(self.settings.as_ref().map(OwnedFd::as_fd))
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        match poll(&mut sockets, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(Error::new(format!("waiting for news: {error}; see the kernel log"))),
        }
    }

    /// The next signal.
    pub fn signal(&self) -> Option<Signal> {
        self.signals.next()
    }

    /// Takes all that has been heard so far.
    pub fn take(&mut self) -> Heard {
        let mut heard = Heard::default();
        for is_routing in [true, false] {
            loop {
                let socket = if is_routing { &self.routing } else { &self.nftables };
                match recv(socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                    Ok((length, _)) => {
                        let mut rest = self.buffer.get(..length).unwrap_or_default();
                        while let Some((header, payload, after)) = split(rest) {
                            match is_routing {
                                true => heard.routing(header.kind, header.port, payload, &mut self.interest),
                                false => heard.nftables(header.kind, payload, &mut self.batch),
                            }
                            rest = after;
                        }
                    }
                    // So much that some was lost. What was known from before may not be so any more.
                    Err(Errno::NOBUFS) => {
                        heard.is_relevant = true;
                        self.interest.neighbours.clear();
                        self.batch = Batch::default();
                    }
                    Err(Errno::INTR) => {}
                    Err(_) => break,
                }
            }
        }
        while self.settings.as_ref().is_some_and(|fd| read(fd, &mut self.buffer[..]).is_ok_and(|got| got > 0))
        {
            heard.is_relevant = true;
        }
        heard
    }
}

/// Other groups for a socket that has its address already: what is waiting in it stays.
fn resubscribe(socket: &OwnedFd, groups: u32) -> Result<(), Errno> {
    let own = SocketAddrNetlink::try_from(getsockname(socket)?)?;
    bind(socket, &SocketAddrNetlink::new(own.pid(), groups))
}

/// An nftables batch as it is told of: first what has changed, then who has done it.
#[derive(Default)]
struct Batch {
    is_ours: bool,
}

impl Heard {
    /// With what was heard later.
    pub fn add(&mut self, later: Heard) {
        self.is_relevant |= later.is_relevant;
        self.is_flap |= later.is_flap;
        self.who = self.who.take().or(later.who);
    }

    fn routing(&mut self, kind: u16, port: u32, payload: &[u8], interest: &mut Interest) {
        let (is_relevant, is_flap) = match kind {
            // struct ifinfomsg and struct ifaddrmsg have the index in the same place.
            RTM_NEWLINK..=RTM_DELADDR => {
                (true, u32_at(payload, 4).is_some_and(|port| interest.ports.contains(&port)))
            }
            RTM_NEWROUTE | RTM_DELROUTE => {
                let is_of_ours = is_of_ours(payload, interest);
                if is_of_ours {
                    self.blame(port);
                }
                (is_of_ours || is_near(payload, interest), false)
            }
            RTM_NEWRULE | RTM_DELRULE => {
                // struct fib_rule_hdr is 12 bytes.
                let protocol = payload.get(12..).and_then(|rest| find(rest, FRA_PROTOCOL));
                if kind == RTM_DELRULE && protocol == Some(&[PROTOCOL]) {
                    self.blame(port);
                }
                (true, false)
            }
            RTM_NEWNEIGH | RTM_DELNEIGH => {
                let has_changed = interest.has_changed(payload);
                (has_changed, has_changed)
            }
            _ => (false, false),
        };
        self.is_relevant |= is_relevant;
        self.is_flap |= is_flap;
    }

    fn nftables(&mut self, kind: u16, payload: &[u8], batch: &mut Batch) {
        let rest = payload.get(4..).unwrap_or_default(); // struct nfgenmsg
        if kind != NEWGEN {
            // Every object names its table in its first attribute.
            let is_inet = payload.first() == Some(&(libc::NFPROTO_INET as u8));
            batch.is_ours |= is_inet && find(rest, 1).map(text) == Some(TABLE);
            return;
        }
        if !core::mem::take(&mut batch.is_ours) {
            return;
        }
        self.is_relevant = true;
        let process = find(rest, GEN_PROCESS).and_then(|p| p.try_into().ok()).map(u32::from_be_bytes);
        if let Some(process) = process.filter(|process| *process != std::process::id()) {
            let program = find(rest, GEN_PROGRAM).map(text).unwrap_or_default().into();
            self.who.get_or_insert(Who { process, program });
        }
    }

    /// Remembers whose socket it was, as far as that can be told.
    fn blame(&mut self, port: u32) {
        if PROCESSES.contains(&port) && self.who.is_none() {
            let program = fs::read_to_string(format!("/proc/{port}/comm")).unwrap_or_default();
            self.who = Some(Who { process: port, program: program.trim_end().into() });
        }
    }
}

/// Whether a route is ours or in a table of ours.
fn is_of_ours(route: &[u8], interest: &Interest) -> bool {
    let table = route.get(12..).and_then(|rest| find(rest, RTA_TABLE)).and_then(|table| u32_at(table, 0));
    route.get(5) == Some(&PROTOCOL) || table.is_some_and(|table| interest.tables.contains(&table))
}

/// Whether a route can be the one on which a gateway is found.
fn is_near(route: &[u8], interest: &Interest) -> bool {
    let protocol = route.get(5).copied().unwrap_or(0);
    let destination = route.get(12..).and_then(|rest| find(rest, RTA_DST));
    let is_to_gateway =
        || destination.is_some_and(|to| interest.gateways.iter().any(|gateway| gateway == to));
    CONNECTED.contains(&protocol) || is_on_link(route) || is_to_gateway()
}

#[cfg(test)]
mod tests {
    use super::super::netlink::put;
    use super::*;
    use proptest::prelude::*;

    const INTEREST: fn() -> Interest = || Interest {
        tables: vec![200],
        ports: vec![7],
        gateways: vec![vec![10, 0, 0, 2]],
        neighbours: vec![],
    };
    /// No process has it (`PID_MAX_LIMIT`, linux/threads.h).
    const NOBODY: u32 = 4 << 20;

    fn route(protocol: u8, table: u32, destination: &[u8]) -> Vec<u8> {
        let mut payload = vec![0; 12];
        payload[5] = protocol;
        put(&mut payload, RTA_TABLE, &table.to_ne_bytes());
        put(&mut payload, RTA_DST, destination);
        payload
    }

    fn heard(kind: u16, payload: &[u8]) -> (bool, bool, bool) {
        let mut heard = Heard::default();
        heard.routing(kind, NOBODY, payload, &mut INTEREST());
        (heard.is_relevant, heard.is_flap, heard.who.is_some())
    }

    #[test]
    fn news_of_routes_are_sorted() {
        const BGP: u8 = 186;
        assert_eq!(heard(RTM_DELROUTE, &route(PROTOCOL, 200, &[])), (true, false, true));
        assert_eq!(heard(RTM_NEWROUTE, &route(BGP, 200, &[192, 0, 2, 0])), (true, false, true));
        assert_eq!(heard(RTM_NEWROUTE, &route(BGP, 254, &[192, 0, 2, 0])), (false, false, false));
        assert_eq!(heard(RTM_NEWROUTE, &route(BGP, 254, &[10, 0, 0, 2])), (true, false, false));
        assert_eq!(heard(RTM_NEWROUTE, &route(2, 254, &[10, 0, 0, 0])), (true, false, false));
        let mut by_hand = route(4, 254, &[10, 0, 0, 0]);
        by_hand[6..8].copy_from_slice(&[253, 1]); // scope link, unicast
        assert_eq!(heard(RTM_NEWROUTE, &by_hand), (true, false, false));
        for kind in [RTM_NEWLINK, RTM_DELADDR] {
            assert_eq!(heard(kind, &[0, 0, 0, 0, 7, 0, 0, 0]), (true, true, false));
            assert_eq!(heard(kind, &[0, 0, 0, 0, 8, 0, 0, 0]), (true, false, false));
        }
        let rule = |protocol| {
            let mut payload = vec![0; 12];
            put(&mut payload, FRA_PROTOCOL, &[protocol]);
            payload
        };
        assert_eq!(heard(RTM_DELRULE, &rule(PROTOCOL)), (true, false, true));
        assert_eq!(heard(RTM_DELRULE, &rule(BGP)), (true, false, false));
    }

    #[test]
    fn of_a_neighbour_only_another_mac_is_news() {
        let mut interest = INTEREST();
        let mut is_news = |port: u8, last: u8, mac: &[u8]| {
            let mut payload = vec![0; 12];
            payload[4] = port;
            put(&mut payload, NDA_DST, &[10, 0, 0, last]);
            if !mac.is_empty() {
                put(&mut payload, NDA_LLADDR, mac);
            }
            let mut heard = Heard::default();
            heard.routing(RTM_NEWNEIGH, 0, &payload, &mut interest);
            heard.is_relevant
        };
        let (one, other) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        assert!(is_news(1, 2, &[]) && is_news(1, 2, &[]), "it is awaited");
        assert!(is_news(1, 2, &one) && !is_news(1, 2, &one));
        assert!(!is_news(1, 2, &[]), "it has fallen silent");
        assert!(is_news(2, 2, &other), "it is another port's");
        assert!(!is_news(1, 2, &one) && is_news(1, 2, &other));
        assert!(!is_news(1, 3, &one), "it is no gateway");
    }

    #[test]
    fn a_batch_counts_if_it_touches_our_table() {
        let object = |family: i32, table: &str| {
            let mut payload = vec![family as u8, 0, 0, 0];
            put(&mut payload, 1, format!("{table}\0").as_bytes());
            payload
        };
        let end = |process: u32| {
            let mut payload = vec![0; 4];
            put(&mut payload, GEN_PROCESS, &process.to_be_bytes());
            put(&mut payload, GEN_PROGRAM, b"nft\0");
            payload
        };
        let who = Some(Who { process: NOBODY, program: "nft".into() });
        for (object, process, expected) in [
            (object(libc::NFPROTO_INET, TABLE), NOBODY, (true, who)),
            (object(libc::NFPROTO_INET, TABLE), std::process::id(), (true, None)),
            (object(libc::NFPROTO_IPV4, TABLE), NOBODY, (false, None)),
            (object(libc::NFPROTO_INET, "filter"), NOBODY, (false, None)),
        ] {
            let (mut heard, mut batch) = (Heard::default(), Batch::default());
            heard.nftables(SUBSYSTEM, &object, &mut batch);
            heard.nftables(NEWGEN, &end(process), &mut batch);
            assert_eq!((heard.is_relevant, heard.who), expected);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(kind in 0..40_u16, payload in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut heard = Heard::default();
            heard.routing(kind, 0, &payload, &mut INTEREST());
            heard.nftables(SUBSYSTEM | kind, &payload, &mut Batch::default());
        }
    }
}
