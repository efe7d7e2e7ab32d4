//! The board partition: frozen bytes, the choice of the slot, every defect, and devices that fail.

#[path = "common/board.rs"]
mod common;

use common::{Device, Medium, board};
use embedded_io::{ErrorKind, ReadExactError};
use proptest::prelude::*;
use returnpath::board::{Defect, Problem, SECTOR, SIZE, SLOT_SIZE, Slot, WriteError};
use returnpath::policy::wire;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const A: usize = 0;
const B: usize = SLOT_SIZE as usize;
/// Where a slot's CRC is.
const CRC: usize = SECTOR - 4;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn seed() -> Vec<u8> {
    std::fs::read(golden("policy/seed.bin")).unwrap()
}

fn full() -> Vec<u8> {
    std::fs::read(golden("policy/full.bin")).unwrap()
}

fn medium(device: &Device) -> Medium {
    device.controller(|controller| controller.medium.clone())
}

/// The device with some bytes of its own.
fn with(device: &Device, at: usize, bytes: &[u8]) -> Device {
    let mut medium = medium(device);
    bytes.iter().enumerate().for_each(|(offset, byte)| medium.patch(at + offset, |old| *old = *byte));
    Device::new(medium)
}

/// The device after a change to one slot, whose CRC is made to match.
fn sealed(device: &Device, slot: usize, at: usize, bytes: &[u8]) -> Device {
    let changed = medium(&with(device, slot + at, bytes)).bytes();
    let length = u32::from_le_bytes(*changed[slot + 12..].first_chunk().unwrap()) as usize;
    let covered = [&changed[slot..][..CRC], &changed[slot + SECTOR..][..length]].concat();
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(&covered);
    with(&Device::new(Medium::of(changed)), slot + CRC, &crc.to_le_bytes())
}

/// As `hexdump -C` has it, which made the golden files.
fn hexdump(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut before: Option<&[u8]> = None;
    for (number, row) in bytes.chunks(16).enumerate() {
        if before != Some(row) {
            write!(text, "{:08x} ", number * 16).unwrap();
            for half in row.chunks(8) {
                half.iter().for_each(|byte| write!(text, " {byte:02x}").unwrap());
                text.push(' ');
            }
            let shown =
                |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { *byte as char } else { '.' };
            writeln!(text, " |{}|", row.iter().map(shown).collect::<String>()).unwrap();
        } else if !text.ends_with("*\n") {
            text.push_str("*\n");
        }
        before = Some(row);
    }
    writeln!(text, "{:08x}", bytes.len()).unwrap();
    text
}

#[test]
fn version_1_is_frozen() {
    let cases = [("empty", vec![]), ("one", vec![seed()]), ("two", vec![seed(), full()])];
    for (name, images) in cases {
        let device = board(&images);
        let frozen = std::fs::read_to_string(golden("board").join(name).with_extension("txt")).unwrap();
        assert!(hexdump(&medium(&device).bytes()) == frozen, "{name} has changed: bump the version instead");
        let newest_first: Vec<_> = images.into_iter().rev().collect();
        assert_eq!(device.images(), newest_first);
    }
}

#[test]
fn format_changes_the_two_header_sectors_alone() {
    let device = Device::new(Medium::of(vec![0xa5; 2 * SIZE as usize]));
    device.format().unwrap();
    let bytes = medium(&device).bytes();
    for (number, sector) in bytes.chunks(SECTOR).enumerate() {
        let is_header = [A, B].contains(&(number * SECTOR));
        assert_eq!(sector.iter().all(|byte| *byte == 0xa5), !is_header, "sector {number}");
    }
    assert!(matches!(device.scan().a, Err(Problem::Empty)) && matches!(device.scan().b, Err(Problem::Empty)));
}

#[test]
fn writes_take_turns() {
    let device = board(&[]);
    let written: Vec<_> = (0..5).map(|_| device.write_image(&seed()).unwrap()).collect();
    let written: Vec<_> = written.iter().map(|(slot, header)| (*slot, header.serial)).collect();
    assert_eq!(written, [(Slot::A, 1), (Slot::B, 2), (Slot::A, 3), (Slot::B, 4), (Slot::A, 5)]);
    // The largest policy fits, and does not reach the other slot.
    let device = board(&[seed(), full()]);
    let before = medium(&device).bytes();
    let image = largest();
    device.write_image(&image).unwrap();
    assert_eq!(device.images(), [image, full()]);
    assert!(medium(&device).bytes()[B..] == before[B..]);
}

/// An image of [`wire::MAX_ENCODED`] bytes.
fn largest() -> Vec<u8> {
    let mut image = vec![0; wire::MAX_ENCODED];
    let len = wire::encode(&policy::maximal(), &mut image).unwrap();
    assert_eq!(len, wire::MAX_ENCODED);
    image
}

#[path = "common/policy.rs"]
mod policy;

#[test]
fn serials_are_compared_round_the_wrap() {
    let order = |a: u32, b: u32| {
        let device = sealed(&board(&[seed(), full()]), A, 8, &a.to_le_bytes());
        let device = sealed(&device, B, 8, &b.to_le_bytes());
        let order: Vec<_> = device.scan().newest_first().collect();
        (device, order)
    };
    let newer_b = [
        (1, 2),
        (u32::MAX, 1),
        (u32::MAX - 1, u32::MAX),
        (0xf000_0000, 0x1000_0000),
        (2, 0x8000_0001),
        (1, 0x8000_0000),
    ];
    for (a, b) in newer_b {
        assert_eq!(order(a, b).1, [Slot::B, Slot::A], "{a} {b}");
        assert_eq!(order(b, a).1, [Slot::A, Slot::B], "{b} {a}");
    }
    // Equal, and half the circle apart: slot A, whichever way round.
    for (a, b) in [(7, 7), (1, 0x8000_0001), (0x8000_0001, 1), (0x8000_0000, 0)] {
        let (device, order) = order(a, b);
        assert_eq!(order, [Slot::A, Slot::B], "{a} {b}");
        let (slot, header) = device.write_image(&full()).unwrap();
        assert_eq!((slot, header.serial), (Slot::B, a.wrapping_add(1)), "{a} {b}");
        assert_eq!(device.images(), [full(), seed()]);
    }
    // Serial 0 is an empty slot's: it is left out.
    let (device, _) = order(u32::MAX, u32::MAX - 1);
    let (slot, header) = device.write_image(&full()).unwrap();
    assert_eq!((slot, header.serial), (Slot::B, 1));
    assert_eq!(device.scan().newest_first().next(), Some(Slot::B));
}

#[test]
fn each_defect_has_its_name_and_leaves_the_other_slot() {
    let good = board(&[seed(), full()]);
    let too_long = wire::MAX_ENCODED as u32 + 1;
    let cases = [
        (
            with(&good, B, b"RPSX"),
            Defect::Magic,
            "it does not begin as a slot does (this is no board partition, or its flash is failing); name the partition and not the disk, or write the policy again with `returnpath-board write`",
        ),
        (
            with(&good, B + 4, &[2, 1]),
            Defect::Version(0x102),
            "it is of format version 258, and this program reads version 1; write the policy again with the returnpath-board of the same release",
        ),
        (
            with(&good, B + 12, &too_long.to_le_bytes()),
            Defect::Length(too_long),
            "its length of 299154 bytes is none that a policy has; write the policy again with `returnpath-board write`",
        ),
        (
            with(&good, B + 12, &[0xff; 4]),
            Defect::Length(u32::MAX),
            "its length of 4294967295 bytes is none that a policy has; write the policy again with `returnpath-board write`",
        ),
        (
            sealed(&good, B, 12, &[0; 4]),
            Defect::Length(0),
            "its length of 0 bytes is none that a policy has; write the policy again with `returnpath-board write`",
        ),
        (
            with(&good, B + SECTOR + 9, &[0x55]),
            Defect::Crc,
            "its CRC does not match (a write was cut off, or the flash is failing); write the policy again with `returnpath-board write`",
        ),
        (
            sealed(&good, B, SECTOR + 4, &[3]),
            Defect::Decode(wire::Error::Version(3)),
            "a policy image of version 3, and this program reads versions 1-2; compile it again with the returnpath-board of the same release",
        ),
    ];
    for (device, defect, text) in cases {
        assert_eq!(device.load(Slot::B), Err(Problem::Defective(defect.clone())), "{defect:?}");
        assert_eq!(Problem::<ErrorKind>::from(defect.clone()).to_string(), text);
        assert_eq!(device.images(), [seed()], "{defect:?}");
        // The defective one is the spare, and whole again afterwards.
        let (slot, header) = device.write_image(&full()).unwrap();
        assert_eq!((slot, header.serial), (Slot::B, 2), "{defect:?}");
        assert_eq!(device.images(), [full(), seed()]);
    }
    let both = with(&with(&good, A + SECTOR, b"x"), B + SECTOR, b"x");
    assert_eq!(both.images(), Vec::<Vec<u8>>::new());
    assert_eq!(both.write_image(&seed()).map(|(slot, header)| (slot, header.serial)), Ok((Slot::A, 1)));
    assert_eq!(both.images(), [seed()]);
}

#[test]
fn reserved_bytes_are_covered_and_ignored() {
    let good = board(&[seed(), full()]);
    assert_eq!(with(&good, B + 100, b"x").load(Slot::B), Err(Defect::Crc.into()));
    assert_eq!(sealed(&good, B, 100, b"x").load(Slot::B), Ok(full()));
}

#[test]
fn no_flipped_bit_of_the_newest_slot_gets_through() {
    let good = board(&[full(), seed()]);
    let image = seed();
    for at in 0..SECTOR + image.len() {
        let is_reserved = (16..CRC).contains(&at);
        for bit in 0..8 {
            let mut medium = medium(&good);
            medium.patch(B + at, |byte| *byte ^= 1 << bit);
            let device = Device::new(medium);
            let problem = device.load(Slot::B).expect_err("a flipped bit");
            assert!(matches!(problem, Problem::Defective(_)), "bit {bit} of byte {at}: {problem:?}");
            // Whatever a reserved bit spoils, it is the CRC: what that leads to is shown by the other bits.
            assert!(!is_reserved || problem == Defect::Crc.into(), "bit {bit} of byte {at}: {problem:?}");
            if !is_reserved {
                assert_eq!(device.images(), [full()], "bit {bit} of byte {at}");
            }
        }
    }
    // Behind the image nothing counts.
    assert_eq!(with(&good, B + SECTOR + image.len(), b"x").images(), [seed(), full()]);
}

#[test]
fn a_slot_that_cannot_be_read_leaves_the_other_one() {
    for bad in Slot::BOTH {
        let at = if bad == Slot::A { A } else { B };
        for sector in [at / SECTOR, at / SECTOR + 1] {
            let device = board(&[seed(), full()]);
            device
                .controller(|controller| controller.read_fails = Box::new(move |_, number| number == sector));
            let problem = Problem::Unreadable(ReadExactError::Other(ErrorKind::Other));
            assert_eq!(device.load(bad), Err(problem.clone()));
            assert_eq!(problem.to_string(), "it cannot be read: Other; check the device");
            let other = if bad == Slot::A { full() } else { seed() };
            assert_eq!(device.images(), std::slice::from_ref(&other));
            // It is the spare now; the read-back finds that it is no good, and the other one goes on.
            let error = WriteError::Read(bad, ReadExactError::Other(ErrorKind::Other));
            assert_eq!(device.write_image(&seed()), Err(error));
            assert_eq!(device.images(), [other]);
        }
    }
    // With nothing to keep, the slot that can be read is taken.
    let device = board(&[]);
    device.controller(|controller| controller.read_fails = Box::new(|_, number| number == 0));
    assert_eq!(device.write_image(&seed()).map(|(slot, _)| slot), Ok(Slot::B));
    device.controller(|controller| controller.read_fails = Box::new(|_, _| true));
    assert!(matches!(device.write_image(&seed()), Err(WriteError::Read(Slot::A, _))));
}

#[test]
fn a_truncated_device_is_read_as_far_as_it_goes_and_not_written() {
    let whole = medium(&board(&[seed(), full()])).bytes();
    for size in [0, 1, SECTOR, SECTOR + seed().len() - 1, B, B + 1, B + SECTOR, B + SECTOR + full().len() - 1]
    {
        let device = Device::new(Medium::of(whole[..size].to_vec()));
        let usable = if size >= SECTOR + seed().len() { vec![seed()] } else { vec![] };
        assert_eq!(device.images(), usable, "{size} bytes");
        let problem = device.load(Slot::B).unwrap_err();
        assert_eq!(problem, Problem::Unreadable(ReadExactError::UnexpectedEof));
        assert_eq!(problem.to_string(), "the device ends within it; a board partition has 1048576 bytes");
        assert_eq!(device.write_image(&seed()), Err(WriteError::TooSmall(size as u64)));
        assert_eq!(device.format(), Err(WriteError::TooSmall(size as u64)));
        assert!(device.controller(|controller| controller.events.is_empty()));
    }
}

#[test]
fn what_is_no_board_is_not_written_to() {
    let device = Device::new(Medium::of(vec![0xff; SIZE as usize]));
    assert_eq!(device.write_image(&seed()), Err(WriteError::NotABoard));
    assert!(device.controller(|controller| controller.events.is_empty()));
    // Nor is a board with what is no policy.
    let device = board(&[seed()]);
    device.controller(|controller| controller.events.clear());
    assert_eq!(device.write_image(&seed()[1..]), Err(WriteError::Image(wire::Error::Magic)));
    assert!(device.controller(|controller| controller.events.is_empty()));
}

#[test]
fn a_device_that_fails_at_any_call_keeps_the_slot_in_force() {
    /// Sets up the failure of one call.
    type Setup = fn(&mut common::Controller, usize);
    let kinds: [(&str, usize, Setup); 3] = [
        ("write", 3, |controller, n| controller.write_fails = Box::new(move |call, _| call == n)),
        ("flush", 3, |controller, n| controller.flush_fails = Box::new(move |call, _| call == n)),
        ("from then on", 3, |controller, n| controller.write_fails = Box::new(move |call, _| call >= n)),
    ];
    for (kind, calls, setup) in kinds {
        for call in 0..calls {
            let device = Device::new(medium(&board(&[full(), seed()])));
            device.controller(|controller| setup(controller, call));
            let error = device.write_image(&full()).expect_err(kind);
            assert_eq!(error, WriteError::Write(Slot::A, ErrorKind::Other), "{kind} {call}");
            assert_eq!(device.images()[0], seed(), "{kind} {call}");
        }
        // One more call than there are: none fails.
        let device = Device::new(medium(&board(&[full(), seed()])));
        device.controller(|controller| setup(controller, calls));
        device.write_image(&full()).unwrap();
    }
}

#[test]
fn lost_writes_are_found_by_reading_back() {
    // Sector 0 is emptied, sector 1 has the payload, then sector 0 the header.
    for (lost, found) in [(1, true), (2, true), (0, false)] {
        let device = Device::new(medium(&board(&[full(), seed()])));
        device.controller(|controller| controller.loses = Box::new(move |call, _| call == lost));
        let done = device.write_image(&seed());
        match found {
            true => {
                assert_eq!(done, Err(WriteError::Differs(Slot::A)), "write {lost}");
                assert_eq!(device.images(), [seed()], "write {lost}");
            }
            // The header that was to be gone is overwritten by the new one all the same.
            false => assert_eq!(done.map(|(slot, _)| slot), Ok(Slot::A)),
        }
    }
    // A device on which nothing sticks, and which says nothing.
    let device = Device::new(medium(&board(&[full(), seed()])));
    device.controller(|controller| controller.loses = Box::new(|_, _| true));
    let error = device.write_image(&seed()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "slot A: it does not hold what was written to it; slot B is as it was; replace the flash"
    );
    assert_eq!(device.images(), [seed(), full()]);
    let device = Device::new(Medium::blank());
    device.controller(|controller| controller.loses = Box::new(|_, _| true));
    assert_eq!(device.format(), Err(WriteError::Differs(Slot::A)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any bytes at all, most of them with headers that get past the first checks.
    #[test]
    fn no_bytes_panic_or_give_an_unchecked_policy(
        headers in prop::array::uniform2((any::<u32>(), 0u32..600, any::<bool>(), any::<u8>())),
        payload in prop::collection::vec(any::<u8>(), 600),
        noise in prop::collection::vec((0..SIZE as usize, any::<u8>()), 0..8),
        is_policy in any::<bool>(),
    ) {
        let mut bytes = vec![0; SIZE as usize];
        for (slot, (serial, length, is_sealed, patch)) in [A, B].into_iter().zip(headers) {
            let payload = if is_policy { full() } else { payload.clone() };
            bytes[slot..][..4].copy_from_slice(b"RPSL");
            bytes[slot + 4] = 1 + (patch % 16 == 0) as u8;
            bytes[slot + 8..][..4].copy_from_slice(&serial.to_le_bytes());
            let length = if is_policy && patch % 2 == 0 { payload.len() as u32 } else { length };
            bytes[slot + 12..][..4].copy_from_slice(&length.to_le_bytes());
            bytes[slot + SECTOR..][..payload.len()].copy_from_slice(&payload);
            if is_sealed {
                bytes = medium(&sealed(&Device::new(Medium::of(bytes)), slot, 0, b"R")).bytes();
            }
        }
        noise.into_iter().for_each(|(at, byte)| bytes[at] = byte);
        let device = Device::new(Medium::of(bytes));
        for slot in Slot::BOTH {
            if let Ok(image) = device.load(slot) {
                let mut policy = Box::new(returnpath::policy::Policy::new());
                prop_assert_eq!(wire::decode(&image, &mut policy), Ok(()));
                prop_assert_eq!(policy.check(), Ok(()));
            }
        }
        // And whatever it was, a write makes it whole.
        if device.write_image(&seed()).is_ok() {
            prop_assert_eq!(&device.images()[0], &seed());
        } else {
            prop_assert!(!device.scan().is_board());
        }
    }

    #[test]
    fn noise_is_no_board(start in prop::collection::vec(any::<u8>(), 0..2 * SECTOR), size in 0..=SIZE as usize) {
        let mut bytes = start.clone();
        bytes.resize(size, 0xff);
        let device = Device::new(Medium::of(bytes));
        prop_assert!(start.starts_with(b"RPSL") || device.images().is_empty() && !device.scan().is_board());
    }
}
