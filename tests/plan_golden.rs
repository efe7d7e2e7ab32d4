//! The plan as text, policy by policy. `UPDATE_GOLDEN=1 cargo test --test plan_golden` writes it anew; read what comes.

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
    let file = folder().join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        return std::fs::write(&file, found).unwrap();
    }
    let golden = std::fs::read_to_string(&file)
        .unwrap_or_else(|error| panic!("{}: {error}; write it with UPDATE_GOLDEN=1", file.display()));
    assert!(
        golden == found,
        "{} has changed (- golden, + found); where that is right, write it anew with UPDATE_GOLDEN=1\n{}",
        file.display(),
        difference(&golden, found)
    );
}

/// The lines that differ, with a few of those around them.
fn difference(golden: &str, found: &str) -> String {
    const AROUND: usize = 3;
    let (old, new): (Vec<&str>, Vec<&str>) = (golden.lines().collect(), found.lines().collect());
    // common[i][j]: how many lines old[i..] and new[j..] have in common, in order.
    let mut common = vec![vec![0u32; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] = match old[i] == new[j] {
                true => common[i + 1][j + 1] + 1,
                false => common[i + 1][j].max(common[i][j + 1]),
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines: Vec<(char, &str)> = Vec::new();
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push((' ', old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || i < old.len() && common[i + 1][j] >= common[i][j + 1] {
            lines.push(('-', old[i]));
            i += 1;
        } else {
            lines.push(('+', new[j]));
            j += 1;
        }
    }
    let is_near = |at: usize| {
        let near = at.saturating_sub(AROUND)..lines.len().min(at + AROUND + 1);
        lines[near].iter().any(|(sign, _)| *sign != ' ')
    };
    let mut text = String::new();
    for (at, (sign, line)) in lines.iter().enumerate() {
        if is_near(at) {
            writeln!(text, "{sign}{line}").unwrap();
        } else if at > 0 && is_near(at - 1) {
            text.push_str("…\n");
        }
    }
    text
}

#[test]
fn a_difference_shows_what_changed_and_what_is_around_it() {
    let golden = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
    let found = "1\n2\n3\n4\nfive\n6\n7\n8\n9\n";
    assert_eq!(difference(golden, found), " 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n…\n");
    assert_eq!(difference(golden, golden), "");
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

/// Each number, decimal or `0x…`, as `#`.
fn without_numbers(text: &str) -> String {
    let mut plain = String::new();
    let mut in_number = false;
    for c in text.chars() {
        let starts = c.is_ascii_digit();
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
            format!(
                "set tcp_p{n} {{\n\t\ttype inet_service\n\t\tflags constant,interval\n\t\telements = {{ {port} }}\n"
            ),
        ] {
            assert_eq!(text.matches(&line).count(), 1, "path {n}: {line}");
        }
    }
}
