//! One returnpath at a time in a network namespace.

use super::Error;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::thread::sleep;
use std::time::Duration;

/// Held while it lives; the kernel lets go of it when the process ends, however that is.
pub struct Lock {
    _socket: UnixDatagram,
}

/// An abstract socket address: it belongs to the network namespace, as all that we change does, and needs no disk.
const NAME: &[u8] = b"returnpath";

impl Lock {
    /// Waits for up to 10 seconds.
    pub fn take() -> Result<Lock, Error> {
        for _ in 0..1000 {
            match SocketAddr::from_abstract_name(NAME).and_then(|name| UnixDatagram::bind_addr(&name)) {
                Ok(socket) => return Ok(Lock { _socket: socket }),
                Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => {
                    sleep(Duration::from_millis(10))
                }
                Err(error) => {
                    // Without Unix sockets there is no lock, and no reason to leave the gateway without a policy.
                    log::warn!(
                        "lock: {error}; nothing keeps a second returnpath from running at the same time"
                    );
                    return Ok(Lock {
                        _socket: UnixDatagram::unbound().map_err(|e| Error::new(format!("lock: {e}")))?,
                    });
                }
            }
        }
        Err(Error::new(
            "another returnpath is at work for 10 seconds already; see `ss -xap src @returnpath`".into(),
        ))
    }
}
