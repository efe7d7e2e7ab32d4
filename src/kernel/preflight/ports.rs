//! Ports whose frames arrive by another one, and bridges that show us frames which are for somebody else.

use super::{Finding, warning};
use crate::kernel::Error;
use crate::kernel::netlink::{Message, find, put, text, u32_at};
use crate::kernel::sysctl;
use crate::kernel::ways::{IFLA_IFNAME, RTM_GETLINK, RTM_NEWLINK, Routing};
use crate::policy::{Name, Policy};

const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
/// With these, bridged frames run through the hooks of their family (networking/ip-sysctl.rst).
const CALLS: [&str; 2] = ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"];

/// A port that belongs to a bridge, bond or team, and a bridge whose frames we would see.
pub fn findings(policy: &Policy, routing: &mut Routing) -> Result<Vec<Finding>, Error> {
    let named = policy.paths.iter().flat_map(|path| path.ingress.iter().chain(&path.device));
    let mut ports: Vec<&Name> = Vec::new();
    for port in named {
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    let mut findings = Vec::new();
    let mut bridges = Vec::new();
    for port in ports {
        let mut payload = vec![0; 16]; // struct ifinfomsg
        put(&mut payload, IFLA_IFNAME, &[port.as_bytes(), &[0]].concat());
        let Ok(answer) = routing.socket.ask(&Message { kind: RTM_GETLINK, flags: 0, payload }) else {
            continue;
        };
        let Some(link) = answer.filter(|message| message.kind == RTM_NEWLINK) else { continue };
        let of = |kind| find(link.payload.get(16..)?, kind);
        let info = |kind| find(of(IFLA_LINKINFO)?, kind).map(text);
        if info(IFLA_INFO_KIND) == Some("bridge") {
            bridges.push(port.as_str());
        }
        let master = of(IFLA_MASTER).and_then(|index| u32_at(index, 0));
        if let (Some("bridge" | "bond" | "team"), Some(master)) = (info(IFLA_INFO_SLAVE_KIND), master)
            && let Some(master) = routing.link_at(master)?
        {
            let master = master.name;
            let line = format!(
                "port {port}: it belongs to {master}, by which its frames arrive; name {master} instead"
            );
            findings.push(warning("port-enslaved", line));
        }
    }
    let Some(bridge) = bridges.first() else { return Ok(findings) };
    for setting in CALLS {
        let name = format!("net/bridge/{setting}");
        if let Some(1..) = sysctl::read(&name)? {
            let line = format!(
                "/proc/sys/{name}: it is 1, so frames that only cross {bridge} are taken for arrivals; set it to 0"
            );
            findings.push(warning("bridge-netfilter", line));
        }
    }
    Ok(findings)
}
