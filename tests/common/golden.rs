//! Golden text: what a program wrote when somebody last read it.

use std::fmt::Write;
use std::path::Path;

/// Compares with the golden file, or writes it.
pub fn compare(file: &Path, found: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        return std::fs::write(file, found).unwrap();
    }
    let golden = std::fs::read_to_string(file)
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
