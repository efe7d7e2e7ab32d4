//! `returnpath-board write`, `read` and `format` as scripts see them.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// An empty folder of this test's own.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("board_cli").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    for policy in ["seed.toml", "full.bin"] {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/policy").join(policy);
        fs::copy(golden, folder.join(policy)).unwrap();
    }
    folder
}

/// Runs the tool in `folder`: exit code, standard output, standard error less the program's name.
fn run(folder: &Path, arguments: &str) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_returnpath-board"))
        .args(arguments.split(' '))
        .current_dir(folder)
        .output();
    let Output { status, stdout, stderr } = output.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let error = text(stderr);
    let error = error.strip_prefix("returnpath-board: ").unwrap_or(&error).to_owned();
    (status.code().unwrap(), text(stdout), error)
}

/// Runs the tool and sees it do what it was told, with this output.
fn does(folder: &Path, arguments: &str, said: &str) {
    assert_eq!(run(folder, arguments), (0, said.to_owned(), String::new()), "{arguments}");
}

/// Runs the tool and sees it fail with this code and this line alone.
fn fails(folder: &Path, arguments: &str, code: i32, line: &str) {
    assert_eq!(run(folder, arguments), (code, String::new(), format!("{line}\n")), "{arguments}");
}

/// Puts bytes into a file, which keeps its length.
fn patch(file: &Path, at: u64, bytes: &[u8]) {
    let mut file = File::options().write(true).open(file).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

const FORMATTED: &str = "b.img: formatted; both slots are empty\n";
const DAMAGED: &str = "its CRC does not match (a write was cut off, or the flash is failing); \
                       write the policy again with `returnpath-board write`";
const EMPTY: &str = "empty; put a policy there with `returnpath-board write`";
const UNUSABLE: &str = "b.img: no slot holds a usable policy; put one there with `returnpath-board write`\n";

#[test]
fn format_write_and_read_a_plain_file() {
    let folder = folder("plain");
    does(&folder, "format --device b.img", FORMATTED);
    assert_eq!(fs::metadata(folder.join("b.img")).unwrap().len(), 1 << 20);
    let empty = format!("slot A: {EMPTY}\nslot B: {EMPTY}\n");
    assert_eq!(run(&folder, "read --device b.img"), (3, empty, UNUSABLE.to_owned()));

    does(&folder, "write --device b.img seed.toml", "b.img: slot A, serial 1, 56 bytes, 1 path; read back\n");
    let one = format!("slot A: serial 1, 56 bytes, 1 path: boots\nslot B: {EMPTY}\n");
    does(&folder, "read --device b.img", &one);
    does(
        &folder,
        "write --device b.img full.bin",
        "b.img: slot B, serial 2, 270 bytes, 2 paths; read back\n",
    );
    let both = "slot A: serial 1, 56 bytes, 1 path: spare\nslot B: serial 2, 270 bytes, 2 paths: boots\n";
    does(&folder, "read --device b.img", both);

    // The newest falls out, and then the other one.
    let image = folder.join("b.img");
    patch(&image, (512 << 10) + 4096 + 50, b"xyz");
    let fallen = format!("slot A: serial 1, 56 bytes, 1 path: boots\nslot B: {DAMAGED}\n");
    does(&folder, "read --device b.img", &fallen);
    patch(&image, 4096 + 50, b"xyz");
    let none = format!("slot A: {DAMAGED}\nslot B: {DAMAGED}\n");
    assert_eq!(run(&folder, "read --device b.img"), (3, none, UNUSABLE.to_owned()));
    does(&folder, "write --device b.img seed.toml", "b.img: slot A, serial 1, 56 bytes, 1 path; read back\n");
}

#[test]
fn a_disk_with_partitions_is_not_formatted() {
    let folder = folder("disk");
    for at in [512, 4096] {
        let mut disk = vec![0; 2 << 20];
        disk[at..at + 8].copy_from_slice(b"EFI PART");
        fs::write(folder.join("disk.img"), &disk).unwrap();
        let line = "disk.img: a disk with partitions, which would be lost; name one of them";
        fails(&folder, "format --device disk.img --force", 2, line);
        assert_eq!(fs::read(folder.join("disk.img")).unwrap(), disk);
    }
}

#[test]
fn format_takes_nothing_away_without_force() {
    let folder = folder("format");
    let device = folder.join("b.img");
    let zeroes = |size: u64| File::create(&device).unwrap().set_len(size).unwrap();

    zeroes(1 << 20);
    does(&folder, "format --device b.img", FORMATTED);
    let board = "b.img: a board partition already; write a policy to it, or empty it with --force";
    fails(&folder, "format --device b.img", 2, board);
    does(&folder, "write --device b.img seed.toml", "b.img: slot A, serial 1, 56 bytes, 1 path; read back\n");
    fails(&folder, "format --device b.img", 2, board);
    does(&folder, "format --device b.img --force", FORMATTED);
    assert_eq!(run(&folder, "read --device b.img").0, 3);

    // One byte anywhere, also behind what is used.
    for at in [0, 1080, (1 << 20) - 1, (3 << 20) - 1] {
        zeroes(3 << 20);
        patch(&device, at, b"\x01");
        let before = fs::read(&device).unwrap();
        let line = format!("b.img: not empty: byte {at} is not zero; if it may be overwritten, give --force");
        fails(&folder, "format --device b.img", 2, &line);
        assert!(fs::read(&device).unwrap() == before);
        does(&folder, "format --device b.img --force", FORMATTED);
    }

    zeroes((1 << 20) - 1);
    let small = "b.img: 1048575 bytes are too few for a board partition; give it 1048576 bytes";
    fails(&folder, "format --device b.img --force", 6, small);
}

#[test]
fn a_device_that_is_none_is_code_6() {
    let folder = folder("none");
    let not_found = "not found; name the partition's device, such as /dev/sda3, or a plain file";
    for device in ["absent.img", "/dev/absent", "PARTLABEL=absent-label"] {
        fails(&folder, &format!("read --device {device}"), 6, &format!("{device}: {not_found}"));
        fails(&folder, &format!("write --device {device} seed.toml"), 6, &format!("{device}: {not_found}"));
    }
    // A misspelt device does not become a file.
    fails(&folder, "format --device /dev/absent", 6, &format!("/dev/absent: {not_found}"));
    fails(
        &folder,
        "format --device PARTLABEL=absent-label",
        6,
        &format!("PARTLABEL=absent-label: {not_found}"),
    );
    let line = "absent/b.img: not made: No such file or directory (os error 2); \
                choose a folder that can be written to and has room";
    fails(&folder, "format --device absent/b.img", 6, line);
    for device in ["/dev/zero", "."] {
        let line = format!(
            "{device}: cannot be opened: neither a block device nor a plain file; name a block device or a plain file"
        );
        fails(&folder, &format!("read --device {device}"), 6, &line);
    }
    fs::write(folder.join("empty"), "").unwrap();
    let line = "empty: the device ends within it; a board partition has 1048576 bytes";
    fails(&folder, "read --device empty", 6, line);
    // Not formatted: nothing is written.
    File::create(folder.join("zero.img")).unwrap().set_len(1 << 20).unwrap();
    let line = "zero.img: not a board partition; name the partition and not the disk, or run `returnpath-board format` first";
    fails(&folder, "write --device zero.img seed.toml", 6, line);
    assert!(fs::read(folder.join("zero.img")).unwrap().iter().all(|byte| *byte == 0));
    assert_eq!(run(&folder, "read --device zero.img").0, 3);
}

#[test]
fn a_policy_that_is_none_is_code_3_and_changes_nothing() {
    let folder = folder("policy");
    does(&folder, "format --device b.img", FORMATTED);
    does(&folder, "write --device b.img seed.toml", "b.img: slot A, serial 1, 56 bytes, 1 path; read back\n");
    let before = fs::read(folder.join("b.img")).unwrap();
    fs::write(folder.join("bad.toml"), "mark_mask = 0\n").unwrap();
    assert_eq!(run(&folder, "write --device b.img bad.toml").0, 3);
    assert_eq!(run(&folder, "write --device b.img absent.toml").0, 3);
    assert!(fs::read(folder.join("b.img")).unwrap() == before);
}

#[test]
fn wrong_usage_is_code_2() {
    let folder = folder("usage");
    let missing =
        "the following required arguments were not provided: --device <DEV>; see returnpath-board --help";
    for command in ["read", "format", "write seed.toml"] {
        fails(&folder, command, 2, missing);
    }
}

/// Detaches when dropped.
struct Loop(String);

impl Loop {
    fn attach(file: &Path) -> Loop {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output().expect("losetup");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Loop(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
#[ignore = "needs root and loop devices; `cargo test -- --include-ignored`"]
fn a_block_device() {
    let folder = folder("loop");
    let file = folder.join("disk");
    File::create(&file).unwrap().set_len(2 << 20).unwrap();
    let device = Loop::attach(&file);
    let name = &device.0;
    does(&folder, &format!("format --device {name}"), &format!("{name}: formatted; both slots are empty\n"));
    let said = format!("{name}: slot A, serial 1, 56 bytes, 1 path; read back\n");
    does(&folder, &format!("write --device {name} seed.toml"), &said);
    let one = format!("slot A: serial 1, 56 bytes, 1 path: boots\nslot B: {EMPTY}\n");
    does(&folder, &format!("read --device {name}"), &one);

    // What was changed behind the page cache's back is seen by a fresh reader, and by no other.
    use embedded_io::Read as _;
    use returnpath::kernel::device::Device;
    let first = |mut device: Device| {
        let mut bytes = [0; 4];
        device.read_exact(&mut bytes).unwrap();
        bytes
    };
    let path = Path::new(name);
    // While somebody has it open, its pages stay in the cache.
    let _held = Device::open(path, false).unwrap();
    assert_eq!(&first(Device::open(path, false).unwrap()), b"RPSL");
    patch(&file, 0, b"LSPR");
    assert_eq!(&first(Device::open(path, false).unwrap()), b"RPSL");
    assert_eq!(&first(Device::fresh(path).unwrap()), b"LSPR");

    // In use: mounted, or opened by somebody who wants it alone.
    let held = Device::open(path, true).unwrap();
    let busy = format!(
        "{name}: cannot be opened: Device or resource busy (os error 16); it is mounted or in use; see `lsblk`"
    );
    fails(&folder, &format!("write --device {name} seed.toml"), 6, &busy);
    fails(&folder, &format!("format --device {name} --force"), 6, &busy);
    drop(held);
    // A child of another test has it as well, between its fork and its exec.
    let deadline = Instant::now() + Duration::from_secs(10);
    while Device::open(path, true).is_err() && Instant::now() < deadline {
        std::thread::yield_now();
    }
    does(
        &folder,
        &format!("format --device {name} --force"),
        &format!("{name}: formatted; both slots are empty\n"),
    );
}
