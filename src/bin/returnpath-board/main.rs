//! The host tool: checks and compiles policies, shows what they say and do, and keeps them on board partitions.

mod arguments;
mod partition;

use arguments::{Arguments, Command};
use clap::Parser;
use returnpath::exit::{self, Failure};
use returnpath::graph::Format;
use returnpath::lines::one_line;
use returnpath::plan::{self, Plan};
use returnpath::policy::{Policy, toml, wire};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::process::ExitCode;

/// Largest policy source, in bytes; the largest policy needs a twentieth of it.
const MAX_SOURCE: u64 = 16 << 20;

fn main() -> ExitCode {
    match arguments().and_then(|arguments| run(&arguments.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Where nobody can be told, the exit code has to do.
            let _ = writeln!(io::stderr(), "returnpath-board: {}", one_line(&failure.line));
            ExitCode::from(failure.code)
        }
    }
}

/// Help and version are clap's own; its errors are made one line.
fn arguments() -> Result<Arguments, Failure> {
    Arguments::try_parse().map_err(|error| {
        if !error.use_stderr() {
            error.exit();
        }
        let text = error.to_string();
        let reason = text.split("\n\n").next().unwrap_or_default();
        let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
        let reason = reason.trim_start_matches("error: ");
        Failure::new(exit::USAGE, format!("{reason}; see returnpath-board --help"))
    })
}

fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Compile { source, output } => compile(source, output),
        Command::Show { image } => {
            let policy = decode(image, &read(image)?)?;
            print(&toml::render(&policy))
        }
        Command::Plan { policy } => print(&plan::text::render(&Plan::new(&*load(policy)?))),
        Command::Graph { policy, output, format } => graph(policy, output, *format),
        Command::Write { device, policy } => {
            let policy = load(policy)?;
            partition::write(&device.device, &policy)
        }
        Command::Read { device } => partition::read(&device.device),
        Command::Format { device, force } => partition::format(&device.device, *force),
    }
}

fn compile(source: &Path, output: &Path) -> Result<(), Failure> {
    let policy = load(source)?;
    let image = encode(output, &policy)?;
    put(source, output, &image, "image")?;
    print(&format!("{}: {} bytes, {}\n", output.display(), image.len(), policy.count()))
}

fn graph(source: &Path, output: &Path, format: Option<Format>) -> Result<(), Failure> {
    let is_stdout = output == Path::new("-");
    let format = format.or_else(|| if is_stdout { Some(Format::Svg) } else { Format::of(output) });
    let format = format.ok_or_else(|| {
        let what = "its extension names no format; name it .svg, .mmd or .dot, or give --format";
        Failure::new(exit::USAGE, format!("{}: {what}", output.display()))
    })?;
    let policy = load(source)?;
    let picture = format.draw(&policy);
    if is_stdout {
        return print(&picture);
    }
    put(source, output, picture.as_bytes(), "picture")?;
    print(&format!("{}: {} bytes, {}\n", output.display(), picture.len(), policy.count()))
}

/// Puts what was made of `source` into `output`, which may be a file and nothing else.
fn put(source: &Path, output: &Path, bytes: &[u8], what: &str) -> Result<(), Failure> {
    // The file itself, so that a link to it stays a link.
    let target = fs::canonicalize(output).unwrap_or_else(|_| output.to_owned());
    if fs::canonicalize(source).is_ok_and(|source| source == target) {
        let line = format!("{}: is the source itself; give the {what} another name", output.display());
        return Err(Failure::new(exit::USAGE, line));
    }
    if fs::metadata(&target).is_ok_and(|target| !target.is_file()) {
        let what = "is not a file, and would be replaced by one; give a file's name";
        return Err(Failure::new(exit::USAGE, format!("{}: {what}", output.display())));
    }
    replace(&target, bytes).map_err(|error| {
        let what = "choose a folder that can be written to and has room";
        Failure::new(exit::NO_POLICY, format!("{}: not written: {error}; {what}", output.display()))
    })
}

/// The policy in a file of either form: an image is known by its first bytes.
fn load(file: &Path) -> Result<Box<Policy>, Failure> {
    let bytes = read(file)?;
    if bytes.starts_with(&wire::MAGIC) {
        return decode(file, &bytes);
    }
    let name = file.display().to_string();
    toml::text(&name, &bytes)
        .and_then(|text| toml::parse(&name, text))
        .map_err(|error| Failure::new(exit::NO_POLICY, error.to_string()))
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let failure = |what: String| Failure::new(exit::NO_POLICY, format!("{}: {what}", file.display()));
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|open| open.take(MAX_SOURCE + 1).read_to_end(&mut bytes))
        .map_err(|error| failure(format!("not read: {error}; give a policy file")))?;
    if bytes.len() as u64 > MAX_SOURCE {
        return Err(failure(format!("over {MAX_SOURCE} bytes; give a policy file")));
    }
    Ok(bytes)
}

fn decode(file: &Path, image: &[u8]) -> Result<Box<Policy>, Failure> {
    let failure = |what: String| Failure::new(exit::NO_POLICY, format!("{}: {what}", file.display()));
    let mut policy = Box::new(Policy::new());
    wire::decode(image, &mut policy).map_err(|error| failure(error.to_string()))?;
    // Postcard can write one number in several ways, and only one of them compiles to the same bytes.
    if encode(file, &policy)? != image {
        let what = "not written by returnpath-board; compile it again from its TOML source";
        return Err(failure(what.to_owned()));
    }
    Ok(policy)
}

fn encode(file: &Path, policy: &Policy) -> Result<Vec<u8>, Failure> {
    let mut image = vec![0; wire::MAX_ENCODED];
    let len = wire::encode(policy, &mut image)
        .map_err(|error| Failure::new(exit::NO_POLICY, format!("{}: {error}", file.display())))?;
    image.truncate(len);
    Ok(image)
}

/// Puts `bytes` into `file`, wholly or not at all.
fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = OsString::from(".");
    name.push(file.file_name().ok_or(ErrorKind::InvalidFilename)?);
    name.push(format!(".{}", std::process::id()));
    let draft = file.with_file_name(name);

    let mut open = File::create_new(&draft)?;
    open.write_all(bytes).and_then(|()| open.sync_all()).and_then(|()| fs::rename(&draft, file)).inspect_err(
        |_| {
            // What to report is the first error.
            let _ = fs::remove_file(&draft);
        },
    )
}

/// To standard output, whose reader may have read enough.
fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::new(
            exit::NO_POLICY,
            format!("standard output: {error}; send it where there is room"),
        )),
        _ => Ok(()),
    }
}
