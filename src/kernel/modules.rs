//! Kernel modules, loaded without modprobe: an early root file system has none.

use super::Error;
use rustix::io::Errno;
use rustix::system::finit_module;
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// What a plan may ask of nftables, and others of connection tracking, one a line. The image builder reads the same list.
const NEEDED: &str = include_str!("../../image/netfilter");

/// `MODULE_INIT_COMPRESSED_FILE` (`linux/module.h`, since 5.17): the kernel unpacks it.
const COMPRESSED: i32 = 4;

/// Loads what nftables needs of the running kernel's modules. What the kernel has built in is in no list of modules, and
/// what is missing altogether is refused by name when it is used.
///
/// One that cannot be loaded is told in the log: it may be one that the policy does without.
///
/// # Errors
/// The list of modules cannot be read.
pub fn load() -> Result<(), Error> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let folder = format!("/lib/modules/{}", release.trim());
    let list = format!("{folder}/modules.dep");
    let list = match fs::read_to_string(&list) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            log::info!("{list}: not there; the kernel is taken to have nf_tables built in");
            return Ok(());
        }
        Err(error) => return Err(Error::new(format!("{list}: {error}; run depmod for this kernel"))),
    };
    for line in NEEDED.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(' ').next().unwrap_or(line);
        for file in in_order(&list, name) {
            if let Err(error) = insert(Path::new(&folder), file) {
                log::error!("{error}");
            }
        }
    }
    Ok(())
}

/// The files that a module takes, those that it depends on first (`man 5 modules.dep`); none if it is not in the list.
fn in_order<'a>(list: &'a str, name: &str) -> Vec<&'a str> {
    let line = list.lines().find_map(|line| line.split_once(':').filter(|(file, _)| name_of(file) == name));
    let files =
        line.into_iter().flat_map(|(file, needs)| core::iter::once(file).chain(needs.split_whitespace()));
    let mut files: Vec<&str> = files.collect();
    files.reverse();
    files
}

/// A module's name, as the kernel has it, from its file's.
fn name_of(file: &str) -> String {
    let file = file.rsplit('/').next().unwrap_or(file);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

fn insert(folder: &Path, file: &str) -> Result<(), Error> {
    if Path::new("/sys/module").join(name_of(file)).exists() {
        return Ok(());
    }
    let path = folder.join(file);
    let failed = |reason: &dyn core::fmt::Display| {
        Error::new(format!(
            "module {}: {reason}; build the image with this kernel's own modules",
            path.display()
        ))
    };
    let open = File::open(&path).map_err(|error| failed(&error))?;
    let flags = if file.ends_with(".ko") { 0 } else { COMPRESSED };
    match finit_module(&open, c"", flags) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(failed(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first() {
        let list = "kernel/net/nft_ct.ko.xz: kernel/net/nf_tables.ko.xz kernel/lib/libcrc32c.ko.xz\n\
                    kernel/net/nf_tables.ko.xz: kernel/lib/libcrc32c.ko.xz\nkernel/net/nf-log.ko:\n";
        let wanted = ["kernel/lib/libcrc32c.ko.xz", "kernel/net/nf_tables.ko.xz", "kernel/net/nft_ct.ko.xz"];
        assert_eq!(in_order(list, "nft_ct"), wanted);
        assert_eq!(in_order(list, "nf_log"), ["kernel/net/nf-log.ko"]);
        assert_eq!(in_order(list, "nft"), [""; 0]);
    }
}
