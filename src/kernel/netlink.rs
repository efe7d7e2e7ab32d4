//! Netlink: one socket, messages as bytes, answers read to their end (`man 7 netlink`).

pub use super::attributes::{
    NESTED, attributes, find, flagged_attributes, nest, put, put_text, text, u16_at, u32_at,
};
use core::ops::Range;
use core::ptr::null_mut;
use std::io;
use std::os::fd::AsRawFd;

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLMSGERR_ATTR_OFFS: u16 = 2;
/// Bytes of the largest datagram that the kernel makes of its own accord (`netlink_dump`, net/netlink/af_netlink.c).
const DATAGRAM: usize = 32 << 10;
/// Datagrams that are received in one call: a dump has its end in one of its own.
const AT_ONCE: usize = 2;
/// Bytes that go out without a question for more room (`net.core.wmem_default` is 212,992, and each message takes more).
const SMALL: usize = 64 << 10;
/// Changes that are sent in one call: the kernel has room for as many refusals.
const TOGETHER: usize = 64;

/// A netlink message without its header.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Message {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`, beside those that the transport sets itself.
    pub flags: u16,
    /// The family's own header and the attributes.
    pub payload: Vec<u8>,
}

impl Message {
    /// A message that libnftnl has written, header and all, into a buffer.
    pub fn from_written(bytes: &[u8]) -> Message {
        match split(bytes) {
            Some((header, payload, _)) => {
                Message { kind: header.kind, flags: header.flags & !NLM_F_ACK, payload: payload.into() }
            }
            None => Message { kind: 0, flags: 0, payload: Vec::new() }, // the kernel refuses it
        }
    }
}

/// What the kernel, or the way to it, answered.
#[derive(Debug)]
pub struct Refusal {
    /// The error number.
    pub errno: i32,
    /// The kernel's own words (extended ACK); empty where it gave none.
    pub words: String,
    /// The message of a batch that was refused, counted from 0.
    pub index: usize,
    /// The attribute that was refused, counted in bytes from where the message's payload begins.
    pub offset: Option<usize>,
    /// The message went out and its answer did not come in: the kernel may have done what it said.
    pub is_lost: bool,
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal {
            errno: error.raw_os_error().unwrap_or(libc::EIO),
            words: String::new(),
            index: 0,
            offset: None,
            is_lost: false,
        }
    }
}

impl Refusal {
    /// The same once more, for another message.
    fn again(&self) -> Refusal {
        Refusal { words: self.words.clone(), ..*self }
    }
}

impl core::fmt::Display for Refusal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let reason = io::Error::from_raw_os_error(self.errno);
        match self.words.as_str() {
            "" => write!(f, "{reason}"),
            words => write!(f, "{reason}: {words}"),
        }
    }
}

/// A netlink socket that waits for every answer.
pub struct Socket {
    inner: mnl::Socket,
    sequence: u32,
    /// Room for [`AT_ONCE`] datagrams. What is not used of it takes no memory.
    buffer: Vec<u8>,
    /// Those that were received last, and the ones that nobody has looked at yet.
    lengths: [usize; AT_ONCE],
    unread: Range<usize>,
}

impl Socket {
    /// Opens a socket: `Bus::Route` or `Bus::Netfilter`.
    pub fn open(bus: mnl::Bus) -> io::Result<Socket> {
        let inner = mnl::Socket::new(bus)?;
        let buffer = vec![0; AT_ONCE * DATAGRAM];
        let socket = Socket { inner, sequence: 1, buffer, lengths: [0; AT_ONCE], unread: 0..0 };
        // The kernel's own words for a refusal, and dumps that take a filter; and no large message quoted with one: all of
        // them are optional comforts.
        let _ = socket.option(libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, &1_i32);
        let _ = match bus {
            mnl::Bus::Route => socket.option(libc::SOL_NETLINK, libc::NETLINK_GET_STRICT_CHK, &1_i32),
            _ => socket.option(libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, &1_i32),
        };
        // An answer that does not come must not hang the boot.
        socket.option(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &libc::timeval { tv_sec: 10, tv_usec: 0 })?;
        Ok(socket)
    }

    fn option<T>(&self, level: i32, name: i32, value: &T) -> io::Result<()> {
        let size = size_of::<T>() as libc::socklen_t;
        // SAFETY: the descriptor is open while `self` lives, and `value` is `size` readable bytes during the call.
        let done = unsafe {
            libc::setsockopt(self.inner.as_raw_fd(), level, name, (&raw const *value).cast(), size)
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Sends a message that changes something, and waits for the kernel's word.
    pub fn change(&mut self, message: &Message) -> Result<(), Refusal> {
        self.change_all(core::slice::from_ref(message)).pop().unwrap_or(Ok(()))
    }

    /// Sends messages that change something, many at a time, and waits for the kernel's word on each: it goes on where it
    /// refuses one. Returns as many results.
    pub fn change_all(&mut self, messages: &[Message]) -> Vec<Result<(), Refusal>> {
        messages.chunks(TOGETHER).flat_map(|some| self.change_some(some)).collect()
    }

    fn change_some(&mut self, messages: &[Message]) -> Vec<Result<(), Refusal>> {
        let mut results: Vec<Result<(), Refusal>> = messages.iter().map(|_| Ok(())).collect();
        self.sequence += 1; // of no message: refusals are counted from the one after it
        let (before, mut bytes) = (self.sequence, Vec::new());
        for (index, message) in messages.iter().enumerate() {
            // What is refused is told in any case, in order: the word on the last one ends it.
            let is_last = index + 1 == messages.len();
            self.frame(&mut bytes, message, if is_last { NLM_F_ACK } else { 0 });
        }
        if let Err(refusal) = self.send(&bytes).map_err(Refusal::from) {
            return messages.iter().map(|_| Err(refusal.again())).collect();
        }
        loop {
            match self.answers(before, self.sequence, &mut |_, _| ()) {
                Ok(_) => return results,
                Err(refusal) if refusal.is_lost => {
                    // What was refused before is refused; of the others nobody knows.
                    let open = results.iter_mut().filter(|result| result.is_ok());
                    open.for_each(|result| *result = Err(refusal.again()));
                    return results;
                }
                Err(refusal) => {
                    let index = refusal.index;
                    if let Some(result) = results.get_mut(index) {
                        *result = Err(Refusal { index: 0, ..refusal });
                    }
                    if index + 1 >= messages.len() {
                        return results;
                    }
                }
            }
        }
    }

    /// Asks for one thing. Such a question is answered by one message or a refusal, so there is no need for more.
    pub fn ask(&mut self, message: &Message) -> Result<Option<Message>, Refusal> {
        self.send_one(message, 0)?;
        let mut found = None;
        self.answers_until(self.sequence, self.sequence, &mut |header, payload| {
            found = Some(header.message(payload));
            true
        })?;
        Ok(found)
    }

    /// Asks for all things of a kind. A dump that the kernel could not keep consistent is asked for again.
    pub fn dump(&mut self, message: &Message) -> Result<Vec<Message>, Refusal> {
        self.dump_as(message, &|kind, payload| Some(Message { kind, flags: 0, payload: payload.to_vec() }))
    }

    /// The same, with each thing as the caller makes it of its kind and payload: only that is kept in memory.
    pub fn dump_as<T>(
        &mut self,
        message: &Message,
        make: &dyn Fn(u16, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Refusal> {
        for _ in 0..10 {
            self.send_one(message, NLM_F_DUMP)?;
            let mut found = Vec::new();
            let mut each = |header: &Header, payload: &[u8]| found.extend(make(header.kind, payload));
            if self.answers(self.sequence, self.sequence, &mut each)? {
                return Ok(found);
            }
        }
        Err(io::Error::from_raw_os_error(libc::EINTR).into())
    }

    /// Asks for all things of a kind, and shows the payload of one after another: of a dump that may be larger than the
    /// memory nothing is kept. What changes meanwhile may be shown twice or not at all.
    pub fn stream(&mut self, message: &Message, mut each: impl FnMut(&[u8])) -> Result<(), Refusal> {
        self.send_one(message, NLM_F_DUMP)?;
        self.answers(self.sequence, self.sequence, &mut |_, payload| each(payload)).map(drop)
    }

    /// Sends an nfnetlink batch: all of it, or nothing.
    pub fn batch(&mut self, messages: &[&Message]) -> Result<(), Refusal> {
        let (begin, last) = self.send_batch(messages, true)?;
        // Since 6.10 begin and end are acknowledged as well; an error for any message ends it.
        self.answers(begin, last, &mut |_, _| ()).map(drop)
    }

    /// Sends an nfnetlink batch without its end, so that nothing is done: the kernel only says which messages it would
    /// refuse (as `nft --check` has it).
    pub fn rehearse(&mut self, messages: &[&Message]) -> Result<Vec<Refusal>, Refusal> {
        let (begin, last) = self.send_batch(messages, false)?;
        let mut refused: Vec<Refusal> = Vec::new();
        loop {
            match self.answers(begin, last, &mut |_, _| ()) {
                Ok(_) => return Ok(refused),
                // They were too many to be told.
                Err(refusal) if refusal.is_lost && !refused.is_empty() => return Ok(refused),
                // Without the first message none of the others makes sense, and the batch as such has its number as well.
                Err(refusal) if refusal.index == 0 || refusal.is_lost => return Err(refusal),
                Err(refusal) => refused.push(refusal),
            }
            if refused.last().is_some_and(|refusal| refusal.index + 1 == messages.len()) {
                return Ok(refused); // the last one, which is not acknowledged any more
            }
        }
    }

    /// Sends a batch; without its end the kernel does nothing of it. Returns the numbers of its first and last message.
    fn send_batch(&mut self, messages: &[&Message], has_end: bool) -> io::Result<(u32, u32)> {
        // linux/netfilter/nfnetlink.h: NFNL_MSG_BATCH_BEGIN, _END; the header's res_id is the subsystem.
        let edge =
            |kind| Message { kind, flags: 0, payload: vec![0, 0, 0, libc::NFNL_SUBSYS_NFTABLES as u8] };
        let size = |message: &&Message| HEADER + message.payload.len().next_multiple_of(4);
        let mut bytes = Vec::with_capacity(messages.iter().map(size).sum::<usize>() + 2 * (HEADER + 4));
        self.frame(&mut bytes, &edge(libc::NFNL_MSG_BATCH_BEGIN as u16), 0);
        let begin = self.sequence;
        for (index, message) in messages.iter().enumerate() {
            let is_last = index + 1 == messages.len();
            self.frame(&mut bytes, message, if is_last { NLM_F_ACK } else { 0 });
        }
        let last = self.sequence;
        if has_end {
            self.frame(&mut bytes, &edge(libc::NFNL_MSG_BATCH_END as u16), 0);
        }
        // The whole batch is one datagram, whatever its size. (Privileged, and a refusal shows in the send.)
        if bytes.len() > SMALL {
            let _ = self.option(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &(bytes.len() as i32 * 2));
        }
        self.send(&bytes)?;
        Ok((begin, last))
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            match self.inner.send(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(sent) if sent == bytes.len() => return Ok(()),
                Ok(_) => return Err(io::Error::from_raw_os_error(libc::EMSGSIZE)),
            }
        }
    }

    fn send_one(&mut self, message: &Message, flags: u16) -> io::Result<()> {
        let mut bytes = Vec::new();
        self.frame(&mut bytes, message, flags);
        self.send(&bytes)
    }

    /// Appends a message with its header, and counts it.
    fn frame(&mut self, bytes: &mut Vec<u8>, message: &Message, flags: u16) {
        self.sequence += 1;
        let length = HEADER + message.payload.len();
        bytes.extend_from_slice(&(length as u32).to_ne_bytes());
        bytes.extend_from_slice(&message.kind.to_ne_bytes());
        bytes.extend_from_slice(&(message.flags | flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&message.payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }

    /// Reads the answers to the messages from `first` to `last`, until the latter is acknowledged or one of them is
    /// refused. What is left of earlier ones is passed over. False: the dump was inconsistent.
    fn answers(
        &mut self,
        first: u32,
        last: u32,
        each: &mut dyn FnMut(&Header, &[u8]),
    ) -> Result<bool, Refusal> {
        self.answers_until(first, last, &mut |header, payload| {
            each(header, payload);
            false
        })
    }

    /// The same, until one is enough.
    fn answers_until(
        &mut self,
        first: u32,
        last: u32,
        is_enough: &mut dyn FnMut(&Header, &[u8]) -> bool,
    ) -> Result<bool, Refusal> {
        let mut consistent = true;
        loop {
            let at = match self.unread.next() {
                Some(at) => at,
                None => {
                    self.receive().map_err(|error| Refusal { is_lost: true, ..error.into() })?;
                    continue;
                }
            };
            let mut rest = self.buffer.get(at * DATAGRAM..).unwrap_or_default();
            rest = rest.get(..self.lengths[at]).unwrap_or_default();
            while let Some((header, payload, after)) = split(rest) {
                rest = after;
                if !(first..=last).contains(&header.sequence) {
                    continue;
                }
                consistent &= header.flags & NLM_F_DUMP_INTR == 0;
                match header.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        let refusal = refusal(&header, payload);
                        if refusal.errno != 0 {
                            // In a batch the first message is its beginning, which is not of the caller's list.
                            let index = header.sequence.saturating_sub(first + 1) as usize;
                            return Err(Refusal { index, ..refusal });
                        }
                        if header.sequence == last {
                            return Ok(consistent);
                        }
                    }
                    _ if is_enough(&header, payload) => return Ok(consistent),
                    _ => {}
                }
            }
        }
    }

    /// Waits for a datagram, and takes those that are there with it.
    fn receive(&mut self) -> io::Result<()> {
        // SAFETY: all zeroes is a value of these structs: no address, no room.
        let (mut rooms, mut headers) = unsafe {
            (core::mem::zeroed::<[libc::iovec; AT_ONCE]>(), core::mem::zeroed::<[libc::mmsghdr; AT_ONCE]>())
        };
        let datagrams = self.buffer.chunks_exact_mut(DATAGRAM);
        for ((room, header), datagram) in rooms.iter_mut().zip(&mut headers).zip(datagrams) {
            *room = libc::iovec { iov_base: datagram.as_mut_ptr().cast(), iov_len: DATAGRAM };
            (header.msg_hdr.msg_iov, header.msg_hdr.msg_iovlen) = (room, 1);
        }
        let descriptor = self.inner.as_raw_fd();
        loop {
            let (list, flags) = (headers.as_mut_ptr(), libc::MSG_WAITFORONE);
            // SAFETY: the list has so many headers, each with room for a datagram that is in our buffer; all of them live
            // during the call, and nothing else reads or writes them.
            let count = unsafe { libc::recvmmsg(descriptor, list, AT_ONCE as u32, flags as _, null_mut()) };
            match usize::try_from(count) {
                Ok(count) => {
                    let is_cut = |header: &libc::mmsghdr| header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
                    if headers.iter().take(count).any(is_cut) {
                        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
                    }
                    let lengths = self.lengths.iter_mut().zip(&headers);
                    lengths.for_each(|(length, header)| *length = header.msg_len as usize);
                    self.unread = 0..count;
                    return Ok(());
                }
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(io::Error::last_os_error()),
            }
        }
    }
}

/// A message's header (`struct nlmsghdr`), but for its length.
pub struct Header {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    sequence: u32,
    /// `nlmsg_pid`: in news of a change, the socket that asked for it; 0 where the kernel did it by itself.
    pub port: u32,
}

impl Header {
    fn message(&self, payload: &[u8]) -> Message {
        Message { kind: self.kind, flags: self.flags, payload: payload.to_vec() }
    }
}

/// The next message of a datagram, and what follows it. `None` at the end, and where the rest makes no sense.
pub fn split(bytes: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let length = u32_at(bytes, 0)? as usize;
    let header = Header {
        kind: u16_at(bytes, 4)?,
        flags: u16_at(bytes, 6)?,
        sequence: u32_at(bytes, 8)?,
        port: u32_at(bytes, 12)?,
    };
    let payload = bytes.get(HEADER..length)?;
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    Some((header, payload, after))
}

fn refusal(header: &Header, payload: &[u8]) -> Refusal {
    let errno = u32_at(payload, 0).map_or(libc::EBADMSG, |code| -(code as i32));
    // The offending message follows, whole unless capped; then attributes, if any (linux/netlink.h, struct nlmsgerr).
    let quoted = match (header.kind, header.flags & NLM_F_CAPPED != 0) {
        (NLMSG_DONE, _) => 4,
        (_, true) => 4 + HEADER,
        (_, false) => 4 + u32_at(payload, 4).unwrap_or(0) as usize,
    };
    let tail = payload.get(quoted..).filter(|_| header.flags & NLM_F_ACK_TLVS != 0).unwrap_or(&[]);
    let of = |wanted| attributes(tail).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let words = of(NLMSGERR_ATTR_MSG)
        .map_or(String::new(), |text| String::from_utf8_lossy(text).trim_end_matches('\0').into());
    let offset = of(NLMSGERR_ATTR_OFFS).and_then(|at| u32_at(at, 0)?.checked_sub(HEADER as u32));
    Refusal { errno, words, index: 0, offset: offset.map(|at| at as usize), is_lost: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever comes in, reading it ends, and reads nothing twice.
        #[test]
        fn no_bytes_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200), length in 0..64_u32) {
            let mut bytes = bytes;
            if let Some(head) = bytes.get_mut(..4) {
                head.copy_from_slice(&length.to_ne_bytes()); // else hardly any has a plausible one
            }
            let mut rest = &bytes[..];
            while let Some((header, payload, after)) = split(rest) {
                prop_assert!(after.len() + HEADER <= rest.len());
                prop_assert!(attributes(payload).map(|(_, value)| value.len() + 4).sum::<usize>() <= payload.len());
                let _ = refusal(&header, payload);
                rest = after;
            }
        }

        #[test]
        fn what_is_put_is_found(list in proptest::collection::vec((0..0x3fff_u16, proptest::collection::vec(any::<u8>(), 0..40)), 0..10)) {
            let mut payload = Vec::new();
            list.iter().for_each(|(kind, value)| put(&mut payload, *kind, value));
            let found: Vec<_> = attributes(&payload).map(|(kind, value)| (kind, value.to_vec())).collect();
            prop_assert_eq!(found, list);
        }
    }

    #[test]
    fn the_kernel_is_quoted() {
        let mut payload = (-libc::EINVAL).to_ne_bytes().to_vec();
        payload.extend([0; HEADER]);
        put(&mut payload, NLMSGERR_ATTR_MSG, b"Nexthop has invalid gateway\0");
        let header = Header { kind: NLMSG_ERROR, flags: NLM_F_CAPPED | NLM_F_ACK_TLVS, sequence: 1, port: 0 };
        let refusal = refusal(&header, &payload);
        assert_eq!((refusal.errno, refusal.words.as_str()), (libc::EINVAL, "Nexthop has invalid gateway"));
    }
}
