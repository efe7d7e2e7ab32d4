//! What the host tool's command line takes: one source for it, its manual pages and its completions.

use clap::{Parser, Subcommand, ValueHint};
use returnpath::exit;
use returnpath::graph::Format;
use returnpath::kernel::partition::Board;
use returnpath::usage::{Exit, ROOM, Text};
use std::convert::Infallible;
use std::path::PathBuf;

/// Compiles the policies of returnpath, shows what they say and do, and keeps them on board partitions.
#[derive(Parser)]
#[command(name = "returnpath-board", version, arg_required_else_help = false, after_help = EXIT_CODES)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How it ends.
pub const EXITS: &[Exit] = &[
    Exit { code: 0, commands: &[], about: "done, or in the state asked for" },
    Exit { code: exit::USAGE, commands: &[], about: "wrong usage, or refused without --force" },
    Exit { code: exit::NO_POLICY, commands: &[], about: "no usable policy" },
    Exit {
        code: exit::NO_BOARD,
        commands: &["write", "read", "format"],
        about: "board device not found, not readable or not writable",
    },
];

const EXIT_CODES: &str = {
    const LENGTH: usize = Text::<ROOM>::of_exits(EXITS).length;
    const TEXT: Text<LENGTH> = Text::of_exits(EXITS);
    TEXT.as_str()
};

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Check a policy and encode it for the appliance
    Compile {
        /// The policy's source
        #[arg(value_name = "POLICY.toml")]
        source: PathBuf,
        /// Where to put the policy image
        #[arg(short, long, value_name = "POLICY.bin")]
        output: PathBuf,
    },
    /// Print a policy image as TOML that compiles to the same bytes
    Show {
        /// The policy image
        #[arg(value_name = "POLICY.bin")]
        image: PathBuf,
    },
    /// Print the `ip` and `nft` commands that have the same effect, for review
    Plan {
        /// The policy, in either form
        #[arg(value_name = "POLICY.toml|POLICY.bin")]
        policy: PathBuf,
    },
    /// Draw a policy: the ways in and out of each path, for a runbook
    Graph {
        /// The policy, in either form
        #[arg(value_name = "POLICY.toml|POLICY.bin")]
        policy: PathBuf,
        /// Where to put the picture; `-` for standard output
        #[arg(short, long, value_name = "FILE.svg")]
        output: PathBuf,
        /// What to write; without it FILE's extension says so: .svg, .mmd, .dot; and it is svg for `-`
        #[arg(long, value_name = "FORMAT")]
        format: Option<Format>,
    },
    /// Write a policy to the spare slot of a board partition, and read it back
    Write {
        #[command(flatten)]
        device: Device,
        /// The policy, in either form
        #[arg(value_name = "POLICY.toml|POLICY.bin")]
        policy: PathBuf,
    },
    /// Show what the slots of a board partition hold, and which one boots
    Read {
        #[command(flatten)]
        device: Device,
    },
    /// Make an empty board partition; a plain file that is not there is made, with 1 MiB
    Format {
        #[command(flatten)]
        device: Device,
        /// Overwrite whatever the device holds
        #[arg(long)]
        force: bool,
    },
}

/// Where a board partition is.
#[derive(clap::Args)]
pub struct Device {
    /// The board partition: a block device, a plain file, or PARTLABEL=LABEL
    #[arg(long, value_name = "DEV", value_parser = parse_board, value_hint = ValueHint::FilePath)]
    pub device: Board,
}

fn parse_board(text: &str) -> Result<Board, Infallible> {
    Ok(Board::parse(text))
}
