//! What the firmware's command line takes: one source for `--help`, the manual pages and the completions.
//!
//! All of it is `const`. The compiler puts [`HELP`] together, and nothing else of it is in the firmware: what only the
//! manual shows costs nothing there.

mod text;

pub use text::{HELP, ROOM, Text};

use crate::exit;

/// What `--help` says the program is for.
pub const ABOUT: &str = "connections that came in through a declared router go back out through that router";

/// A command.
pub struct Command {
    /// Its word.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Further words, which are for somebody else to read.
    pub rest: Option<Word>,
}

/// An option of commands.
pub struct Choice {
    /// Its word, without the dashes.
    pub name: &'static str,
    /// What stands for its value, which is the next word; without one it is a switch.
    pub value: Option<&'static str>,
    /// The commands that take it.
    pub commands: &'static [&'static str],
    /// Of the options that have this in common, a command takes one. They stand side by side in [`OPTIONS`].
    pub one_of: Option<&'static str>,
    /// What it does, in a line.
    pub about: &'static str,
    /// What the manual adds to that line, in sentences.
    pub details: &'static str,
}

/// A word with a meaning.
pub struct Word {
    /// The word.
    pub name: &'static str,
    /// Its meaning, in a line.
    pub about: &'static str,
}

/// An exit code.
pub struct Exit {
    /// The code.
    pub code: u8,
    /// The commands that end with it; none: each.
    pub commands: &'static [&'static str],
    /// When.
    pub about: &'static str,
}

/// An option of the kernel command line.
pub struct BootOption {
    /// Its word, with the `=`.
    pub name: &'static str,
    /// What stands for its value.
    pub value: &'static str,
    /// What holds where it is not given.
    pub default: &'static str,
    /// What it is, in sentences.
    pub about: &'static str,
}

/// Every command.
pub const COMMANDS: &[Command] = &[
    Command { name: "apply", about: "install the policy: everything or nothing", rest: None },
    Command { name: "check", about: "say what would break the policy, and change nothing", rest: None },
    Command {
        name: "status",
        about: "compare the kernel with the policy, and show what takes each path",
        rest: None,
    },
    Command { name: "watch", about: "show connections as they take a path, and as they end", rest: None },
    Command { name: "confirm", about: "keep the policy that `apply --confirm` has put on trial", rest: None },
    Command { name: "guard", about: "install the policy, stay, and put back what is taken away", rest: None },
    Command { name: "explain", about: "say what happens to a connection, and why", rest: None },
    Command { name: "remove", about: "take out everything that returnpath ever installed", rest: None },
    Command {
        name: "init",
        about: "the early-boot stage; as PID 1 it then executes the next init",
        rest: Some(Word { name: "ARGUMENTS", about: "what PID 1 was started with, for the next init" }),
    },
];

/// Every option of a command.
pub const OPTIONS: &[Choice] = &[
    Choice {
        name: "policy",
        value: Some("FILE"),
        commands: &["apply", "check", "status", "watch", "explain", "guard"],
        one_of: Some("source"),
        about: "take the policy from a file that `returnpath-board compile` made; - is standard input",
        details: "",
    },
    Choice {
        name: "board",
        value: Some("DEVICE"),
        commands: &["apply", "check", "status", "watch", "explain", "guard"],
        one_of: Some("source"),
        about: "take the policy from a board partition: PARTLABEL=<label>, a file, or - for standard input",
        details: "The newest of its slots that holds a usable policy counts. Standard input has to be a block device or a \
                  plain file; whoever is given it open needs no access to the device. Without this option and without \
                  --policy, the board is what returnpath.board= on the kernel command line says, or else \
                  PARTLABEL=returnpath.",
    },
    Choice {
        name: "strict",
        value: None,
        commands: &["apply", "check"],
        one_of: None,
        about: "take each warning of `check` for a refusal",
        details: "With `apply` nothing is changed then; a policy that is in force already is none to refuse. It does not go \
                  with --wait, since what starts before the network shall not wait for other programs, nor with --confirm: \
                  run `returnpath check --strict` before that.",
    },
    Choice {
        name: "wait",
        value: None,
        commands: &["apply"],
        one_of: None,
        about: "install what can be used already, and stay until the rest is there",
        details: "For a service that starts before the network. A next hop on a port that is missing, is down or has no \
                  address is left out, and its path is unreachable (or takes the main table, by when_down) until the \
                  kernel tells of it; and a gateway whose MAC a path takes by auto is awaited, too. Of a board the newest policy that the kernel takes is installed. A service manager \
                  is told READY=1 once the policy is in force, and by STATUS= what is awaited (sd_notify). It ends with 0 \
                  when nothing is awaited any more, and when another apply or remove has changed what was in force.",
    },
    Choice {
        name: "confirm",
        value: Some("SECONDS"),
        commands: &["apply"],
        one_of: None,
        about: "take the policy back by itself, unless `returnpath confirm` follows in time",
        details: "For whoever changes the router that he is logged in through, up to a day ahead. It returns when the policy \
                  is in force; a process in a session of its own waits, and puts everything back as it was if nobody has \
                  confirmed by then. The kernel log tells of that. Any other apply, and remove, end the trial, too.",
    },
    Choice {
        name: "iif",
        value: Some("PORT"),
        commands: &["explain"],
        one_of: None,
        about: "the port that the connection comes in by",
        details: "",
    },
    Choice {
        name: "mac",
        value: Some("MAC"),
        commands: &["explain"],
        one_of: None,
        about: "the source MAC of its frames",
        details: "`tcpdump -e` shows it. Needed where the port has MACs and a path knows its frames by them.",
    },
    Choice {
        name: "src",
        value: Some("ADDR"),
        commands: &["explain"],
        one_of: None,
        about: "who opens it",
        details: "",
    },
    Choice {
        name: "dst",
        value: Some("ADDR"),
        commands: &["explain"],
        one_of: None,
        about: "whom it is for, as it arrives",
        details: "",
    },
    Choice {
        name: "dnat",
        value: Some("ADDR"),
        commands: &["explain"],
        one_of: None,
        about: "whom DNAT of this host gives it to",
        details: "Needed where there is such a rule: explain looks into no table of other programs.",
    },
    Choice {
        name: "proto",
        value: Some("PROTOCOL"),
        commands: &["explain"],
        one_of: None,
        about: "its protocol: tcp, udp, sctp, icmp or a number",
        details: "As in a policy, icmp is an echo request of either family; icmpv6, as `watch` has it, is the same.",
    },
    Choice {
        name: "dport",
        value: Some("N"),
        commands: &["explain"],
        one_of: None,
        about: "the port that it is for, as it arrives",
        details: "For TCP, UDP and SCTP.",
    },
    Choice {
        name: "json",
        value: None,
        commands: &["check", "status", "watch", "explain"],
        one_of: None,
        about: "print JSON, for machines",
        details: "One object; of `watch` one for each line.",
    },
];

/// The options that the command which takes them can not do without.
pub const REQUIRED: &[&str] = &["iif", "src", "dst", "proto"];

/// Every exit code.
pub const EXITS: &[Exit] = &[
    Exit { code: 0, commands: &[], about: "done, or in the state asked for" },
    Exit {
        code: exit::BROKEN,
        commands: &["init"],
        about: "its own work crashed, or took longer than returnpath.timeout=",
    },
    Exit { code: exit::USAGE, commands: &[], about: "wrong usage" },
    Exit {
        code: exit::NO_POLICY,
        commands: &["apply", "check", "status", "watch", "explain", "guard", "init"],
        about: "no usable policy",
    },
    Exit {
        code: exit::REFUSED,
        commands: &[],
        about: "the kernel refused (`check`: would refuse), and everything is as it was before",
    },
    Exit {
        code: exit::DIFFERS,
        commands: &["status", "explain"],
        about: "the kernel differs from the policy",
    },
    Exit {
        code: exit::NO_BOARD,
        commands: &["apply", "check", "status", "watch", "explain", "guard", "init"],
        about: "board device not found or not readable",
    },
];

/// Every environment variable.
pub const ENVIRONMENT: &[Word] = &[
    Word { name: "RETURNPATH_LOG", about: "what is logged: error, warn or info (default info)" },
    Word {
        name: "NOTIFY_SOCKET",
        about: "where `apply --wait` and `guard` tell that the policy is in force (sd_notify)",
    },
    Word {
        name: "WATCHDOG_USEC",
        about: "how often, in microseconds, `guard` gives a sign of life at least (sd_watchdog_enabled)",
    },
    Word {
        name: "JOURNAL_STREAM",
        about: "where it names standard error, each line begins with its severity, as <3>",
    },
];

/// Every option of the kernel command line. `--help` does not show them: who boots with them reads the manual.
pub const BOOT_OPTIONS: &[BootOption] = &[
    BootOption {
        name: "returnpath.board=",
        value: "DEVICE",
        default: "PARTLABEL=returnpath",
        about: "Where the policy is: PARTLABEL=<label> or /dev/<name>.",
    },
    BootOption {
        name: "returnpath.next=",
        value: "PROGRAM",
        default: "/sbin/init",
        about: "What to execute after the stage, with arguments and environment untouched.",
    },
    BootOption {
        name: "returnpath.timeout=",
        value: "SECONDS",
        default: "10",
        about: "How long the boot waits for the stage at most, 1 to 600; seven tenths of it for the partition and the \
                ports. Where drivers of ports are loaded only by the next init, a short one saves waiting in vain.",
    },
    BootOption {
        name: "returnpath.log=",
        value: "LEVEL",
        default: "info",
        about: "What is logged: error, warn, info or off.",
    },
];
