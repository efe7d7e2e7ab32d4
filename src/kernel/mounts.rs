//! `/proc`, `/sys` and `/dev`: mounted where they are missing, and taken away again, so that the next init finds what
//! the kernel has left it.

use super::Error;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::fs;
use std::path::Path;

/// Where, of which type, what is in it when it is there, and how it is mounted.
const NEEDED: [(&str, &str, &str, MountFlags); 3] = [
    ("/proc", "proc", "/proc/self/stat", LOCKED),
    ("/sys", "sysfs", "/sys/class", LOCKED),
    ("/dev", "devtmpfs", "/dev/kmsg", MountFlags::NOSUID.union(MountFlags::NOEXEC)),
];
const LOCKED: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// What was mounted by us.
pub struct Mounts(Vec<&'static str>);

impl Mounts {
    /// Mounts what is missing. What can not be mounted is told in the second part: there is no log yet to tell it to.
    pub fn make() -> (Mounts, Vec<Error>) {
        let (mut made, mut failed) = (Vec::new(), Vec::new());
        for (place, kind, sign, flags) in NEEDED {
            if Path::new(sign).exists() {
                continue;
            }
            let _ = fs::create_dir(place); // there already, as a rule; if it can not be made, mounting says so
            match mount(kind, place, kind, flags, None::<&core::ffi::CStr>) {
                Ok(()) => made.push(place),
                Err(error) => failed.push(Error::new(format!(
                    "{place}: {kind} cannot be mounted: {error}; the root file system needs an empty folder {place}, \
                     the kernel {kind}"
                ))),
            }
        }
        (Mounts(made), failed)
    }

    /// Unmounts what was mounted, the last first. A process of ours that stays behind may hold files there: they stay
    /// usable to it (`MNT_DETACH`, `man 2 umount`).
    pub fn unmake(self) {
        for place in self.0.into_iter().rev() {
            if let Err(error) = unmount(place, UnmountFlags::DETACH) {
                log::warn!("{place}: cannot be unmounted: {error}; the next init finds it mounted");
            }
        }
    }
}
