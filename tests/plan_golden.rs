//! The plan as text, policy by policy. `UPDATE_GOLDEN=1 cargo test --test plan_golden` writes it anew; read what comes.

#[path = "common/golden.rs"]
mod golden;

use returnpath::plan::{Plan, text};
use returnpath::policy::{MAX_PATHS, toml};
use std::fmt::Write;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/plan")
}

fn plan_of(name: &str, source: &str) -> String {
    let policy = toml::parse(&format!("{name}.toml"), source).unwrap_or_else(|error| panic!("{error}"));
    text::render(&Plan::new(&policy))
}

/// Compares with the golden file, or writes it.
fn compare(name: &str, found: &str) {
    golden::compare(&folder().join(format!("{name}.txt")), found);
}

macro_rules! golden {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() {
            compare($name, &plan_of($name, include_str!(concat!("golden/plan/", $name, ".toml"))));
        })*

        #[test]
        fn every_golden_file_has_its_test() {
            for file in std::fs::read_dir(folder()).unwrap() {
                let path = file.unwrap().path();
                let name = path.file_stem().unwrap().to_str().unwrap();
                assert!([$($name,)* "256-paths"].contains(&name), "{}: no test reads it", path.display());
            }
        }
    };
}

golden! {
    the_seed: "seed",
    ipv6: "ipv6",
    both_families: "both-families",
    two_routers_on_one_lan: "two-routers",
    a_port_with_and_without_mac: "ports",
    a_tunnel: "tunnel",
    port_ranges: "port-ranges",
    forward_only: "forward",
    logged: "log",
    destinations: "destinations",
    main_when_down: "when-down-main",
    macs_of_gateways: "auto",
}

/// As many paths as a policy may have: the default mask holds 255 marks, so the mask is wider.
fn many_paths() -> String {
    let mut source = "mark_mask = 0xfff\n".to_owned();
    for n in 0..MAX_PATHS {
        let (mark, table, port, mac) = (n + 1, 1000 + n, 2000 + n, n % 100);
        let group = n / 100;
        write!(
            source,
            "\n[paths.p{n}]\nmark = {mark}\ntable = {table}\ngateways = [\"10.0.{group}.{mac}\"]\n\
             source_macs = [\"02:00:00:00:{group:02}:{mac:02}\"]\nservices = [\"tcp/{port}\"]\n",
        )
        .unwrap();
    }
    source
}

/// A long text in short: of neighbours that differ in their numbers alone, the first. First blocks, then lines.
fn folded(text: &str) -> String {
    fold(&fold(text, "\n\n"), "\n")
}

fn fold(text: &str, separator: &str) -> String {
    let mut kept: Vec<(&str, usize)> = Vec::new();
    for piece in text.split(separator) {
        match kept.last_mut() {
            Some((first, more)) if !piece.is_empty() && without_numbers(first) == without_numbers(piece) => {
                *more += 1
            }
            _ => kept.push((piece, 0)),
        }
    }
    let show = |(piece, more)| match more {
        0 => String::from(piece),
        more => format!("{piece}{separator}… and {more} more like it"),
    };
    kept.into_iter().map(show).collect::<Vec<_>>().join(separator)
}

/// Each number, decimal or `0x…`, as `#`; and so the sum in the name of a set, which is one of four digits.
fn without_numbers(text: &str) -> String {
    let mut plain = String::new();
    let mut in_number = false;
    for (at, c) in text.char_indices() {
        let is_sum = plain.ends_with("tcp_p#_") && text[at..].chars().take(4).all(|c| c.is_ascii_hexdigit());
        let starts = c.is_ascii_digit() || is_sum;
        if starts && !in_number {
            plain.push('#');
        }
        in_number = starts || in_number && matches!(c, 'x' | 'a'..='f');
        if !in_number {
            plain.push(c);
        }
    }
    plain
}

/// The text is too long to be read or stored whole: its form is golden, and a digest of it.
#[test]
fn as_many_paths_as_there_may_be() {
    let text = plan_of("256-paths", &many_paths());
    let digest = crc::Crc::<u64>::new(&crc::CRC_64_XZ).checksum(text.as_bytes());
    compare(
        "256-paths",
        &format!("{} lines, CRC-64/XZ {digest:016x}\n\n{}", text.lines().count(), folded(&text)),
    );

    for n in 0..MAX_PATHS {
        let (mark, table, port, mac, group) = (n + 1, 1000 + n, 2000 + n, n % 100, n / 100);
        for line in [
            format!("ip -4 route add default via 10.0.{group}.{mac} table {table} protocol 82\n"),
            format!("ip -4 rule add fwmark {mark:#x}/0xfff table {table} priority 1000 protocol 82\n"),
            format!("02:00:00:00:{group:02}:{mac:02} : goto from_p{n}"),
            format!("{mark:#x} : goto mark_p{n}"),
            format!(" {{\n\t\ttype inet_service\n\t\tflags constant,interval\n\t\telements = {{ {port} }}\n"),
            format!("set tcp_p{n}_"),
        ] {
            assert_eq!(text.matches(&line).count(), 1, "path {n}: {line}");
        }
    }
}
