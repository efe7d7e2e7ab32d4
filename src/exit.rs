//! How a run ends: the exit codes that scripts rely on, and the one line that says why.

use crate::kernel::Error;

/// Our own work crashed or took too long (`returnpath init` alone).
pub const BROKEN: u8 = 1;
/// Wrong usage.
pub const USAGE: u8 = 2;
/// No usable policy.
pub const NO_POLICY: u8 = 3;
/// The kernel refused, and everything is as it was before.
pub const REFUSED: u8 = 4;
/// `status`: the kernel differs from the policy.
pub const DIFFERS: u8 = 5;
/// Board device not found, not readable or not writable.
pub const NO_BOARD: u8 = 6;

/// Why a run ends early.
#[derive(Debug)]
pub struct Failure {
    /// Its exit code.
    pub code: u8,
    /// The thing, the reason and the remedy.
    pub line: String,
}

impl Failure {
    /// A failure with an exit code of this module.
    pub fn new(code: u8, line: impl Into<String>) -> Failure {
        Failure { code, line: line.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::new(REFUSED, error.to_string())
    }
}
