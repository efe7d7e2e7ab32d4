//! What the service manager is told (`man 3 sd_notify`).

use std::env::var_os;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How long a service manager may leave its queue full.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tells the service manager that has started this process and wants to hear of it, such as `READY=1`. Without one,
/// nobody is told.
pub fn notify(state: &str) {
    let Some(place) = var_os("NOTIFY_SOCKET").filter(|place| !place.is_empty()) else { return };
    if let Err(error) = send(&place, state.as_bytes()) {
        log::warn!(
            "NOTIFY_SOCKET={}: {error}; the service manager is not told; let the unit reach that socket",
            place.display()
        );
    }
}

fn send(place: &OsStr, state: &[u8]) -> io::Result<usize> {
    let address = match place.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(place),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.send_to_addr(state, &address?)
}
