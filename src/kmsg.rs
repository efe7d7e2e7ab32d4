//! The kernel log: where whoever looks for the reason of a boot that went wrong will look first.

use crate::lines::{complain, cut, one_line, severity};
use env_logger::{Builder, Target};
use log::{Level, LevelFilter};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};

/// Longest line, in bytes: the kernel refuses a record over 1024 with what it adds (`devkmsg_write`, kernel/printk/printk.c).
const LONGEST: usize = 900;

/// Sends what is logged from now on to `/dev/kmsg`, with its level. Errors go to standard error as well where
/// `is_attended`: somebody has started the stage by hand. Without `/dev/kmsg` everything goes there.
pub fn log_there(level: LevelFilter, is_attended: bool) {
    let mut builder = Builder::new();
    builder.filter_level(level);
    match open() {
        Ok(kmsg) => {
            builder.target(Target::Pipe(Box::new(Kmsg(kmsg))));
            builder.format(move |to, record| {
                let text = record_of(&record.args().to_string());
                if is_attended && record.level() == Level::Error {
                    complain(&text);
                }
                writeln!(to, "<{}>returnpath: {text}", severity(record.level()))
            });
        }
        Err(_) => {
            builder
                .format(|to, record| writeln!(to, "returnpath: {}", record_of(&record.args().to_string())));
        }
    }
    builder.init();
}

/// The kernel takes ten lines in five seconds from one opening of its log (`printk.devkmsg=ratelimit`, the default). So
/// each line opens it anew; when `/dev` is gone, the first opening has to do.
struct Kmsg(File);

impl Write for Kmsg {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match open() {
            Ok(mut fresh) => fresh.write(line),
            Err(_) => self.0.write(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One line for the kernel log, from a process that has nobody else left to tell.
pub fn say(level: Level, line: &str) {
    if let Ok(mut kmsg) = open() {
        // One write is one record.
        let record = format!("<{}>returnpath: {}\n", severity(level), record_of(line));
        let _ = kmsg.write_all(record.as_bytes());
    }
}

fn open() -> io::Result<File> {
    OpenOptions::new().write(true).open("/dev/kmsg")
}

fn record_of(text: &str) -> String {
    cut(&one_line(text), LONGEST).into()
}
