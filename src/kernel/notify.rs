//! What the service manager is told (`man 3 sd_notify`).

use std::env::var_os;
use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How long a service manager may leave its queue full.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tells the service manager that has started this process and wants to hear of it, such as `READY=1`. Without one,
/// nobody is told.
pub fn notify(state: &str) {
    tell(state, PATIENCE);
}

/// The same, for what matters less than going on: if the service manager does not keep up, it is not told.
pub fn mention(state: &str) {
    tell(state, Duration::ZERO);
}

fn tell(state: &str, patience: Duration) {
    let Some(place) = var_os("NOTIFY_SOCKET").filter(|place| !place.is_empty()) else { return };
    match send(&place, state.as_bytes(), patience) {
        Err(error) if error.kind() == ErrorKind::WouldBlock && patience.is_zero() => {}
        Err(error) => {
            log::warn!(
                "NOTIFY_SOCKET={}: {error}; the service manager is not told; let the unit reach that socket",
                place.display()
            );
        }
        Ok(_) => {}
    }
}

fn send(place: &OsStr, state: &[u8], patience: Duration) -> io::Result<usize> {
    let address = match place.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(place),
    };
    let socket = UnixDatagram::unbound()?;
    match patience.is_zero() {
        true => socket.set_nonblocking(true)?,
        false => socket.set_write_timeout(Some(patience))?,
    }
    socket.send_to_addr(state, &address?)
}
