//! The rules of the contract that the types do not hold by themselves. One check for both forms.

use super::{Invalid, Key, MAX_MACS, Name, Network, PRIORITIES, Path, Policy, PortRange, Reason, Service};
use core::net::IpAddr;

/// A rule broken within one path, or by the policy's own keys.
type Fault = (Key, Option<usize>, Reason);

impl Policy {
    /// Checks every rule of the contract; the first one broken is the error. No heap, and no more than
    /// some tens of milliseconds for the largest policies.
    pub fn check(&self) -> Result<(), Invalid> {
        let blame = |path, (key, item, reason)| Invalid {
            path,
            name: path
                .and_then(|at: usize| self.paths.get(at))
                .map(|path| path.name.clone())
                .unwrap_or_default(),
            key,
            item,
            reason,
        };
        self.globals().map_err(|fault| blame(None, fault))?;
        for (at, path) in self.paths.iter().enumerate() {
            let earlier = &self.paths[..at];
            alone(path, self.mark_mask)
                .and_then(|()| earlier.iter().try_for_each(|other| apart(path, other)))
                .map_err(|fault| blame(Some(at), fault))?;
        }
        Ok(())
    }

    fn globals(&self) -> Result<(), Fault> {
        ensure(self.mark_mask != 0, Key::MarkMask, || Reason::EmptyMask)?;
        networks(Key::LocalNetworks, &self.local_networks)
    }
}

/// Fails with `reason` unless `good`.
fn ensure(good: bool, key: Key, reason: impl FnOnce() -> Reason) -> Result<(), Fault> {
    if good { Ok(()) } else { Err((key, None, reason())) }
}

/// What a path must be whatever the others are.
fn alone(path: &Path, mask: u32) -> Result<(), Fault> {
    path_name(&path.name)?;
    ensure(path.mark != 0, Key::Mark, || Reason::ZeroMark { mask })?;
    ensure(path.mark & !mask == 0, Key::Mark, || Reason::MarkOutside { mark: path.mark, mask })?;
    ensure(!matches!(path.table, 0 | 253..=255), Key::Table, || Reason::ReservedTable(path.table))?;
    way_out(path)?;
    frames(path)?;
    services(&path.services)?;
    networks(Key::Destinations, &path.destinations)?;
    for (at, network) in path.destinations.iter().enumerate() {
        let answered = if network.address.is_ipv4() { path.has_v4() } else { path.has_v6() };
        if !answered {
            return Err((Key::Destinations, Some(at), Reason::Family(*network)));
        }
    }
    ensure(PRIORITIES.contains(&path.priority), Key::Priority, || Reason::Priority(path.priority))
}

fn path_name(name: &Name) -> Result<(), Fault> {
    let good = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    ensure(!name.is_empty() && name.bytes().all(good), Key::Name, || Reason::PathName(name.clone()))?;
    // In /etc/iproute2 a name hides what ip(8) would else take the word for: its own tables, `show table all`
    // and `show table cache`, and numbers in all the ways of strtoul(3).
    let number = match name.strip_prefix("0x") {
        Some(hex) => hex.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => name.bytes().all(|byte| byte.is_ascii_digit()),
    };
    let word = matches!(name.as_str(), "main" | "local" | "default" | "unspec" | "all" | "cache");
    ensure(!number && !word, Key::Name, || Reason::ReservedName(name.clone()))
}

/// Gateways, device and onlink.
fn way_out(path: &Path) -> Result<(), Fault> {
    let gateways =
        [(Key::Gateway4, path.gateway4.map(IpAddr::V4)), (Key::Gateway6, path.gateway6.map(IpAddr::V6))];
    for (key, address) in gateways {
        let Some(address) = address else { continue };
        if let Some(kind) = unusable(address) {
            return Err((key, None, Reason::Gateway { address, kind }));
        }
        let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
        ensure(!link_local || path.device.is_some(), key, || Reason::LinkLocal(address))?;
    }
    let has_gateway = path.gateway4.is_some() || path.gateway6.is_some();
    ensure(has_gateway || path.device.is_some(), Key::Device, || Reason::NoWayOut)?;
    if let Some(device) = &path.device {
        ensure(device_name(device), Key::Device, || Reason::Device(device.clone()))?;
    }
    ensure(!path.onlink || has_gateway && path.device.is_some(), Key::Onlink, || Reason::Onlink)
}

/// Why no router can have `address`, if so.
fn unusable(address: IpAddr) -> Option<&'static str> {
    let mapped = matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    let kinds = [
        (address.is_unspecified(), "the unspecified address"),
        (address.is_loopback(), "a loopback address"),
        (address.is_multicast(), "a multicast address"),
        (broadcast, "the broadcast address"),
        (mapped, "an IPv4 address in IPv6 notation"),
    ];
    kinds.iter().find_map(|&(is, kind)| is.then_some(kind))
}

/// Narrower than the kernel (`dev_valid_name`, `net/core/dev.c`): names are written into commands and nft text.
fn device_name(name: &Name) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'@' | b'-');
    !name.is_empty() && name.bytes().all(good) && !matches!(name.as_str(), "." | "..")
}

/// How the router's frames are known.
fn frames(path: &Path) -> Result<(), Fault> {
    ensure(path.has_macs() || !path.ingress.is_empty(), Key::SourceMacs, || Reason::NoFrames)?;
    if path.auto_macs {
        let has_gateway = path.gateway4.is_some() || path.gateway6.is_some();
        ensure(has_gateway, Key::SourceMacs, || Reason::AutoWithoutGateway)?;
        ensure(path.source_macs.len() < MAX_MACS, Key::SourceMacs, || Reason::TooManyMacs)?;
    }
    for (at, mac) in path.source_macs.iter().enumerate() {
        if !mac.sends() {
            return Err((Key::SourceMacs, Some(at), Reason::Mac(*mac)));
        }
        if path.source_macs[..at].contains(mac) {
            return Err((Key::SourceMacs, Some(at), Reason::TwiceMac(*mac)));
        }
    }
    for (at, port) in path.ingress.iter().enumerate() {
        if !device_name(port) {
            return Err((Key::Ingress, Some(at), Reason::Device(port.clone())));
        }
        if path.ingress[..at].contains(port) {
            return Err((Key::Ingress, Some(at), Reason::TwicePort(port.clone())));
        }
    }
    Ok(())
}

fn services(list: &[Service]) -> Result<(), Fault> {
    for (at, service) in list.iter().enumerate() {
        if let Service::Tcp(ports) | Service::Udp(ports) | Service::Sctp(ports) = *service
            && ports != PortRange::ALL
            && (ports.first == 0 || ports.first > ports.last)
        {
            return Err((Key::Services, Some(at), Reason::Ports(*service)));
        }
        if let Some(other) = list[..at].iter().find(|other| service.overlaps(other)) {
            return Err((
                Key::Services,
                Some(at),
                Reason::ServiceOverlap { service: *service, other: *other },
            ));
        }
    }
    Ok(())
}

fn networks(key: Key, list: &[Network]) -> Result<(), Fault> {
    for (at, network) in list.iter().enumerate() {
        let fault = |reason| Err((key, Some(at), reason));
        if network.prefix > network.width() {
            return fault(Reason::PrefixLength(*network));
        }
        if network.trimmed() != *network {
            return fault(Reason::HostBits(*network));
        }
        if let Some(other) = list[..at].iter().find(|other| network.overlaps(other)) {
            return fault(Reason::NetworkOverlap { network: *network, other: *other });
        }
    }
    Ok(())
}

/// What keeps two paths apart: name, mark, table, and whose a frame is.
fn apart(path: &Path, other: &Path) -> Result<(), Fault> {
    ensure(path.name != other.name, Key::Name, || Reason::SharedName(path.name.clone()))?;
    ensure(path.mark != other.mark, Key::Mark, || Reason::SharedMark {
        mark: path.mark,
        other: other.name.clone(),
    })?;
    ensure(path.table != other.table, Key::Table, || Reason::SharedTable {
        table: path.table,
        other: other.name.clone(),
    })?;

    // The most specific wins: port and MAC, then MAC, then port. So a frame can be claimed twice only
    // by two paths that know it in the same way.
    if path.has_macs() != other.has_macs() || path.ingress.is_empty() != other.ingress.is_empty() {
        return Ok(());
    }
    let mac = shared(&path.source_macs, &other.source_macs);
    let gateway = shared_gateway(path, other).filter(|_| path.auto_macs && other.auto_macs);
    if mac.is_none() && gateway.is_none() && path.has_macs() {
        return Ok(());
    }
    let port = shared(&path.ingress, &other.ingress);
    if port.is_none() && !path.ingress.is_empty() {
        return Ok(());
    }
    let other = other.name.clone();
    Err(match (mac, gateway, port) {
        (Some((at, mac)), _, _) => (Key::SourceMacs, Some(at), Reason::SharedMac { mac: *mac, other }),
        (None, Some(gateway), _) => (Key::SourceMacs, None, Reason::SharedGateway { gateway, other }),
        (None, None, Some((at, port))) => {
            (Key::Ingress, Some(at), Reason::SharedPort { port: port.clone(), other })
        }
        (None, None, None) => (Key::SourceMacs, None, Reason::NoFrames),
    })
}

/// A gateway that both paths have. On two ports one address is two gateways.
fn shared_gateway(path: &Path, other: &Path) -> Option<IpAddr> {
    let v4 = path.gateway4.filter(|gateway| other.gateway4 == Some(*gateway)).map(IpAddr::V4);
    let v6 = path.gateway6.filter(|gateway| other.gateway6 == Some(*gateway)).map(IpAddr::V6);
    let elsewhere = path.device.is_some() && other.device.is_some() && path.device != other.device;
    v4.or(v6).filter(|_| !elsewhere)
}

/// The first entry of `list` that is in `other` too, and where it stands.
fn shared<'a, T: PartialEq>(list: &'a [T], other: &[T]) -> Option<(usize, &'a T)> {
    list.iter().enumerate().find(|(_, entry)| other.contains(entry))
}
