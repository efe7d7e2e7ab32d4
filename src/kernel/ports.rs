//! Bringing ports up.

use super::netlink::{Message, Socket, put};
use super::ways::{IFLA_IFNAME, RTM_NEWLINK};
use super::{Error, refused};

/// Brings a port up. False: there is no such port.
///
/// # Errors
/// The kernel refuses it, as a driver may whose firmware is missing.
pub fn bring_up(port: &str) -> Result<bool, Error> {
    let up = (libc::IFF_UP as u32).to_ne_bytes();
    let mut payload = vec![0; 16]; // struct ifinfomsg: family, type, index; flags, and which of them change
    payload[8..12].copy_from_slice(&up);
    payload[12..16].copy_from_slice(&up);
    put(&mut payload, IFLA_IFNAME, &[port.as_bytes(), &[0]].concat());
    let mut socket = Socket::open(mnl::Bus::Route)
        .map_err(|error| Error::new(format!("routing socket: {error}; is CONFIG_NET there?")))?;
    match socket.change(&Message { kind: RTM_NEWLINK, flags: 0, payload }) {
        Ok(()) => Ok(true),
        Err(refusal) if refusal.errno == libc::ENODEV => Ok(false),
        Err(refusal) => {
            Err(refused(format_args!("port {port}: cannot bring it up"), &refusal, "see the kernel log"))
        }
    }
}
