//! Connections as they take a path, and as they end: `returnpath watch`.

use crate::exit::{self, Failure};
use crate::json;
use crate::kernel::conntrack::{Connection, Event, Events, shortcomings};
use crate::policy::{Path, Policy};
use crate::status::traffic;
use std::io::{ErrorKind, Write, stdout};
use std::os::fd::AsFd;

/// Of the JSON objects. Keys may be added to a version; with another meaning they make another one.
const VERSION: u32 = 1;

/// Prints a line for each connection that takes a path of the policy, and one when it ends, until whoever reads them has
/// gone.
///
/// # Errors
/// [`exit::REFUSED`]: the kernel does not tell, or the lines can not be written.
pub fn run(source: &str, policy: &Policy, json: bool) -> Result<u8, Failure> {
    let mut events = Events::listen()?;
    log::info!("{source}: {}; its connections are shown as they come", policy.count());
    shortcomings()?.iter().for_each(|line| log::warn!("{line}"));
    let mut output = stdout().lock();
    while events.wait(output.as_fd())? {
        let mut lines = String::new();
        events.take(|event| {
            if let Some(line) = line(&event, policy, json) {
                lines += &line;
                lines.push('\n');
            }
        })?;
        match output.write_all(lines.as_bytes()).and_then(|()| output.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
            other => other.map_err(|error| {
                Failure::new(exit::REFUSED, format!("standard output: {error}; start it again"))
            })?,
        }
    }
    Ok(0)
}

/// What is said of an event; `None` where it is about no path of the policy.
pub fn line(event: &Event, policy: &Policy, json: bool) -> Option<String> {
    let (word, connection) = match event {
        Event::Taken(connection) => ("taken", connection),
        Event::Ended(connection) => ("ended", connection),
        Event::Lost(count) => return Some(lost(*count, json)),
    };
    let mark = connection.mark & policy.mark_mask;
    let path = policy.paths.iter().find(|path| path.mark == mark)?;
    let width = policy.paths.iter().map(|path| path.name.len()).max().unwrap_or(0);
    Some(if json { object(word, path, connection) } else { text(word, path, width, connection) })
}

/// The columns are wide enough for IPv4 addresses with ports.
fn text(word: &str, path: &Path, width: usize, connection: &Connection) -> String {
    let Connection { protocol, source, destination, answering, sent, answered, .. } = connection;
    let (name, source, destination) = (&path.name, source.to_string(), destination.to_string());
    let mut line = format!("{word} {name:width$} {protocol:6} {source:21} → {destination:21}");
    let answering = answering.to_string();
    if answering != destination {
        line += &format!(" ({answering})");
    }
    if let (Some(sent), Some(answered)) = (sent, answered) {
        line += &format!(" sent: {sent}; answered: {answered}");
    }
    line.truncate(line.trim_end().len());
    line
}

fn object(word: &str, path: &Path, connection: &Connection) -> String {
    let Connection { protocol, source, destination, answering, sent, answered, .. } = connection;
    json::object(|json| {
        json.number("version", VERSION);
        json.string("event", word);
        json.string("path", &path.name);
        json.number("mark", path.mark);
        json.string("protocol", protocol);
        for (name, end) in [("source", source), ("destination", destination), ("answering", answering)] {
            json.object(name, |json| {
                json.string("address", end.address);
                json.number_or_null("port", end.port);
            });
        }
        traffic(json, "sent", *sent);
        traffic(json, "answered", *answered);
    })
}

/// That events were lost, which stands where they would have stood.
fn lost(count: u32, json: bool) -> String {
    match json {
        true => json::object(|json| {
            json.number("version", VERSION);
            json.string("event", "lost");
            json.number("events", count);
        }),
        false => format!("lost {count} events of the kernel: they came faster than they were read"),
    }
}
