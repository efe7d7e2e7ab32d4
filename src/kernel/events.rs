//! What the kernel tells by itself: that a port, an address, a route or a neighbour has changed (`man 7 rtnetlink`).

use super::Error;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use std::time::Duration;

/// Links, addresses and routes (`RTMGRP_*`, `linux/rtnetlink.h`). Routes as well, since an address is told of before
/// the route that it brings is there (`__inet_insert_ifa`, `net/ipv4/devinet.c`).
const GROUPS: u32 = 0x1 | 0x10 | 0x100 | 0x40 | 0x400;
/// Neighbours: every host of every link, so only for a policy that takes MACs from them.
pub(super) const NEIGHBOURS: u32 = 0x4;

/// A netlink socket that hears of some groups: of routing, if no protocol is given.
pub(super) fn subscribe(protocol: Option<Protocol>, groups: u32) -> Result<OwnedFd, Errno> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// A socket that hears of changes.
pub struct Changes(OwnedFd);

impl Changes {
    /// From now on nothing is missed: of neighbours, too, where they count.
    pub fn listen(with_neighbours: bool) -> Result<Changes, Error> {
        let groups = if with_neighbours { GROUPS | NEIGHBOURS } else { GROUPS };
        subscribe(None, groups)
            .map(Changes)
            .map_err(|error| Error::new(format!("routing socket: {error}; is CONFIG_NET there?")))
    }

    /// Sleeps until something has changed, or for so long. Whatever else has changed by then is one with it.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<(), Error> {
        let timeout =
            timeout.map(|t| Timespec { tv_sec: t.as_secs() as i64, tv_nsec: t.subsec_nanos().into() });
        match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(lost(error)),
        }
        while self.take()? {}
        Ok(())
    }

    /// Takes one message off the queue; false: there is none. What it says does not matter, so it may be cut short.
    fn take(&self) -> Result<bool, Error> {
        loop {
            match recv(&self.0, &mut [0_u8; 16][..], RecvFlags::DONTWAIT) {
                Ok(_) | Err(Errno::NOBUFS) => return Ok(true), // so many that some were lost
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(error) => return Err(lost(error)),
            }
        }
    }
}

fn lost(error: Errno) -> Error {
    Error::new(format!("routing socket: {error}; see the kernel log"))
}
