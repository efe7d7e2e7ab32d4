//! Names of our routing tables for iproute2, so that `ip route show table router2` works.

use super::files;
use crate::policy::Name;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs;
use std::io;
use std::path::Path;

/// iproute2 reads every `*.conf` in this folder (`man 8 ip-route`).
const FOLDER: &str = "/etc/iproute2/rt_tables.d";
const FILE: &str = "/etc/iproute2/rt_tables.d/returnpath.conf";
/// iproute2 reads *.conf alone.
const NEW: &str = "/etc/iproute2/rt_tables.d/returnpath.conf.new";
/// Where iproute2 keeps its own tables; without any of them there is nobody to read ours.
const OF_IPROUTE2: [&str; 3] = ["/etc/iproute2", "/usr/share/iproute2", "/usr/lib/iproute2"];

/// Writes the names. A convenience: where there is no writable place, one line in the log says so.
pub fn write(names: &[(u32, Name)]) {
    let mut wanted = String::from("# Made by returnpath; `returnpath remove` deletes it.\n");
    for (table, name) in names {
        wanted.push_str(&format!("{table}\t{name}\n"));
    }
    match files::read(FILE, OFlags::NOFOLLOW) {
        Ok(text) if text == wanted => return,
        Err(Errno::LOOP) => return, // somebody else manages the names
        _ => {}
    }
    let result = match replace(&wanted) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if !OF_IPROUTE2.iter().any(|folder| Path::new(folder).is_dir()) {
                return;
            }
            fs::create_dir_all(FOLDER).and_then(|()| replace(&wanted))
        }
        other => other,
    };
    if let Err(error) = result {
        log::info!("{FILE}: {error}; the tables go by their numbers alone");
    }
}

/// A reader sees the old file or the new one.
fn replace(text: &str) -> io::Result<()> {
    files::write(NEW, OFlags::CREATE | OFlags::TRUNC, text)?;
    fs::rename(NEW, FILE)
}

/// What is there, to be [`restore`]d.
pub fn read() -> Option<String> {
    files::read(FILE, OFlags::NOFOLLOW).ok()
}

/// Puts back what was there.
pub fn restore(before: Option<&str>) {
    match before {
        None => remove(),
        Some(text) if read().is_some_and(|there| there != text) => {
            if let Err(error) = replace(text) {
                log::info!("{FILE}: {error}; the tables go by their numbers alone");
            }
        }
        Some(_) => {}
    }
}

/// Deletes the file, if it is there, and what a run that was killed may have left.
pub fn remove() {
    // Asked first: on a read-only file system unlink finds that out first, and complains.
    for file in [FILE, NEW].into_iter().filter(|file| Path::new(file).exists() && !is_link(file)) {
        if let Err(error) = fs::remove_file(file) {
            log::info!("{file}: {error}; it stays, and does no harm");
        }
    }
}

/// A link is somebody else's, who manages the names.
fn is_link(file: &str) -> bool {
    Path::new(file).is_symlink()
}
