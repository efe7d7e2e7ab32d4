//! The text of `--help`, put together by the compiler.

use super::{ABOUT, COMMANDS, Choice, ENVIRONMENT, EXITS, Exit, OPTIONS, REQUIRED};

/// What `--help` of the firmware prints.
pub const HELP: &str = {
    const LENGTH: usize = help::<ROOM>().length;
    const TEXT: Text<LENGTH> = help();
    TEXT.as_str()
};

/// Room for a text whose length is not known yet.
pub const ROOM: usize = 8192;

/// Where the meaning of a word begins.
const WORDS: usize = 21;
/// Where the meaning of an exit code begins.
const CODES: usize = 5;

/// A text that grows in place. One that has no room does not compile.
#[derive(Clone, Copy)]
pub struct Text<const SIZE: usize> {
    bytes: [u8; SIZE],
    /// Its length in bytes.
    pub length: usize,
}

const fn help<const SIZE: usize>() -> Text<SIZE> {
    let mut text = Text::new();
    text.add(&["returnpath: ", ABOUT, "\n"]);
    let mut at = 0;
    while at < COMMANDS.len() {
        text.add(&[if at == 0 { "\nusage: " } else { "\n       " }, "returnpath ", COMMANDS[at].name]);
        text.choices(COMMANDS[at].name);
        if let Some(rest) = &COMMANDS[at].rest {
            text.add(&[" [", rest.name, "]"]);
        }
        at += 1;
    }
    text.add(&["\n       returnpath --help | --version\n\ncommands:"]);
    at = 0;
    while at < COMMANDS.len() {
        text.entry(WORDS, &[COMMANDS[at].name], &[COMMANDS[at].about]);
        at += 1;
    }
    text.add(&["\noptions:"]);
    at = 0;
    while at < OPTIONS.len() {
        text.entry(WORDS, &OPTIONS[at].words(), &[OPTIONS[at].about]);
        at += 1;
    }
    text.add(&["\nexit codes:"]);
    text.exits(EXITS);
    text.add(&["\nenvironment:"]);
    at = 0;
    while at < ENVIRONMENT.len() {
        text.entry(WORDS, &[ENVIRONMENT[at].name], &[ENVIRONMENT[at].about]);
        at += 1;
    }
    text
}

impl<const SIZE: usize> Text<SIZE> {
    const fn new() -> Self {
        Self { bytes: [0; SIZE], length: 0 }
    }

    /// The exit codes of a program.
    pub const fn of_exits(exits: &[Exit]) -> Self {
        let mut text = Self::new();
        text.add(&["Exit codes:"]);
        text.exits(exits);
        text
    }

    /// The text itself.
    pub const fn as_str(&self) -> &str {
        match std::str::from_utf8(self.bytes.split_at(self.length).0) {
            Ok(text) => text,
            Err(_) => panic!("what is put together of text is text"),
        }
    }

    const fn add(&mut self, pieces: &[&str]) {
        let mut piece = 0;
        while piece < pieces.len() {
            let bytes = pieces[piece].as_bytes();
            let mut at = 0;
            while at < bytes.len() {
                self.bytes[self.length] = bytes[at];
                self.length += 1;
                at += 1;
            }
            piece += 1;
        }
    }

    /// A word and its meaning, on a line of their own.
    const fn entry(&mut self, column: usize, word: &[&str], meaning: &[&str]) {
        self.add(&["\n"]);
        let start = self.length;
        self.add(&["  "]);
        self.add(word);
        while self.length < start + column {
            self.add(&[" "]);
        }
        self.add(meaning);
    }

    const fn exits(&mut self, exits: &[Exit]) {
        let mut at = 0;
        while at < exits.len() {
            let exit = &exits[at];
            let digit = &[b'0' + exit.code];
            let digit = match std::str::from_utf8(digit) {
                Ok(digit) if exit.code < 10 => digit,
                _ => panic!("an exit code of two digits has no room"),
            };
            match exit.commands {
                [only] => self.entry(CODES, &[digit], &[only, ": ", exit.about]),
                _ => self.entry(CODES, &[digit], &[exit.about]),
            }
            at += 1;
        }
    }

    /// What a command takes: ` [--this | --or-that VALUE] --needed VALUE [--switch]`.
    const fn choices(&mut self, command: &str) {
        let mut close = "";
        let mut before: Option<&Choice> = None;
        let mut at = 0;
        while at < OPTIONS.len() {
            let option = &OPTIONS[at];
            if contains(option.commands, command) {
                match before {
                    Some(before) if before.excludes(option) => self.add(&[" | "]),
                    _ if contains(REQUIRED, option.name) => {
                        self.add(&[close, " "]);
                        close = "";
                    }
                    _ => {
                        self.add(&[close, " ["]);
                        close = "]";
                    }
                }
                self.add(&option.words());
                before = Some(option);
            }
            at += 1;
        }
        self.add(&[close]);
    }
}

impl Choice {
    /// The option as it is typed.
    const fn words(&self) -> [&'static str; 4] {
        match self.value {
            Some(value) => ["--", self.name, " ", value],
            None => ["--", self.name, "", ""],
        }
    }

    /// Whether a command takes either this one or the other.
    const fn excludes(&self, other: &Choice) -> bool {
        match (self.one_of, other.one_of) {
            (Some(mine), Some(its)) => same(mine, its),
            _ => false,
        }
    }
}

const fn contains(list: &[&str], word: &str) -> bool {
    let mut at = 0;
    while at < list.len() {
        if same(list[at], word) {
            return true;
        }
        at += 1;
    }
    false
}

const fn same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}
