//! The kernel log: where whoever looks for the reason of a boot that went wrong will look first.

use env_logger::{Builder, Target};
use log::{Level, LevelFilter};
use std::fs::OpenOptions;
use std::io::{Write, stderr};

/// Longest line, in bytes: the kernel refuses a record over 1024 with what it adds (`devkmsg_write`, kernel/printk/printk.c).
const LONGEST: usize = 900;

/// Sends what is logged from now on to `/dev/kmsg`, with its level. Errors go to standard error as well where
/// `is_attended`: somebody has started the stage by hand. Without `/dev/kmsg` everything goes there.
pub fn log_there(level: LevelFilter, is_attended: bool) {
    let mut builder = Builder::new();
    builder.filter_level(level);
    match OpenOptions::new().write(true).open("/dev/kmsg") {
        Ok(kmsg) => {
            builder.target(Target::Pipe(Box::new(kmsg)));
            builder.format(move |to, record| {
                let text = one_line(record.args().to_string());
                if is_attended && record.level() == Level::Error {
                    let _ = writeln!(stderr(), "returnpath: {text}");
                }
                writeln!(to, "<{}>returnpath: {text}", severity(record.level()))
            });
        }
        Err(_) => {
            builder.format(|to, record| writeln!(to, "returnpath: {}", one_line(record.args().to_string())));
        }
    }
    builder.init();
}

/// `man 3 syslog`.
fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

fn one_line(text: String) -> String {
    let mut text = text.replace(char::is_control, " ");
    text.truncate(text.floor_char_boundary(LONGEST));
    text
}
