//! Our nftables table in the kernel: read, replaced, restored.

use super::netlink::{Message, Refusal, Socket, text};
use super::ruleset::{
    DELTABLE, GETCHAIN, GETOBJ, GETRULE, GETSET, GETSETELEM, GETTABLE, NFGENMSG, OBJECT_OWNER, OBJECT_TABLE,
    Ruleset, TABLE_USERDATA, as_made, comment, describe, find, name, naming,
};
use super::update::in_place;
use super::{Error, attributes, refused};
use crate::plan::nft::{OWNER, TABLE};
use std::collections::BTreeSet;

/// Our nftables table in the kernel.
pub struct Nftables {
    pub(super) socket: Socket,
}

impl Nftables {
    /// Opens the socket.
    pub fn open() -> Result<Nftables, Error> {
        let socket = Socket::open(mnl::Bus::Netfilter)
            .map_err(|error| Error::new(format!("nftables socket: {error}; {NEEDS}")))?;
        Ok(Nftables { socket })
    }

    /// Reads our table, empty where there is none.
    pub fn read(&mut self) -> Result<Ruleset, Error> {
        let is_ours = |payload: &[u8]| {
            let table = payload.get(NFGENMSG..).and_then(|rest| attributes::find(rest, OBJECT_TABLE));
            table.map(text) == Some(TABLE)
        };
        let tables = self.dump(GETTABLE, &[])?;
        let Some(table) = tables.iter().find(|m| is_ours(&m.payload)) else {
            return Ok(Ruleset::default());
        };
        if find(table, TABLE_USERDATA).and_then(comment) != Some(OWNER) {
            let line = "table inet returnpath: it is there and not ours (it lacks our comment); rename it, or `nft delete table inet returnpath`";
            return Err(Error::new(line.into()));
        }
        let made = |kind, payload: &[u8]| is_ours(payload).then(|| as_made(kind, payload, 0));
        let counters = self.dump_as(GETOBJ, &[(OBJECT_TABLE, TABLE)], &made)?;
        let sets = self.dump(GETSET, &[(OBJECT_TABLE, TABLE)])?;
        let mut elements = Vec::new();
        for set in &sets {
            let filter = [(OBJECT_TABLE, TABLE), (OBJECT_OWNER, name(set))];
            elements.extend(self.dump_as(GETSETELEM, &filter, &made)?);
        }
        let chains = self.dump_as(GETCHAIN, &[], &made)?;
        let rules = self.dump_as(GETRULE, &[(OBJECT_TABLE, TABLE)], &made)?;
        let sets = sets
            .iter()
            .enumerate()
            .map(|(index, set)| as_made(set.kind, &set.payload, index as u32))
            .collect();
        Ok(Ruleset(
            [vec![as_made(table.kind, &table.payload, 0)], counters, sets, chains, elements, rules]
                .into_iter()
                .flatten()
                .collect(),
        ))
    }

    /// The named objects of our table, with what they have counted; none where there is no table.
    pub fn objects(&mut self) -> Result<Vec<Message>, Error> {
        self.dump(GETOBJ, &[(OBJECT_TABLE, TABLE)])
    }

    fn dump(&mut self, kind: u16, filter: &[(u16, &str)]) -> Result<Vec<Message>, Error> {
        self.dump_as(kind, filter, &|kind, payload| {
            Some(Message { kind, flags: 0, payload: payload.to_vec() })
        })
    }

    fn dump_as(
        &mut self,
        kind: u16,
        filter: &[(u16, &str)],
        make: &dyn Fn(u16, &[u8]) -> Option<Message>,
    ) -> Result<Vec<Message>, Error> {
        self.socket
            .dump_as(&Message { kind, flags: 0, payload: naming(filter) }, make)
            .map_err(|refusal| no("cannot read it", &refusal))
    }

    /// Replaces `from`, which is there, by `to`, in one transaction; but for constant sets, which are made before it and
    /// deleted after it. After a failure it is one of the two with sets that no rule asks. Where all of `from` stays, the rest is added:
    /// deleting costs a grace period of the kernel's.
    pub fn replace(&mut self, from: &Ruleset, to: &Ruleset) -> Result<(), Error> {
        let (before, after): (BTreeSet<&Message>, BTreeSet<&Message>) =
            (from.0.iter().collect(), to.0.iter().collect());
        if before.is_subset(&after) {
            return self.batch(to.0.iter().filter(|message| !before.contains(message)));
        }
        let mut in_turn =
            |batches: [Vec<Message>; 3]| batches.iter().try_for_each(|batch| self.batch(batch.iter()));
        match in_place(from, to).map(&mut in_turn) {
            // Older kernels hold a chain for as long as a map that leads to it is only about to go.
            Some(Err(error)) if error.is_busy => {}
            Some(result) => return result,
            None => {}
        }
        self.make_anew(from, to)
    }

    /// Puts back what was read before: word for word, in its order.
    pub fn restore(&mut self, before: &Ruleset) -> Result<(), Error> {
        let there = self.read()?;
        match there == *before {
            true => Ok(()),
            false => self.make_anew(&there, before),
        }
    }

    fn make_anew(&mut self, from: &Ruleset, to: &Ruleset) -> Result<(), Error> {
        let delete = Message { kind: DELTABLE, flags: 0, payload: naming(&[(OBJECT_TABLE, TABLE)]) };
        let deletion = (!from.is_empty()).then_some(delete);
        self.batch(deletion.iter().chain(&to.0))
    }

    fn batch<'a>(&mut self, messages: impl Iterator<Item = &'a Message>) -> Result<(), Error> {
        let messages: Vec<&Message> = messages.collect();
        if messages.is_empty() {
            return Ok(());
        }
        self.socket.batch(&messages).map_err(|refusal| {
            let message = messages.get(refusal.index);
            let what = message.map_or_else(String::new, |m| describe((m.kind, name(m))));
            no(&what, &refusal)
        })
    }
}

const NEEDS: &str = "the kernel needs CONFIG_NF_TABLES, NF_TABLES_INET, NFT_CT, NFT_FIB_INET, NFT_LOG, NFT_LIMIT, NFT_OBJREF (before 6.2) and NF_CONNTRACK_LABELS";

fn no(what: &str, refusal: &Refusal) -> Error {
    let remedy = match refusal.errno {
        libc::EOPNOTSUPP | libc::ENOENT | libc::EPROTONOSUPPORT | libc::EINVAL => NEEDS,
        libc::ENOBUFS | libc::ENOMEM => "the kernel is short of memory; free some and try again",
        _ => "another program may have changed it at the same time; try again",
    };
    refused(format_args!("nftables: {what}"), refusal, remedy)
}
