//! Statements of a rule as the expressions that the kernel runs: the same that `nft` makes of the same text
//! (`nft --debug=netlink` shows them).

use crate::plan::nft::{Direction, Key, State, Statement};
use crate::plan::ways::Family;
use core::cell::Cell;
use core::ffi::CStr;
use core::net::IpAddr;
use core::ptr::NonNull;
use nftnl::expr::Expression;
use nftnl::nftnl_sys as sys;
use std::ffi::CString;

/// One expression, as libnftnl has it. (`libnftnl/expr.h` has the numbers of attributes.)
pub struct Expr(Cell<Option<NonNull<sys::nftnl_expr>>>);

impl Expression for Expr {
    /// Hands it to the rule that asks, which frees it.
    fn to_expr(&self, _: &nftnl::Rule) -> NonNull<sys::nftnl_expr> {
        self.0.take().expect("an expression is of one rule")
    }
}

impl Drop for Expr {
    fn drop(&mut self) {
        if let Some(expr) = self.0.take() {
            // SAFETY: no rule has taken it, so it is still ours alone.
            unsafe { sys::nftnl_expr_free(expr.as_ptr()) };
        }
    }
}

impl Expr {
    fn new(kind: &CStr) -> Expr {
        // SAFETY: the kind is a NUL-terminated string. libnftnl allocates; null means an unknown kind or no memory.
        let expr = NonNull::new(unsafe { sys::nftnl_expr_alloc(kind.as_ptr()) });
        Expr(Cell::new(Some(expr.expect("libnftnl knows our kinds, and small allocations do not fail"))))
    }

    /// With an attribute. libnftnl copies the value, whose length is that which the attribute has.
    fn with(self, number: u32, value: &[u8]) -> Expr {
        if let Some(expr) = self.0.get() {
            let (data, length) = (value.as_ptr().cast(), value.len() as u32);
            // SAFETY: the expression is ours and alive, and `data` are `length` readable bytes during the call.
            unsafe { sys::nftnl_expr_set(expr.as_ptr(), number as u16, data, length) };
        }
        self
    }

    fn number(self, number: u32, value: u32) -> Expr {
        self.with(number, &value.to_ne_bytes())
    }

    fn text(self, number: u32, value: &str) -> Expr {
        let value = CString::new(value).unwrap_or_default(); // names have no NUL
        self.with(number, value.as_bytes_with_nul())
    }
}

const REGISTER_1: u32 = libc::NFT_REG_1 as u32;
const REGISTER_2: u32 = libc::NFT_REG_2 as u32;
const VERDICT: u32 = libc::NFT_REG_VERDICT as u32;
// linux/netfilter/nf_tables.h, enum nft_ct_keys; libc ends before these.
const CT_DST_IP: u32 = 20;
const CT_DST_IP6: u32 = 22;
// linux/netfilter/nf_conntrack_common.h, as net/netfilter/nft_ct.c numbers them.
const STATE_ESTABLISHED: u32 = 2;
const STATE_RELATED: u32 = 4;
const STATE_NEW: u32 = 8;
const STATUS_EXPECTED: u32 = 1;
const STATUS_ASSURED: u32 = 4;
const ARPHRD_ETHER: u16 = 1;
const RTN_LOCAL: u32 = 2;
// linux/netfilter/nf_tables.h, enum nft_fib_result and nft_fib_flags.
const FIB_RESULT_OIF: u32 = 1;
const FIB_RESULT_ADDRTYPE: u32 = 3;
const FIB_F_SADDR: u32 = 1;
const FIB_F_DADDR: u32 = 2;
const FIB_F_IIF: u32 = 8;
const FIB_F_PRESENT: u32 = 32;

// linux/netfilter/nf_tables.h, enum nft_rt_keys, and the kind of a named object.
const RT_NEXTHOP4: u32 = 1;
const RT_NEXTHOP6: u32 = 2;
pub const OBJECT_COUNTER: u32 = 1;

/// The expressions of a statement.
pub fn expressions(statement: &Statement) -> Vec<Expr> {
    let ct = libc::NFT_CT_MARK as u32;
    match statement {
        Statement::CtMarkSet(mask) => {
            vec![load_ct(ct), and(*mask), compare(libc::NFT_CMP_NEQ, &0_u32.to_ne_bytes())]
        }
        Statement::MetaMarkSet(mask) => {
            vec![
                load_meta(libc::NFT_META_MARK, REGISTER_1),
                and(*mask),
                compare(libc::NFT_CMP_NEQ, &0_u32.to_ne_bytes()),
            ]
        }
        Statement::MetaMarkClear(mask) => {
            vec![
                load_meta(libc::NFT_META_MARK, REGISTER_1),
                and(*mask),
                compare(libc::NFT_CMP_EQ, &0_u32.to_ne_bytes()),
            ]
        }
        Statement::CtState(State::New) => has_bits(libc::NFT_CT_STATE, STATE_NEW),
        Statement::CtState(State::Own) => has_bits(libc::NFT_CT_STATE, STATE_NEW | STATE_ESTABLISHED),
        Statement::CtState(State::Related) => has_bits(libc::NFT_CT_STATE, STATE_RELATED),
        Statement::CtExpected => has_bits(libc::NFT_CT_STATUS, STATUS_EXPECTED),
        Statement::CtUnassured => {
            let is_clear = compare(libc::NFT_CMP_EQ, &0_u32.to_ne_bytes());
            vec![load_ct(libc::NFT_CT_STATUS as u32), and(STATUS_ASSURED), is_clear]
        }
        Statement::CtDirection(direction) => {
            let direction = match direction {
                Direction::Original => 0,
                Direction::Reply => 1,
            };
            vec![load_ct(libc::NFT_CT_DIRECTION as u32), compare(libc::NFT_CMP_EQ, &[direction])]
        }
        Statement::CtLabel(bit) => {
            vec![
                load_ct(libc::NFT_CT_LABELS as u32),
                bitwise(&label(*bit), &[0; 16]),
                compare(libc::NFT_CMP_NEQ, &[0; 16]),
            ]
        }
        Statement::L4Proto(protocol) => {
            vec![load_meta(libc::NFT_META_L4PROTO, REGISTER_1), compare(libc::NFT_CMP_EQ, &[*protocol])]
        }
        Statement::NfProto(family) => is_family(*family),
        Statement::FibLocal(is) => {
            let operator = if *is { libc::NFT_CMP_EQ } else { libc::NFT_CMP_NEQ };
            vec![fib(FIB_RESULT_ADDRTYPE, FIB_F_DADDR), compare(operator, &RTN_LOCAL.to_ne_bytes())]
        }
        Statement::ArrivedBy(port) => {
            vec![load_meta(libc::NFT_META_IIFNAME, REGISTER_1), compare(libc::NFT_CMP_EQ, &port_key(port))]
        }
        Statement::LeavesBy(port) => {
            vec![load_meta(libc::NFT_META_OIFNAME, REGISTER_1), compare(libc::NFT_CMP_EQ, &port_key(port))]
        }
        // Of a packet of the other family the kernel has no such next hop: the rule ends there.
        Statement::NextHop(IpAddr::V4(address)) => {
            vec![next_hop(RT_NEXTHOP4), compare(libc::NFT_CMP_EQ, &address.octets())]
        }
        Statement::NextHop(IpAddr::V6(address)) => {
            vec![next_hop(RT_NEXTHOP6), compare(libc::NFT_CMP_EQ, &address.octets())]
        }
        Statement::SourceElsewhere => {
            vec![
                fib(FIB_RESULT_OIF, FIB_F_SADDR | FIB_F_IIF | FIB_F_PRESENT),
                compare(libc::NFT_CMP_EQ, &[0; 4]), // the whole register, as nft does
            ]
        }
        Statement::CtServiceIn(set) => {
            vec![load_ct_original(libc::NFT_CT_PROTO_DST as u32), lookup(set, false)]
        }
        Statement::SourceIn(family, set) => {
            let (offset, length) = match family {
                Family::V4 => (12, 4),
                Family::V6 => (8, 16),
            };
            let load = load_payload(libc::NFT_PAYLOAD_NETWORK_HEADER, offset, length, REGISTER_1);
            is_family(*family).into_iter().chain([load, lookup(set, false)]).collect()
        }
        Statement::CtDestinationNotIn(family, set) => {
            let key = match family {
                Family::V4 => CT_DST_IP,
                Family::V6 => CT_DST_IP6,
            };
            vec![load_ct_original(key), lookup(set, true)]
        }
        Statement::Dispatch(key, map) => key_of(*key).into_iter().chain([dispatch(map)]).collect(),
        Statement::SetCtMark { mask, mark } => vec![
            load_ct(ct),
            bitwise(&(!mask).to_ne_bytes(), &mark.to_ne_bytes()),
            Expr::new(c"ct").number(sys::NFTNL_EXPR_CT_KEY, ct).number(sys::NFTNL_EXPR_CT_SREG, REGISTER_1),
        ],
        Statement::SetMetaMark { mask, mark } => vec![
            load_meta(libc::NFT_META_MARK, REGISTER_1),
            bitwise(&(!mask).to_ne_bytes(), &mark.to_ne_bytes()),
            Expr::new(c"meta")
                .number(sys::NFTNL_EXPR_META_KEY, libc::NFT_META_MARK as u32)
                .number(sys::NFTNL_EXPR_META_SREG, REGISTER_1),
        ],
        Statement::SetCtLabel(bit) => {
            let key = libc::NFT_CT_LABELS as u32;
            vec![
                Expr::new(c"immediate")
                    .number(sys::NFTNL_EXPR_IMM_DREG, REGISTER_1)
                    .with(sys::NFTNL_EXPR_IMM_DATA, &label(*bit)),
                Expr::new(c"ct")
                    .number(sys::NFTNL_EXPR_CT_KEY, key)
                    .number(sys::NFTNL_EXPR_CT_SREG, REGISTER_1),
            ]
        }
        Statement::Count(counter) => vec![
            Expr::new(c"objref")
                .number(sys::NFTNL_EXPR_OBJREF_IMM_TYPE, OBJECT_COUNTER)
                .text(sys::NFTNL_EXPR_OBJREF_IMM_NAME, counter),
        ],
        Statement::Limit => vec![
            Expr::new(c"limit")
                .with(sys::NFTNL_EXPR_LIMIT_RATE, &10_u64.to_ne_bytes())
                .with(sys::NFTNL_EXPR_LIMIT_UNIT, &60_u64.to_ne_bytes())
                .number(sys::NFTNL_EXPR_LIMIT_BURST, 5)
                .number(sys::NFTNL_EXPR_LIMIT_TYPE, 0)
                .number(sys::NFTNL_EXPR_LIMIT_FLAGS, 0),
        ],
        Statement::Log(prefix) => {
            vec![Expr::new(c"log").text(sys::NFTNL_EXPR_LOG_PREFIX, prefix)]
        }
        Statement::Accept => vec![verdict(libc::NF_ACCEPT, None)],
        Statement::Drop => vec![verdict(libc::NF_DROP, None)],
        Statement::Return | Statement::Remember(_) => vec![verdict(libc::NFT_RETURN, None)],
        Statement::Goto(chain) => vec![verdict(libc::NFT_GOTO, Some(chain))],
        Statement::Jump(chain) => vec![verdict(libc::NFT_JUMP, Some(chain))],
    }
}

/// The key of a map, in register 1 and those that follow.
fn key_of(key: Key) -> Vec<Expr> {
    // Only an Ethernet header has source addresses at this place.
    let is_ethernet = || {
        [
            load_meta(libc::NFT_META_IIFTYPE, REGISTER_1),
            compare(libc::NFT_CMP_EQ, &ARPHRD_ETHER.to_ne_bytes()),
        ]
    };
    let source_mac = |register| load_payload(libc::NFT_PAYLOAD_LL_HEADER, 6, 6, register);
    let port = load_meta(libc::NFT_META_IIFNAME, REGISTER_1);
    match key {
        Key::PortAndMac => is_ethernet().into_iter().chain([port, source_mac(REGISTER_2)]).collect(),
        Key::Mac => is_ethernet().into_iter().chain([source_mac(REGISTER_1)]).collect(),
        Key::Port => vec![port],
        Key::MetaMark(mask) => vec![load_meta(libc::NFT_META_MARK, REGISTER_1), and(mask)],
        Key::CtMark(mask) => vec![load_ct(libc::NFT_CT_MARK as u32), and(mask)],
    }
}

fn load_ct(key: u32) -> Expr {
    Expr::new(c"ct").number(sys::NFTNL_EXPR_CT_KEY, key).number(sys::NFTNL_EXPR_CT_DREG, REGISTER_1)
}

fn load_ct_original(key: u32) -> Expr {
    Expr::new(c"ct")
        .number(sys::NFTNL_EXPR_CT_KEY, key)
        .number(sys::NFTNL_EXPR_CT_DREG, REGISTER_1)
        .with(sys::NFTNL_EXPR_CT_DIR, &[0])
}

fn load_meta(key: i32, register: u32) -> Expr {
    Expr::new(c"meta")
        .number(sys::NFTNL_EXPR_META_KEY, key as u32)
        .number(sys::NFTNL_EXPR_META_DREG, register)
}

fn load_payload(base: i32, offset: u32, length: u32, register: u32) -> Expr {
    Expr::new(c"payload")
        .number(sys::NFTNL_EXPR_PAYLOAD_DREG, register)
        .number(sys::NFTNL_EXPR_PAYLOAD_BASE, base as u32)
        .number(sys::NFTNL_EXPR_PAYLOAD_OFFSET, offset)
        .number(sys::NFTNL_EXPR_PAYLOAD_LEN, length)
}

fn fib(result: u32, flags: u32) -> Expr {
    Expr::new(c"fib")
        .number(sys::NFTNL_EXPR_FIB_DREG, REGISTER_1)
        .number(sys::NFTNL_EXPR_FIB_RESULT, result)
        .number(sys::NFTNL_EXPR_FIB_FLAGS, flags)
}

fn next_hop(key: u32) -> Expr {
    Expr::new(c"rt").number(sys::NFTNL_EXPR_RT_KEY, key).number(sys::NFTNL_EXPR_RT_DREG, REGISTER_1)
}

fn is_family(family: Family) -> Vec<Expr> {
    let number = match family {
        Family::V4 => libc::NFPROTO_IPV4,
        Family::V6 => libc::NFPROTO_IPV6,
    };
    vec![load_meta(libc::NFT_META_NFPROTO, REGISTER_1), compare(libc::NFT_CMP_EQ, &[number as u8])]
}

fn has_bits(key: i32, bits: u32) -> Vec<Expr> {
    vec![load_ct(key as u32), and(bits), compare(libc::NFT_CMP_NEQ, &0_u32.to_ne_bytes())]
}

fn and(mask: u32) -> Expr {
    bitwise(&mask.to_ne_bytes(), &[0; 4])
}

fn bitwise(mask: &[u8], xor: &[u8]) -> Expr {
    Expr::new(c"bitwise")
        .number(sys::NFTNL_EXPR_BITWISE_SREG, REGISTER_1)
        .number(sys::NFTNL_EXPR_BITWISE_DREG, REGISTER_1)
        .number(sys::NFTNL_EXPR_BITWISE_LEN, mask.len() as u32)
        .with(sys::NFTNL_EXPR_BITWISE_MASK, mask)
        .with(sys::NFTNL_EXPR_BITWISE_XOR, xor)
}

fn compare(operator: i32, data: &[u8]) -> Expr {
    Expr::new(c"cmp")
        .number(sys::NFTNL_EXPR_CMP_SREG, REGISTER_1)
        .number(sys::NFTNL_EXPR_CMP_OP, operator as u32)
        .with(sys::NFTNL_EXPR_CMP_DATA, data)
}

fn lookup(set: &str, is_not: bool) -> Expr {
    let flags = if is_not { libc::NFT_LOOKUP_F_INV as u32 } else { 0 };
    Expr::new(c"lookup")
        .number(sys::NFTNL_EXPR_LOOKUP_SREG, REGISTER_1)
        .text(sys::NFTNL_EXPR_LOOKUP_SET, set)
        .number(sys::NFTNL_EXPR_LOOKUP_FLAGS, flags)
}

fn dispatch(map: &str) -> Expr {
    Expr::new(c"lookup")
        .number(sys::NFTNL_EXPR_LOOKUP_SREG, REGISTER_1)
        .number(sys::NFTNL_EXPR_LOOKUP_DREG, VERDICT)
        .text(sys::NFTNL_EXPR_LOOKUP_SET, map)
}

fn verdict(code: i32, chain: Option<&String>) -> Expr {
    let verdict = Expr::new(c"immediate")
        .number(sys::NFTNL_EXPR_IMM_DREG, VERDICT)
        .number(sys::NFTNL_EXPR_IMM_VERDICT, code as u32);
    match chain {
        Some(chain) => verdict.text(sys::NFTNL_EXPR_IMM_CHAIN, chain),
        None => verdict,
    }
}

/// A conntrack label: 128 bits, as the kernel keeps them in its `unsigned long`s.
fn label(bit: u8) -> [u8; 16] {
    let mut bytes = [0; 16];
    let at = usize::from(bit) / 64 * 8;
    bytes[at..at + 8].copy_from_slice(&(1_u64 << (bit % 64)).to_ne_bytes());
    bytes
}

/// A port's name as the kernel compares it: 16 bytes, filled with NUL (`IFNAMSIZ`).
pub fn port_key(port: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(port.bytes().take(15)).for_each(|(to, from)| *to = from);
    bytes
}
