//! The connection that is asked about, from the command line.

use crate::exit::{self, Failure};
use crate::policy::{Mac, Name};
use core::net::IpAddr;
use core::str::FromStr;

pub(super) const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
pub(super) const ICMP: u8 = 1;
pub(super) const ICMPV6: u8 = 58;

/// The options that describe the connection; each has a value.
const OPTIONS: [&str; 7] = ["--iif", "--mac", "--src", "--dst", "--dnat", "--proto", "--dport"];

/// A connection, as somebody describes it who has seen its first packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The port that it comes in by.
    pub port: Name,
    /// The source MAC of its frames.
    pub mac: Option<Mac>,
    /// Who opens it.
    pub source: IpAddr,
    /// Whom it is for, as it arrives.
    pub destination: IpAddr,
    /// Whom this host's own DNAT gives it to.
    pub dnat: Option<IpAddr>,
    /// The IP protocol's number.
    pub protocol: u8,
    /// The destination's transport port; `None` for protocols without.
    pub service: Option<u16>,
}

impl Question {
    /// Reads the words of the command line, and returns those that are left: they say where the policy is.
    ///
    /// # Errors
    /// [`exit::USAGE`].
    pub fn parse<'a>(words: &[&'a str]) -> Result<(Question, Vec<&'a str>), Failure> {
        let (mut given, mut rest) = (Vec::new(), Vec::new());
        let mut words = words.iter().copied();
        while let Some(word) = words.next() {
            match word {
                _ if given.iter().any(|(option, _)| *option == word) => {
                    return Err(wrong(word, "given twice; give it once"));
                }
                _ if OPTIONS.contains(&word) => {
                    let value = words.next();
                    let value =
                        value.ok_or_else(|| wrong(word, "its value is missing; it is the next word"))?;
                    given.push((word, value));
                }
                _ => rest.push(word),
            }
        }
        let find = |option| given.iter().find(|(name, _)| *name == option).map(|(_, value)| *value);
        let need = |option| find(option).ok_or_else(|| wrong(option, "missing; see `returnpath --help`"));

        let source: IpAddr = value("--src", need("--src")?, ADDRESS)?;
        let destination: IpAddr = value("--dst", need("--dst")?, ADDRESS)?;
        let dnat = find("--dnat").map(|text| value("--dnat", text, ADDRESS)).transpose()?;
        for (option, other) in [("--dst", Some(destination)), ("--dnat", dnat)] {
            if other.is_some_and(|other: IpAddr| other.is_ipv4() != source.is_ipv4()) {
                return Err(wrong(option, "not of the family of --src; give addresses of one"));
            }
        }
        let protocol = protocol(need("--proto")?, source.is_ipv4())?;
        let service = find("--dport").map(|text| value("--dport", text, PORT)).transpose()?;
        match (matches!(protocol, TCP | UDP | SCTP), service) {
            (true, None) => return Err(wrong("--dport", "missing; this protocol has ports")),
            (false, Some(_)) => return Err(wrong("--dport", "this protocol has no ports; leave it out")),
            _ => {}
        }
        let port = value("--iif", need("--iif")?, "too long for the name of a port")?;
        let mac = find("--mac").map(|text| value("--mac", text, MAC)).transpose()?;
        Ok((Question { port, mac, source, destination, dnat, protocol, service }, rest))
    }
}

const ADDRESS: &str = "not an IP address; write it as 192.0.2.7 or 2001:db8::7";
const MAC: &str = "not a MAC address; write six pairs of hex digits, as in 52:54:00:c2:a5:43";
const PORT: &str = "not a port; write a number from 0 to 65535";

fn value<T: FromStr>(option: &str, text: &str, otherwise: &str) -> Result<T, Failure> {
    text.parse().map_err(|_| wrong(option, &format!("`{text}`: {otherwise}")))
}

/// A protocol's number, from the word that policies have for it, or from the number itself.
fn protocol(word: &str, is_v4: bool) -> Result<u8, Failure> {
    match word {
        "tcp" => Ok(TCP),
        "udp" => Ok(UDP),
        "sctp" => Ok(SCTP),
        "icmp" | "icmpv6" => Ok(if is_v4 { ICMP } else { ICMPV6 }),
        number => {
            value("--proto", number, "not a protocol; write tcp, udp, sctp, icmp or a number up to 255")
        }
    }
}

fn wrong(option: &str, reason: &str) -> Failure {
    Failure::new(exit::USAGE, format!("explain: {option}: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPLETE: &str =
        "--iif eth1 --mac 52:54:00:c2:a5:43 --src 192.0.2.1 --dst 10.0.0.10 --proto tcp --dport 80";

    fn parse(line: &str) -> Result<(Question, Vec<&str>), String> {
        Question::parse(&line.split(' ').collect::<Vec<_>>()).map_err(|failure| {
            assert_eq!(failure.code, exit::USAGE);
            failure.line
        })
    }

    #[test]
    fn what_is_left_says_where_the_policy_is() {
        let line = format!("--policy p.bin {COMPLETE}");
        let (question, rest) = parse(&line).unwrap();
        assert_eq!(rest, ["--policy", "p.bin"]);
        assert_eq!((question.protocol, question.service), (6, Some(80)));
        let (question, _) =
            parse("--src fd00::1 --dst fd00::2 --proto icmp --iif wg0 --dnat fd00::3").unwrap();
        assert_eq!(
            (question.protocol, question.mac, question.dnat),
            (58, None, Some("fd00::3".parse().unwrap()))
        );
    }

    #[test]
    fn each_mistake_is_told_with_its_option() {
        for (old, new, line) in [
            ("--iif eth1 ", "", "--iif: missing; see `returnpath --help`"),
            (
                "--iif eth1",
                "--iif a-name-that-is-long",
                "--iif: `a-name-that-is-long`: too long for the name of a port",
            ),
            ("--proto tcp", "--proto tcp --proto tcp", "--proto: given twice; give it once"),
            (" --dport 80", " --dport", "--dport: its value is missing; it is the next word"),
            (" --dport 80", "", "--dport: missing; this protocol has ports"),
            ("--proto tcp", "--proto icmp", "--dport: this protocol has no ports; leave it out"),
            (
                "--proto tcp",
                "--proto tpc",
                "--proto: `tpc`: not a protocol; write tcp, udp, sctp, icmp or a number up to 255",
            ),
            ("80", "65536", "--dport: `65536`: not a port; write a number from 0 to 65535"),
            (
                "192.0.2.1",
                "192.0.2.256",
                "--src: `192.0.2.256`: not an IP address; write it as 192.0.2.7 or 2001:db8::7",
            ),
            ("10.0.0.10", "fd00::10", "--dst: not of the family of --src; give addresses of one"),
            (
                "52:54:00",
                "52:54",
                "--mac: `52:54:c2:a5:43`: not a MAC address; write six pairs of hex digits, as in 52:54:00:c2:a5:43",
            ),
        ] {
            assert_eq!(parse(&COMPLETE.replace(old, new)).unwrap_err(), format!("explain: {line}"));
        }
    }
}
