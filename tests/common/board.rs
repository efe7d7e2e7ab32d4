//! A board partition in memory, with the faults that flash has.

#![allow(dead_code, reason = "not every test uses all of it")]

use embedded_io::{ErrorKind, ErrorType, Read, Seek, SeekFrom, Write};
use returnpath::board::{self, Header, Problem, SECTOR, SIZE, Scan, Slot, WriteError};
use returnpath::policy::{Policy, wire};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// A sector's bytes.
pub type Sector = [u8; SECTOR];

/// What is on the medium: a shared ground, and the sectors that differ from it.
#[derive(Clone)]
pub struct Medium {
    ground: Rc<Vec<u8>>,
    changed: BTreeMap<usize, Sector>,
}

impl Medium {
    /// Nothing but zeroes.
    pub fn blank() -> Medium {
        Medium::of(vec![0; SIZE as usize])
    }

    /// These bytes; they may be too few.
    pub fn of(bytes: Vec<u8>) -> Medium {
        Medium { ground: Rc::new(bytes), changed: BTreeMap::new() }
    }

    /// All of it.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.ground.to_vec();
        for (number, sector) in &self.changed {
            bytes[number * SECTOR..][..SECTOR].copy_from_slice(sector);
        }
        bytes
    }

    /// One sector.
    pub fn sector(&self, number: usize) -> Sector {
        let ground = || self.ground[number * SECTOR..].first_chunk().copied().expect("a whole sector");
        self.changed.get(&number).copied().unwrap_or_else(ground)
    }

    /// Puts one sector in place.
    pub fn set(&mut self, number: usize, sector: Sector) {
        self.changed.insert(number, sector);
    }

    /// Changes single bytes.
    pub fn patch(&mut self, at: usize, change: impl FnOnce(&mut u8)) {
        let mut sector = self.sector(at / SECTOR);
        change(&mut sector[at % SECTOR]);
        self.set(at / SECTOR, sector);
    }
}

/// What a device did, in order.
pub enum Event {
    /// A sector was written.
    Write(usize, Box<Sector>),
    /// Everything before is on the medium.
    Flush,
}

/// A fault, given the number of the call (counted from 0, each kind of call by itself) and its sector.
pub type Fault = Box<dyn Fn(usize, usize) -> bool>;

/// A medium with a controller in front of it.
pub struct Controller {
    /// What is on the medium.
    pub medium: Medium,
    /// What was written, and when it was flushed.
    pub events: Vec<Event>,
    /// Sectors whose reading is to be noticed, until they are written.
    pub watched: Option<usize>,
    /// Whether the watched sector was read.
    pub seen: bool,
    /// Which reads fail.
    pub read_fails: Fault,
    /// Which writes fail.
    pub write_fails: Fault,
    /// Which flushes fail; the sector is always 0.
    pub flush_fails: Fault,
    /// Which writes get lost, and nobody is told.
    pub loses: Fault,
    calls: [usize; 3],
}

/// A handle on a device; a clone is a second one, with a position of its own.
#[derive(Clone)]
pub struct Device {
    controller: Rc<RefCell<Controller>>,
    at: usize,
}

impl Device {
    /// A device without faults.
    pub fn new(medium: Medium) -> Device {
        let never = || Box::new(|_, _| false);
        let controller = Controller {
            medium,
            events: Vec::new(),
            watched: None,
            seen: false,
            read_fails: never(),
            write_fails: never(),
            flush_fails: never(),
            loses: never(),
            calls: [0; 3],
        };
        Device { controller: Rc::new(RefCell::new(controller)), at: 0 }
    }

    /// Looks at the controller, or sets up its faults.
    pub fn controller<T>(&self, work: impl FnOnce(&mut Controller) -> T) -> T {
        work(&mut self.controller.borrow_mut())
    }

    /// Writes an image as the host tool does.
    pub fn write_image(&self, image: &[u8]) -> Result<(Slot, Header), WriteError<ErrorKind>> {
        ROOM.with_borrow_mut(|(buffer, policy)| {
            board::write(&mut self.clone(), || Ok(self.clone()), image, buffer, policy)
        })
    }

    /// Makes it a board partition.
    pub fn format(&self) -> Result<(), WriteError<ErrorKind>> {
        ROOM.with_borrow_mut(|(buffer, _)| board::format(&mut self.clone(), || Ok(self.clone()), buffer))
    }

    /// Both slots.
    pub fn scan(&self) -> Scan<ErrorKind> {
        ROOM.with_borrow_mut(|(buffer, _)| board::scan(&mut self.clone(), buffer))
    }

    /// The image of one slot.
    pub fn load(&self, slot: Slot) -> Result<Vec<u8>, Problem<ErrorKind>> {
        ROOM.with_borrow_mut(|(buffer, policy)| {
            let header = board::load(&mut self.clone(), slot, buffer, policy)?;
            Ok(buffer[..header.length as usize].to_vec())
        })
    }

    /// What boots, and what would if that were refused: the usable images, the newest first.
    pub fn images(&self) -> Vec<Vec<u8>> {
        self.scan().newest_first().filter_map(|slot| self.load(slot).ok()).collect()
    }
}

thread_local! {
    static ROOM: RefCell<(Box<board::Buffer>, Box<Policy>)> =
        RefCell::new((Box::new([0; wire::MAX_ENCODED]), Box::new(Policy::new())));
}

impl Controller {
    /// Counts a call of one kind, and says which one it is.
    fn call(&mut self, kind: usize) -> usize {
        self.calls[kind] += 1;
        self.calls[kind] - 1
    }
}

impl ErrorType for Device {
    type Error = ErrorKind;
}

impl Seek for Device {
    fn seek(&mut self, to: SeekFrom) -> Result<u64, ErrorKind> {
        let size = self.controller(|controller| controller.medium.ground.len());
        self.at = match to {
            SeekFrom::Start(at) => at as usize,
            SeekFrom::End(by) => size.checked_add_signed(by as isize).ok_or(ErrorKind::InvalidInput)?,
            SeekFrom::Current(by) => {
                self.at.checked_add_signed(by as isize).ok_or(ErrorKind::InvalidInput)?
            }
        };
        Ok(self.at as u64)
    }
}

impl Read for Device {
    /// As much as is left of one sector.
    fn read(&mut self, into: &mut [u8]) -> Result<usize, ErrorKind> {
        let (number, offset) = (self.at / SECTOR, self.at % SECTOR);
        let len = self.controller(|controller| {
            let size = controller.medium.ground.len();
            let len = into.len().min(SECTOR - offset).min(size.saturating_sub(self.at));
            if len == 0 {
                return Ok(0);
            }
            let call = controller.call(0);
            if (controller.read_fails)(call, number) {
                return Err(ErrorKind::Other);
            }
            controller.seen |= controller.watched == Some(number);
            match controller.medium.changed.get(&number) {
                Some(sector) => into[..len].copy_from_slice(&sector[offset..][..len]),
                None => into[..len].copy_from_slice(&controller.medium.ground[self.at..][..len]),
            }
            Ok(len)
        })?;
        self.at += len;
        Ok(len)
    }
}

impl Write for Device {
    /// One sector: never less, never across two.
    fn write(&mut self, from: &[u8]) -> Result<usize, ErrorKind> {
        assert!(self.at.is_multiple_of(SECTOR) && from.len().is_multiple_of(SECTOR), "whole sectors alone");
        let number = self.at / SECTOR;
        let sector = *from.first_chunk().expect("a whole sector");
        self.controller(|controller| {
            let call = controller.call(1);
            if (controller.write_fails)(call, number) {
                return Err(ErrorKind::Other);
            }
            controller.events.push(Event::Write(number, Box::new(sector)));
            if controller.watched == Some(number) {
                controller.watched = None;
            }
            if !(controller.loses)(call, number) {
                controller.medium.set(number, sector);
            }
            Ok(())
        })?;
        self.at += SECTOR;
        Ok(SECTOR)
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        self.controller(|controller| {
            let call = controller.call(2);
            if (controller.flush_fails)(call, 0) {
                return Err(ErrorKind::Other);
            }
            controller.events.push(Event::Flush);
            Ok(())
        })
    }
}

/// A formatted device to which these images were written.
pub fn board(images: &[Vec<u8>]) -> Device {
    let device = Device::new(Medium::blank());
    device.format().unwrap();
    for image in images {
        device.write_image(image).unwrap();
    }
    device
}
