//! Reading and writing a board partition need no heap: they work in the caller's buffer.

#[path = "common/heap.rs"]
mod heap;

use embedded_io::{ErrorKind, ErrorType, Read, Seek, SeekFrom, Write};
use heap::allocations;
use returnpath::board::{self, SIZE, Slot};
use returnpath::policy::{Policy, wire};
use std::cell::Cell;
use std::path::Path;

/// Bytes in memory that several handles share.
#[derive(Clone, Copy)]
struct Memory<'a> {
    bytes: &'a [Cell<u8>],
    at: usize,
}

impl ErrorType for Memory<'_> {
    type Error = ErrorKind;
}

impl Read for Memory<'_> {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, ErrorKind> {
        let from = &self.bytes[self.at..];
        let len = from.len().min(into.len());
        into[..len].iter_mut().zip(from).for_each(|(into, from)| *into = from.get());
        self.at += len;
        Ok(len)
    }
}

impl Write for Memory<'_> {
    fn write(&mut self, from: &[u8]) -> Result<usize, ErrorKind> {
        self.bytes[self.at..][..from.len()].iter().zip(from).for_each(|(into, from)| into.set(*from));
        self.at += from.len();
        Ok(from.len())
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}

impl Seek for Memory<'_> {
    fn seek(&mut self, to: SeekFrom) -> Result<u64, ErrorKind> {
        self.at = match to {
            SeekFrom::Start(at) => at as usize,
            SeekFrom::End(0) => self.bytes.len(),
            _ => return Err(ErrorKind::Unsupported),
        };
        Ok(self.at as u64)
    }
}

#[test]
fn no_heap() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/policy/full.bin");
    let image = std::fs::read(golden).unwrap();
    let mut bytes = vec![0; SIZE as usize];
    let cells = Cell::from_mut(bytes.as_mut_slice()).as_slice_of_cells();
    let device = || Memory { bytes: cells, at: 0 };
    let mut buffer: Box<board::Buffer> = Box::new([0; wire::MAX_ENCODED]);
    let mut policy = Box::new(Policy::new());

    assert_eq!(allocations(|| drop(Box::new(1))), 1, "the counter counts");
    let count = allocations(|| {
        board::format(&mut device(), || Ok(device()), &mut buffer).unwrap();
        for expected in [Slot::A, Slot::B] {
            let written = board::write(&mut device(), || Ok(device()), &image, &mut buffer, &mut policy);
            assert_eq!(written.unwrap().0, expected);
        }
        let mut loaded = 0;
        for slot in board::scan(&mut device(), &mut buffer).newest_first() {
            board::load(&mut device(), slot, &mut buffer, &mut policy).unwrap();
            loaded += policy.paths.len();
        }
        assert_eq!(loaded, 4);
    });
    assert_eq!(count, 0);
    // Nor do defects.
    cells[4096 + 30].set(!cells[4096 + 30].get());
    let count = allocations(|| {
        assert!(board::load(&mut device(), Slot::A, &mut buffer, &mut policy).is_err());
        assert!(policy.paths.is_empty(), "after an error the policy is empty");
    });
    assert_eq!(count, 0);
}
