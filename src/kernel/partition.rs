//! Where the board partition is: by its label, from sysfs alone. The kernel has read the GPT already and tells each
//! partition's name (`PARTNAME`, `block/partitions/core.c`), so nobody has to wait for udev.

use core::fmt::{self, Display, Formatter};
use std::fs;
use std::path::{Path, PathBuf};

/// How the board partition is named: on the kernel command line, and after `--board` and `--device`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Board {
    /// By its GPT label: `PARTLABEL=returnpath`.
    Label(String),
    /// By its file: a block device, or a plain file that stands for one.
    File(PathBuf),
}

impl Board {
    /// Reads a name. Everything that is not a label is a file.
    pub fn parse(text: &str) -> Board {
        match text.strip_prefix("PARTLABEL=") {
            Some(label) => Board::Label(label.into()),
            None => Board::File(text.into()),
        }
    }

    /// Its file; none while no disk has such a partition. Where several have, one on a disk that cannot be taken out
    /// comes first, and then the first by name.
    pub fn find(&self) -> Vec<PathBuf> {
        let label = match self {
            Board::File(file) => return file.exists().then(|| file.clone()).into_iter().collect(),
            Board::Label(label) => label,
        };
        let mut found: Vec<(bool, String)> = Vec::new();
        for device in fs::read_dir("/sys/class/block").into_iter().flatten().flatten() {
            let text = fs::read_to_string(device.path().join("uevent")).unwrap_or_default();
            let value = |key| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            if let (Some(name), Some(file)) = (value("PARTNAME"), value("DEVNAME"))
                && name == label
            {
                found.push((is_removable(&device.path()), file.into()));
            }
        }
        found.sort();
        found.into_iter().map(|(_, file)| Path::new("/dev").join(file)).collect()
    }
}

/// A partition's folder is within its disk's.
fn is_removable(partition: &Path) -> bool {
    let disk = fs::canonicalize(partition).ok().and_then(|path| path.parent().map(Path::to_owned));
    disk.and_then(|disk| fs::read_to_string(disk.join("removable")).ok())
        .is_some_and(|text| text.trim() == "1")
}

impl Default for Board {
    fn default() -> Self {
        Board::Label("returnpath".into())
    }
}

impl Display for Board {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Board::Label(label) => write!(f, "PARTLABEL={label}"),
            Board::File(file) => write!(f, "{}", file.display()),
        }
    }
}
