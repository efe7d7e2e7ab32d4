//! The words of the contract: how each value of a policy is written, in TOML, on the command line and in messages.

use super::{Mac, Network, PortRange, Scope, Service, WhenDown};
use core::fmt::{self, Display, Formatter};
use core::net::IpAddr;
use core::str::FromStr;

/// Text that is not the value it should be; displays as the reason and the remedy, to be put after the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub(super) &'static str);

impl Display for Malformed {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl core::error::Error for Malformed {}

/// A number of digits alone: `str::parse` would let a sign pass.
fn digits<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

impl Display for Mac {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let parse = || {
            let mut bytes = [0; 6];
            let mut pairs = text.split(':');
            for byte in &mut bytes {
                let pair = pairs.next()?;
                if pair.len() != 2 || !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                    return None;
                }
                *byte = u8::from_str_radix(pair, 16).ok()?;
            }
            pairs.next().is_none().then_some(Self(bytes))
        };
        parse()
            .ok_or(Malformed("is not a MAC address; write six pairs of hex digits, as in 52:54:00:c2:a5:43"))
    }
}

impl Display for Network {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Network {
    type Err = Malformed;

    /// The prefix length may be too long for the family and host bits may be set: [`super::Policy::check`] tells.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            Some(Self { address: address.parse::<IpAddr>().ok()?, prefix: digits(prefix)? })
        };
        parse().ok_or(Malformed(
            "is not a network; write an address and a prefix length, as in 10.0.0.0/24 or fd00::/64",
        ))
    }
}

impl Display for Service {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let (protocol, ports) = match self {
            Self::Icmp => return f.write_str("icmp"),
            Self::Tcp(ports) => ("tcp", ports),
            Self::Udp(ports) => ("udp", ports),
            Self::Sctp(ports) => ("sctp", ports),
        };
        f.write_str(protocol)?;
        match *ports {
            PortRange::ALL => Ok(()),
            PortRange { first, last } if first == last => write!(f, "/{first}"),
            PortRange { first, last } => write!(f, "/{first}-{last}"),
        }
    }
}

impl FromStr for Service {
    type Err = Malformed;

    /// The range may be empty or begin with port 0: [`super::Policy::check`] tells.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let parse = || {
            let (protocol, ports) = match text.split_once('/') {
                None if text == "icmp" => return Some(Self::Icmp),
                None => (text, PortRange::ALL),
                Some((protocol, ports)) => {
                    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
                    let (first, last) = (digits(first)?, digits(last)?);
                    (protocol, PortRange { first, last })
                }
            };
            match protocol {
                "tcp" => Some(Self::Tcp(ports)),
                "udp" => Some(Self::Udp(ports)),
                "sctp" => Some(Self::Sctp(ports)),
                _ => None,
            }
        };
        parse().ok_or(Malformed(
            "is not a service; write tcp, udp or sctp, alone or with ports 1-65535 as in tcp/80 and udp/5000-5100, or icmp",
        ))
    }
}

impl Display for Scope {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Forward => "forward",
            Self::Both => "both",
        })
    }
}

impl FromStr for Scope {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        match text {
            "local" => Ok(Self::Local),
            "forward" => Ok(Self::Forward),
            "both" => Ok(Self::Both),
            _ => Err(Malformed("is not a scope; write local, forward or both")),
        }
    }
}

impl Display for WhenDown {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "unreachable",
            Self::Main => "main",
        })
    }
}

impl FromStr for WhenDown {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        match text {
            "unreachable" => Ok(Self::Unreachable),
            "main" => Ok(Self::Main),
            _ => Err(Malformed("is neither of its two words; write unreachable or main")),
        }
    }
}
