//! The nftables table as data: sets, chains, rules, statements. `chains.rs` says which ones there are, `text.rs`
//! how they read, the kernel room how they are sent.

use super::ways::Family;
use crate::policy::{MAX_PATHS, Mac, Name, Network, PortRange};
use core::net::IpAddr;

/// Our table, in the `inet` family.
pub const TABLE: &str = "returnpath";
/// The table's comment, by which we know that it is ours.
pub const OWNER: &str = "managed by returnpath";
/// The chain that remembers sysctl values from before. Nothing leads to it.
pub const SYSCTLS: &str = "sysctls";
/// How the line begins there that says that the policy is on trial.
pub const TRIAL: &str = "unconfirmed ";
/// The chain that says which policy the table is for. Nothing leads to it.
pub const DIGEST: &str = "digest";
/// Room in a map of marks. With a size the kernel takes a hash that costs a third less to ask; it is twice what a
/// policy can have, since an update adds before it takes away.
pub const ROOM: u32 = 2 * MAX_PATHS as u32;
/// The chain that says of which packets for this host foreign mark bits end, lest an answer inherits them.
pub const INHERITED: &str = "inherited";
/// The map from a mark to the chain that sets it.
pub const MARKS: &str = "marks";
/// The map from a connection's mark to the chain that counts what comes in from its router.
pub const INBOUND: &str = "inbound";
/// The map from a connection's mark to the chain that counts what leaves, by its router or by another way.
pub const OUTBOUND: &str = "outbound";
/// The map from a source MAC to the chain of its path.
pub const MACS: &str = "macs";
/// The map from an input port and a source MAC to the chain of their path.
pub const PORTS_AND_MACS: &str = "ports_and_macs";
/// The map from the mark that a socket has to the chain that gives it to the connection.
pub const SOCKETS: &str = "sockets";
/// The setting by which an accepted socket takes the mark of its first packet.
pub const FWMARK_ACCEPT: &str = "net/ipv4/tcp_fwmark_accept";
/// The settings by which a reset, an echo reply or an error takes the mark of the packet that it answers.
pub const FWMARK_REFLECT4: &str = "net/ipv4/fwmark_reflect";
/// The same for IPv6.
pub const FWMARK_REFLECT6: &str = "net/ipv6/fwmark_reflect";
/// Conntrack label: this host is the connection's end that the router talks to.
pub const LABEL_LOCAL: u8 = 82;
/// Conntrack label: opened from inside on behalf of a connection that came in through a router (active FTP
/// data), so its *original* direction is the one that leaves through the router.
pub const LABEL_OUTWARD: u8 = 83;

/// The whole table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    /// Named counters. Rules are replaced on an update, these are not: they count on.
    pub counters: Vec<String>,
    /// Sets and maps.
    pub sets: Vec<Set>,
    /// Chains: those that remember, those that the kernel calls, all others.
    pub chains: Vec<Chain>,
}

/// A named, constant set, or a map to verdicts, which is not constant: it changes while packets look things up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// Its elements, sorted, without overlap.
    pub elements: Elements,
}

/// The elements of a set, by the type of their key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elements {
    /// Ranges of transport ports.
    Services(Vec<PortRange>),
    /// IPv4 or IPv6 networks, all of one family.
    Networks(Family, Vec<Network>),
    /// Input port and source MAC, to the chain of a path.
    PortsAndMacs(Vec<((Name, Mac), String)>),
    /// Source MAC, to the chain of a path.
    Macs(Vec<(Mac, String)>),
    /// Input port, to the chain of a path.
    Ports(Vec<(Name, String)>),
    /// Mark, to the chain that sets it.
    Marks(Vec<(u32, String)>),
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where the kernel calls it; `None` where only other chains do.
    pub base: Option<Base>,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// Where the kernel calls a base chain. The policy is to accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// `type filter hook prerouting`: after DNAT (-100), before routing and its reverse-path check.
    Prerouting,
    /// `type route hook output`, at mangle's place: the kernel routes again where the mark has changed.
    Output,
    /// `type filter hook input`, behind everybody else's: the last look at a packet before a socket gets it.
    Input,
    /// `type filter hook postrouting`, behind everybody else's: what is counted here leaves, and by the route it has.
    Postrouting,
}

impl Base {
    /// The priority in the hook (`linux/netfilter_ipv4.h`).
    pub fn priority(self) -> i32 {
        match self {
            Base::Prerouting => -95,
            Base::Output => -150,
            Base::Input | Base::Postrouting => 1000,
        }
    }
}

/// A rule: all statements in turn, until one does not match.
pub type Rule = Vec<Statement>;

/// One statement of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// `ct mark & MASK != 0`
    CtMarkSet(u32),
    /// `meta mark & MASK != 0`
    MetaMarkSet(u32),
    /// `meta mark & MASK == 0`
    MetaMarkClear(u32),
    /// `ct state …`
    CtState(State),
    /// `ct status expected`: announced by a helper.
    CtExpected,
    /// `ct status ! assured`: its ends have not both answered yet.
    CtUnassured,
    /// `ct direction original` or `reply`
    CtDirection(Direction),
    /// `ct label BIT`
    CtLabel(u8),
    /// `meta l4proto PROTOCOL`
    L4Proto(u8),
    /// `meta nfproto ipv4` or `ipv6`
    NfProto(Family),
    /// `fib daddr type local`, or `!= local`
    FibLocal(bool),
    /// `iifname "PORT"`
    ArrivedBy(String),
    /// `oifname "PORT"`
    LeavesBy(String),
    /// `rt ip nexthop ADDRESS`, or `rt ip6 nexthop`: routed there, and to be asked for once it is routed.
    NextHop(IpAddr),
    /// `fib saddr . iif oif missing`: what the kernel's strict reverse-path filter drops.
    SourceElsewhere,
    /// `ct original proto-dst @SET`: the port before DNAT.
    CtServiceIn(String),
    /// `ip saddr @SET`
    SourceIn(Family, String),
    /// `ct original ip daddr != @SET`: the destination before DNAT.
    CtDestinationNotIn(Family, String),
    /// `… vmap @MAP`: go where the map says.
    Dispatch(Key, String),
    /// `ct mark set ct mark & ~MASK | MARK`
    SetCtMark {
        /// The bits that change.
        mask: u32,
        /// Their new value.
        mark: u32,
    },
    /// `meta mark set meta mark & ~MASK | MARK`
    SetMetaMark {
        /// The bits that change.
        mask: u32,
        /// Their new value.
        mark: u32,
    },
    /// `ct label set BIT`
    SetCtLabel(u8),
    /// `counter name COUNTER`
    Count(String),
    /// `limit rate 10/minute`, with nft's burst of 5.
    Limit,
    /// `log prefix "…"`
    Log(String),
    /// `accept`: done in this hook, as far as this table goes.
    Accept,
    /// `drop`
    Drop,
    /// `return`
    Return,
    /// `return comment "…"`: remembers something.
    Remember(String),
    /// `goto CHAIN`
    Goto(String),
    /// `jump CHAIN`
    Jump(String),
}

/// What a map is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// `iifname . ether saddr`
    PortAndMac,
    /// `ether saddr`
    Mac,
    /// `iifname`
    Port,
    /// `ct mark & MASK`
    CtMark(u32),
    /// `meta mark & MASK`
    MetaMark(u32),
}

/// A connection tracking state (bits of `nf_conntrack_common.h`, as nft sees them).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The first packet of a connection.
    New,
    /// A packet of a connection, be it the first one or not, that no other one announced, and no error about it.
    Own,
    /// The first packet of a connection that another one announced, or an error about one.
    Related,
}

/// A direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Of its first packet.
    Original,
    /// Of the answers.
    Reply,
}
