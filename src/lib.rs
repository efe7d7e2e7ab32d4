//! returnpath makes every connection that came in through a declared router go back out through
//! that router. The way of the data, and the rooms it goes through, are in ARCHITECTURE.md.

pub mod board;
pub mod check;
pub mod exit;
pub mod explain;
#[cfg(feature = "host")]
pub mod graph;
pub mod guard;
pub mod init;
pub mod json;
pub mod kernel;
pub mod kmsg;
pub mod lines;
pub mod plan;
pub mod policy;
pub mod source;
pub mod status;
pub mod trial;
pub mod usage;
pub mod waiting;
pub mod watch;
