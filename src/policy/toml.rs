//! The TOML form of a policy: what people write. Host only.
//!
//! The document is walked by hand, since every error names its file and line, and a rule broken is
//! as much an error as a key misspelt: a table of lines remembers where each value stood.

mod render;

pub use render::render;

use super::{AUTO, DEFAULT_MARK_MASK, Invalid, Key, MAX_MACS, MAX_NAME, MAX_PATHS, Mac, Name, Path, Policy};
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;
use std::ops::Range;
use std::str::FromStr;
use toml_edit::{Document, Item, TableLike, Value};

/// What is wrong with a policy source. Displays as one line: `file:line: key: reason; remedy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    file: String,
    /// Counted from 1.
    line: usize,
    what: String,
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

impl std::error::Error for Error {}

/// The bytes of the source called `name`, as text.
pub fn text<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a str, Error> {
    std::str::from_utf8(bytes).map_err(|error| Error {
        file: name.to_owned(),
        line: 1 + newlines(&bytes[..error.valid_up_to()]).count(),
        what: "not UTF-8 text; save the file as UTF-8".to_owned(),
    })
}

/// Reads and checks the policy in `text`; `name` is what errors call the source.
///
/// Boxed, since a policy is hundreds of kilobytes whatever is in it.
pub fn parse(name: &str, text: &str) -> Result<Box<Policy>, Error> {
    let source = Source { name, text, newlines: newlines(text.as_bytes()).collect() };
    let document = Document::parse(text).map_err(|error| source.syntax(&error))?;
    let mut policy = Box::new(Policy::new());
    let lines = fill(&source, document.as_table(), &mut policy)?;
    policy.check().map_err(|invalid| Error {
        file: name.to_owned(),
        line: lines.of(&invalid),
        what: invalid.to_string(),
    })?;
    Ok(policy)
}

struct Source<'a> {
    name: &'a str,
    text: &'a str,
    /// Where each line ends: one scan for the tens of thousands of values of a large policy.
    newlines: Vec<usize>,
}

impl Source<'_> {
    /// The line on which `span` begins, counted from 1.
    fn line(&self, span: Option<Range<usize>>) -> usize {
        let start = span.map_or(0, |span| span.start);
        1 + self.newlines.partition_point(|&newline| newline < start)
    }

    fn error(&self, line: usize, path: Option<&str>, key: &str, what: impl Display) -> Error {
        let path = path.map_or(String::new(), |name| format!("path {}: ", name.escape_debug()));
        Error { file: self.name.to_owned(), line, what: format!("{path}{}: {what}", key.escape_debug()) }
    }

    fn syntax(&self, error: &toml_edit::TomlError) -> Error {
        let word = error.span().and_then(|span| self.text.get(span));
        let what = match (error.message(), word) {
            ("duplicate key", Some(key)) => format!("{key}: given twice; remove one"),
            ("integer number overflowed", Some(number)) => out_of_range(number),
            (message, _) => {
                let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
                format!("not TOML: {message}; correct it there")
            }
        };
        Error { file: self.name.to_owned(), line: self.line(error.span()), what }
    }
}

fn out_of_range(number: impl Display) -> String {
    format!("{number} is out of range; choose a number within 0-{}", u32::MAX)
}

fn newlines(text: &[u8]) -> impl Iterator<Item = usize> {
    (0..text.len()).filter(|&at| text[at] == b'\n')
}

/// Where each value of the policy stood: path, key and place in the key's list, each as in [`Invalid`].
#[derive(Default)]
struct Lines(BTreeMap<(Option<usize>, Key, Option<usize>), usize>);

impl Lines {
    /// The line to blame: the list's entry, or the key, or the path's header.
    fn of(&self, invalid: &Invalid) -> usize {
        let Invalid { path, key, item, .. } = *invalid;
        [(path, key, item), (path, key, None), (path, Key::Name, None)]
            .iter()
            .find_map(|place| self.0.get(place).copied())
            .unwrap_or(1)
    }
}

/// One `key = value`, or one table under its header.
struct Entry<'a> {
    source: &'a Source<'a>,
    /// The path whose key this is, and its number.
    path: Option<(usize, &'a str)>,
    key: Key,
    line: usize,
    item: &'a Item,
}

impl<'a> Entry<'a> {
    fn error(&self, line: usize, what: impl Display) -> Error {
        let path = self.path.map(|(_, name)| name);
        self.source.error(line, path, self.key.as_str(), what)
    }

    fn wrong_type(&self, expected: &str) -> Error {
        self.found(self.line, self.item.type_name(), expected)
    }

    fn found(&self, line: usize, found: &str, expected: &str) -> Error {
        let example = example(self.key);
        self.error(line, format!("found {found}, expected {expected}; write it as in {example}"))
    }

    fn number(&self) -> Result<u32, Error> {
        let number = self.item.as_integer().ok_or_else(|| self.wrong_type("an integer"))?;
        u32::try_from(number).map_err(|_| self.error(self.line, out_of_range(number)))
    }

    fn flag(&self) -> Result<bool, Error> {
        self.item.as_bool().ok_or_else(|| self.wrong_type("true or false"))
    }

    fn word<T, E: Display>(&self, parse: impl Fn(&str) -> Result<T, E>) -> Result<T, Error> {
        let text = self.item.as_str().ok_or_else(|| self.wrong_type("a string"))?;
        self.parse(self.line, text, parse)
    }

    fn parse<T, E: Display>(
        &self,
        line: usize,
        text: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<T, Error> {
        parse(text).map_err(|error| self.error(line, format!("\"{}\" {error}", text.escape_debug())))
    }

    /// The entries of an array of strings, each with its line.
    fn strings(&self) -> Result<Vec<(usize, &'a str)>, Error> {
        let array = self.item.as_array().ok_or_else(|| self.wrong_type("an array of strings"))?;
        let string = |value: &'a Value| {
            let line = self.source.line(value.span());
            match value.as_str() {
                Some(text) => Ok((line, text)),
                None => Err(self.found(line, value.type_name(), "a string")),
            }
        };
        array.iter().map(string).collect()
    }

    /// The same, parsed into a list of the model.
    fn list<T, E: Display, const MAX: usize>(
        &self,
        lines: &mut Lines,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<heapless::Vec<T, MAX>, Error> {
        let mut list = heapless::Vec::new();
        for (at, (line, text)) in self.strings()?.into_iter().enumerate() {
            let value = self.parse(line, text, &parse)?;
            list.push(value)
                .map_err(|_| self.error(line, format!("more than {MAX} entries; shorten the list")))?;
            let path = self.path.map(|(number, _)| number);
            lines.0.insert((path, self.key, Some(at)), line);
        }
        Ok(list)
    }

    fn table(&self) -> Result<&'a dyn TableLike, Error> {
        self.item.as_table_like().ok_or_else(|| self.wrong_type("a table"))
    }
}

/// How a key is rightly written.
fn example(key: Key) -> &'static str {
    match key {
        Key::MarkMask => "mark_mask = 0xff",
        Key::LocalNetworks => "local_networks = [\"10.0.0.0/24\"]",
        Key::Paths | Key::Name => "[paths.router2]",
        Key::Mark => "mark = 0x2",
        Key::Table => "table = 200",
        Key::Gateway4 | Key::Gateway6 => "gateways = [\"10.0.0.2\"]",
        Key::SourceMacs => "source_macs = [\"52:54:00:c2:a5:43\"]",
        Key::Ingress => "ingress = [\"eth1\"]",
        Key::Services => "services = [\"tcp/80\"]",
        Key::Destinations => "destinations = [\"192.0.2.0/24\"]",
        Key::Device => "device = \"eth0\"",
        Key::Onlink => "onlink = true",
        Key::Scope => "scope = \"both\"",
        Key::WhenDown => "when_down = \"unreachable\"",
        Key::Priority => "priority = 1000",
        Key::Log => "log = true",
    }
}

/// The keys at the top of the file.
const TOP: [Key; 3] = [Key::MarkMask, Key::LocalNetworks, Key::Paths];
/// The keys of a path.
const PATH: [Key; 13] = [
    Key::Mark,
    Key::Table,
    Key::Gateway4,
    Key::SourceMacs,
    Key::Ingress,
    Key::Services,
    Key::Destinations,
    Key::Device,
    Key::Onlink,
    Key::Scope,
    Key::WhenDown,
    Key::Priority,
    Key::Log,
];

/// The entries of `table`, which knows `keys` and belongs to `path`.
fn entries<'a>(
    source: &'a Source,
    table: &'a dyn TableLike,
    keys: &[Key],
    path: Option<(usize, &'a str)>,
) -> Result<Vec<Entry<'a>>, Error> {
    let entry = |(word, item): (&'a str, &'a Item)| {
        let line = source.line(table.key(word).and_then(toml_edit::Key::span));
        match keys.iter().find(|key| key.as_str() == word) {
            Some(&key) => Ok(Entry { source, path, key, line, item }),
            None => Err(source.error(line, path.map(|(_, name)| name), word, unknown(word, keys))),
        }
    };
    table.iter().map(entry).collect()
}

/// Why `word` is none of `keys`, and what was meant.
fn unknown(word: &str, keys: &[Key]) -> String {
    let names = |keys: &[Key]| keys.iter().map(|key| key.as_str()).collect::<Vec<_>>();
    let nearest = names(keys)
        .into_iter()
        .map(|name| (distance(word, name), name))
        .min()
        .filter(|&(distance, name)| distance <= 1 + name.len() / 4);
    match nearest {
        Some((_, name)) => format!("unknown key; did you mean {name}?"),
        None if names(&PATH).contains(&word) => {
            "is a key of a path; move it below a header such as [paths.router2]".to_owned()
        }
        None if names(&TOP).contains(&word) => {
            "is not a key of a path; move it above the first [paths.NAME]".to_owned()
        }
        None => format!("unknown key; remove it, or use one of {}", names(keys).join(", ")),
    }
}

/// Letters to put in, take out or replace between the two words (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row = (0..=b.len()).collect::<Vec<_>>();
    for (i, left) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.bytes().enumerate() {
            let replace = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

fn fill(source: &Source, table: &dyn TableLike, policy: &mut Policy) -> Result<Lines, Error> {
    let mut lines = Lines::default();
    policy.mark_mask = DEFAULT_MARK_MASK;
    for entry in entries(source, table, &TOP, None)? {
        lines.0.insert((None, entry.key, None), entry.line);
        match entry.key {
            Key::MarkMask => policy.mark_mask = entry.number()?,
            Key::LocalNetworks => {
                policy.local_networks = entry.list(&mut lines, FromStr::from_str)?;
            }
            _ => paths(&entry, policy, &mut lines)?,
        }
    }
    Ok(lines)
}

fn paths(paths: &Entry, policy: &mut Policy, lines: &mut Lines) -> Result<(), Error> {
    let table = paths.table()?;
    for (number, (name, item)) in table.iter().enumerate() {
        let header = Entry {
            source: paths.source,
            path: Some((number, name)),
            key: Key::Name,
            line: paths.source.line(table.key(name).and_then(toml_edit::Key::span)),
            item,
        };
        let path = path(&header, number, name, lines)?;
        policy.paths.push(path).map_err(|_| {
            let what = format!("more than {MAX_PATHS} paths; join or remove some");
            paths.error(header.line, what)
        })?;
    }
    Ok(())
}

fn path(header: &Entry, number: usize, name: &str, lines: &mut Lines) -> Result<Path, Error> {
    let at = Some(number);
    lines.0.insert((at, Key::Name, None), header.line);
    let short = header.parse(header.line, name, |name| {
        Name::try_from(name)
            .map_err(|_| format!("is {} bytes long; use 1-{MAX_NAME} of a-z, 0-9, _ and -", name.len()))
    })?;
    let mut path = Path::new(short, 0, 0);
    let (mut mark, mut table) = (None, None);
    for entry in entries(header.source, header.table()?, &PATH, header.path)? {
        lines.0.insert((at, entry.key, None), entry.line);
        match entry.key {
            Key::Mark => mark = Some(entry.number()?),
            Key::Table => table = Some(entry.number()?),
            Key::SourceMacs => macs(&entry, &mut path, lines)?,
            Key::Ingress => path.ingress = entry.list(lines, port)?,
            Key::Services => path.services = entry.list(lines, FromStr::from_str)?,
            Key::Destinations => path.destinations = entry.list(lines, FromStr::from_str)?,
            Key::Device => path.device = Some(entry.word(port)?),
            Key::Onlink => path.onlink = entry.flag()?,
            Key::Scope => path.scope = entry.word(FromStr::from_str)?,
            Key::WhenDown => path.when_down = entry.word(FromStr::from_str)?,
            Key::Priority => path.priority = entry.number()?,
            Key::Log => path.log = entry.flag()?,
            _ => gateways(&entry, &mut path, lines)?,
        }
    }
    let missing = |key| {
        let what = format!("missing; add it, as in {}", example(key));
        header.source.error(header.line, Some(name), key.as_str(), what)
    };
    path.mark = mark.ok_or_else(|| missing(Key::Mark))?;
    path.table = table.ok_or_else(|| missing(Key::Table))?;
    Ok(path)
}

/// A port's name, as far as its length goes; [`Policy::check`] looks at the rest.
fn port(text: &str) -> Result<Name, String> {
    Name::try_from(text)
        .map_err(|_| format!("is {} bytes long; a port's name has at most {MAX_NAME}", text.len()))
}

/// MACs, and `auto` among them.
fn macs(entry: &Entry, path: &mut Path, lines: &mut Lines) -> Result<(), Error> {
    let at = entry.path.map(|(number, _)| number);
    for (number, (line, text)) in entry.strings()?.into_iter().enumerate() {
        if number == MAX_MACS {
            return Err(entry.error(line, format!("more than {MAX_MACS} entries; shorten the list")));
        }
        if text != AUTO {
            let parse = |text: &str| Mac::from_str(text).map_err(|error| format!("{error}, or {AUTO}"));
            lines.0.insert((at, entry.key, Some(path.source_macs.len())), line);
            path.source_macs.extend([entry.parse(line, text, parse)?]);
        } else if path.auto_macs {
            return Err(entry.error(line, format!("{AUTO} is listed twice; remove one")));
        } else {
            lines.0.insert((at, entry.key, None), line);
            path.auto_macs = true;
        }
    }
    Ok(())
}

fn gateways(entry: &Entry, path: &mut Path, lines: &mut Lines) -> Result<(), Error> {
    for (line, text) in entry.strings()? {
        let address = entry.parse(line, text, |text| {
            text.parse::<IpAddr>()
                .map_err(|_| "is neither an IPv4 nor an IPv6 address; write it as in 10.0.0.2 or fd00::2")
        })?;
        let (key, earlier) = match address {
            IpAddr::V4(address) => (Key::Gateway4, path.gateway4.replace(address).is_some()),
            IpAddr::V6(address) => (Key::Gateway6, path.gateway6.replace(address).is_some()),
        };
        if earlier {
            let what = format!("{address} is the second of its family; make it another path");
            return Err(entry.error(line, what));
        }
        let at = entry.path.map(|(number, _)| number);
        lines.0.insert((at, key, None), line);
    }
    Ok(())
}
