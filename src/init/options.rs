//! What the kernel command line says to us.

use crate::kernel::partition::Board;
use log::LevelFilter;
use std::time::Duration;

/// The stage's options. Nothing that is written there stops a boot: what makes no sense is named and left aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// `returnpath.board=`: where the policy is.
    pub board: Board,
    /// `returnpath.next=`: what runs after the stage.
    pub next: String,
    /// `returnpath.timeout=`: how long the boot waits for the stage at most, in seconds.
    pub timeout: Duration,
    /// `returnpath.log=`: the least severe level that is logged.
    pub log: LevelFilter,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            board: Board::default(),
            next: "/sbin/init".into(),
            timeout: Duration::from_secs(10),
            log: LevelFilter::Info,
        }
    }
}

impl Options {
    /// Those of the running kernel.
    pub fn of_this_boot() -> (Options, Vec<String>) {
        match std::fs::read("/proc/cmdline") {
            Ok(line) => Options::parse(&String::from_utf8_lossy(&line)),
            Err(error) => {
                (Options::default(), vec![format!("/proc/cmdline: {error}; the defaults are taken")])
            }
        }
    }

    /// Reads a kernel command line; of an option that is given twice the last one counts. The second part is what was
    /// left aside, one line each.
    pub fn parse(line: &str) -> (Options, Vec<String>) {
        let (mut options, mut aside) = (Options::default(), Vec::new());
        for word in words(line) {
            let Some(option) = word.strip_prefix("returnpath.") else { continue };
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            if let Err(remedy) = options.set(key, value) {
                aside.push(format!("kernel command line: {word}: left aside; {remedy}"));
            }
        }
        (options, aside)
    }

    /// Sets an option, or says what it takes.
    fn set(&mut self, key: &str, value: &str) -> Result<(), &'static str> {
        let is_path = value.starts_with('/');
        match (key, value.strip_prefix("PARTLABEL="), value.parse()) {
            ("board", Some(label), _) if !label.is_empty() => self.board = Board::parse(value),
            ("board", ..) if is_path => self.board = Board::parse(value),
            ("board", ..) => return Err("it takes PARTLABEL=<label> or /dev/<name>"),
            ("next", ..) if is_path => self.next = value.into(),
            ("next", ..) => return Err("it takes the full path of a program"),
            ("timeout", _, Ok(seconds @ 1..=600)) => self.timeout = Duration::from_secs(seconds),
            ("timeout", ..) => return Err("it takes 1 to 600 seconds"),
            ("log", ..) => self.log = value.parse().map_err(|_| "it takes error, warn, info or off")?,
            _ => return Err("the options are board, next, timeout and log"),
        }
        Ok(())
    }
}

/// The words of a command line up to `--`, behind which all belongs to init. Quotes hold a word together and are no part
/// of it (`next_arg`, `lib/cmdline.c`).
fn words(line: &str) -> impl Iterator<Item = String> {
    let mut is_quoted = false;
    let split = line.trim().split(move |letter: char| {
        is_quoted ^= letter == '"';
        letter.is_whitespace() && !is_quoted
    });
    split.take_while(|word| *word != "--").map(|word| word.replace('"', ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn defaults_hold_where_nothing_is_said() {
        assert_eq!(Options::parse("console=ttyS0 quiet returnpathology=1\n"), (Options::default(), vec![]));
    }

    #[test]
    fn the_last_one_counts_up_to_the_double_dash() {
        let line = "returnpath.timeout=3 returnpath.board=PARTLABEL=a \"returnpath.board=PARTLABEL=my board\" \
                    returnpath.next=/bin/sh returnpath.log=warn -- returnpath.next=/x";
        let (options, aside) = Options::parse(line);
        assert_eq!(aside, [""; 0]);
        assert_eq!(options.board, Board::Label("my board".into()));
        assert_eq!((options.next.as_str(), options.log), ("/bin/sh", LevelFilter::Warn));
        assert_eq!(options.timeout, Duration::from_secs(3));
    }

    #[test]
    fn nonsense_is_left_aside() {
        for (word, remedy) in [
            ("returnpath.timeout=0", "it takes 1 to 600 seconds"),
            ("returnpath.timeout=soon", "it takes 1 to 600 seconds"),
            ("returnpath.timeout=601", "it takes 1 to 600 seconds"),
            ("returnpath.board=sda3", "it takes PARTLABEL=<label> or /dev/<name>"),
            ("returnpath.board=PARTLABEL=", "it takes PARTLABEL=<label> or /dev/<name>"),
            ("returnpath.next=init", "it takes the full path of a program"),
            ("returnpath.log=loud", "it takes error, warn, info or off"),
            ("returnpath.next", "it takes the full path of a program"),
            ("returnpath.tiemout=3", "the options are board, next, timeout and log"),
        ] {
            let (options, aside) = Options::parse(&format!("quiet {word} ro"));
            assert_eq!(options, Options::default());
            assert_eq!(aside, [format!("kernel command line: {word}: left aside; {remedy}")]);
        }
    }

    proptest! {
        #[test]
        fn no_line_breaks_it(line in "(returnpath\\.|next|=|\"|--| |/|[a-z]){0,40}") {
            let (options, _) = Options::parse(&line);
            prop_assert!(options.next.starts_with('/'));
        }
    }
}
