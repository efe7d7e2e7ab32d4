//! Where a policy comes from: a file, or the slots of a board partition.

use crate::board::{self, Problem, Slot};
use crate::exit::{self, Failure};
use crate::kernel::Error;
use crate::kernel::device::{Device, input, name_of_input};
use crate::kernel::files::to_read;
use crate::kernel::partition::Board;
use crate::policy::{Policy, wire};
use core::fmt::Display;
use rustix::fs::OFlags;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where a policy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In a file, made by `returnpath-board compile`.
    File(PathBuf),
    /// In such a file that is standard input.
    Input,
    /// In the newest usable slot of a board partition.
    Board(Board),
    /// In that of a board partition that is standard input.
    BoardInput,
}

/// The policy that this run is about. It lies in `.bss`: it is larger than many a stack, and PID 1 shall need little of it.
pub fn policy() -> MutexGuard<'static, Policy> {
    static POLICY: Mutex<Policy> = Mutex::new(Policy::new());
    POLICY.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Source {
    /// Reads and checks the policy; returns what it was read from, for whoever is told about it.
    ///
    /// # Errors
    /// [`exit::NO_POLICY`], [`exit::NO_BOARD`].
    pub fn load(&self, policy: &mut Policy) -> Result<String, Failure> {
        match self {
            Source::File(path) => from_file(
                to_read(path, OFlags::empty()).map_err(io::Error::from).map(File::from),
                path.display().to_string(),
                policy,
            ),
            Source::Input => from_file(from_the_start(input()), name_of_input(), policy),
            Source::Board(board) => Slots::of(board)?.newest(policy),
            Source::BoardInput => Slots::of_input()?.newest(policy),
        }
    }
}

impl Source {
    /// Reads and checks the policy of a file, or those of a board, the newest first, until one is taken.
    ///
    /// # Errors
    /// [`exit::NO_POLICY`], [`exit::NO_BOARD`]; [`exit::REFUSED`], if none is taken.
    pub fn first<T>(
        &self,
        policy: &mut Policy,
        mut attempt: impl FnMut(&str, &Policy) -> Result<T, Error>,
    ) -> Result<T, Failure> {
        match self {
            Source::Board(board) => Slots::of(board)?.first(policy, attempt),
            Source::BoardInput => Slots::of_input()?.first(policy, attempt),
            Source::File(_) | Source::Input => {
                let name = self.load(policy)?;
                Ok(attempt(&name, policy)?)
            }
        }
    }
}

/// A guard reads standard input more than once. What can not be read again, as a pipe, says so itself.
fn from_the_start(file: io::Result<File>) -> io::Result<File> {
    file.inspect(|mut file| {
        let _ = file.rewind();
    })
}

fn from_file(file: io::Result<File>, name: String, policy: &mut Policy) -> Result<String, Failure> {
    let unusable = |reason: &dyn Display| Failure::new(exit::NO_POLICY, format!("{name}: {reason}"));
    let unread = |reason: &dyn Display| {
        unusable(&format_args!("{reason}; name a file made by `returnpath-board compile`"))
    };
    let file = file.map_err(|error| unread(&error))?;
    let mut image = vec![0; wire::MAX_ENCODED];
    let length = wire::read(Reader(file), &mut image).map_err(|error| unread(&error))?;
    wire::decode(&image[..length], policy).map_err(|error| unusable(&error))?;
    Ok(name)
}

/// A file, to readers that know no operating system; a pipe is as good here.
struct Reader(File);

impl embedded_io::ErrorType for Reader {
    type Error = io::Error;
}

impl embedded_io::Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

/// The usable policies of a board partition, the newest first.
pub struct Slots {
    name: String,
    device: Device,
    buffer: Box<board::Buffer>,
    order: Vec<Slot>,
}

impl Slots {
    /// Those of the first partition of that name which can be read. What is wrong with a slot is said in the log.
    ///
    /// # Errors
    /// [`exit::NO_BOARD`]: there is none, it can not be opened, or nothing of it can be read.
    pub fn of(board: &Board) -> Result<Slots, Failure> {
        let files = board.find();
        let remedy = "flash the image, or name the partition with `--board` or returnpath.board=";
        let mut failure = Failure::new(exit::NO_BOARD, format!("{board}: not found; {remedy}"));
        for file in &files {
            match Slots::open(file) {
                Ok(slots) if files.len() > 1 => {
                    let names: Vec<_> = files.iter().map(|file| file.to_string_lossy()).collect();
                    log::warn!(
                        "{board}: {} have this label; {} is taken; rename the others",
                        names.join(", "),
                        file.display()
                    );
                    return Ok(slots);
                }
                Ok(slots) => return Ok(slots),
                Err(unusable) => failure = unusable,
            }
        }
        Err(failure)
    }

    /// Those of the partition that is standard input.
    ///
    /// # Errors
    /// [`exit::NO_BOARD`]: it is no device, or nothing of it can be read.
    pub fn of_input() -> Result<Slots, Failure> {
        Slots::read(Device::of_input(), name_of_input())
    }

    fn open(file: &Path) -> Result<Slots, Failure> {
        Slots::read(Device::open(file, false), file.display().to_string())
    }

    fn read(device: Result<Device, Error>, name: String) -> Result<Slots, Failure> {
        let mut device = device.map_err(|error| Failure::new(exit::NO_BOARD, error.to_string()))?;
        let mut buffer = buffer();
        let found = board::scan(&mut device, &mut buffer);
        if let (Err(Problem::Unreadable(_)), Err(problem @ Problem::Unreadable(_))) = (&found.a, &found.b) {
            return Err(Failure::new(exit::NO_BOARD, format!("{name}: {problem}")));
        }
        for slot in Slot::BOTH {
            match found.state(slot) {
                Err(Problem::Empty) | Ok(_) => {}
                Err(problem) => log::warn!("{name}: {slot}: {problem}"),
            }
        }
        let mut order: Vec<Slot> = found.newest_first().collect();
        order.reverse();
        Ok(Slots { name, device, buffer, order })
    }

    /// The next policy, and what to call it. `None`: there is no further one.
    fn next(&mut self, policy: &mut Policy) -> Option<String> {
        while let Some(slot) = self.order.pop() {
            match board::load(&mut self.device, slot, &mut self.buffer, policy) {
                Ok(header) => return Some(format!("{} ({slot}, serial {})", self.name, header.serial)),
                Err(problem) => log::warn!("{}: {slot}: {problem}", self.name),
            }
        }
        None
    }

    /// Takes the policies, the newest first, until one is taken.
    ///
    /// # Errors
    /// [`exit::NO_POLICY`], [`exit::REFUSED`].
    pub fn first<T>(
        mut self,
        policy: &mut Policy,
        mut attempt: impl FnMut(&str, &Policy) -> Result<T, Error>,
    ) -> Result<T, Failure> {
        let mut refusal = None;
        while let Some(name) = self.next(policy) {
            if let Some(line) = refusal.take() {
                log::error!("{line}");
            }
            match attempt(&name, policy) {
                Ok(taken) => return Ok(taken),
                Err(error) => refusal = Some(format!("{name}: {error}")),
            }
        }
        Err(refusal.map_or_else(|| self.exhausted(), |line| Failure::new(exit::REFUSED, line)))
    }

    /// The failure where [`Slots::next`] gives none at all.
    fn exhausted(&self) -> Failure {
        Failure::new(
            exit::NO_POLICY,
            format!("{}: no slot has a usable policy; write one with `returnpath-board write`", self.name),
        )
    }

    fn newest(mut self, policy: &mut Policy) -> Result<String, Failure> {
        self.next(policy).ok_or_else(|| self.exhausted())
    }
}

/// Room for the largest image, on the heap from the start: it is larger than many a stack.
pub fn buffer() -> Box<board::Buffer> {
    // The length is the array's, so the second way is never taken.
    vec![0; wire::MAX_ENCODED]
        .into_boxed_slice()
        .try_into()
        .unwrap_or_else(|_| Box::new([0; wire::MAX_ENCODED]))
}
