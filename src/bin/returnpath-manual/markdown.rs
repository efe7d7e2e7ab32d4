//! As much of Markdown as the manual is written in, as roff: paragraphs, lists, tables, blocks of code.

use roff::{Inline, Roff, bold, roman};

/// Adds `text`, which comes after a heading or begins with one. Rows of a table become entries: the first cell, and
/// beneath it what is in the others, where the third is a default.
pub fn render(page: &mut Roff, text: &str) {
    let mut lines = text.lines().filter(|line| !line.is_empty()).peekable();
    let mut is_first = true;
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix("## ") {
            page.control("SH", [title]);
            is_first = true;
            continue;
        }
        if let Some(item) = line.strip_prefix("- ") {
            page.control("IP", ["\\(bu", "2"]).text(inline(item));
        } else if line.starts_with('|') {
            // Beneath a heading there is a ruler.
            if lines.next_if(|next| next.starts_with("|---")).is_none() {
                entry(page, line);
            }
        } else {
            if !is_first {
                page.control("PP", []);
            }
            if line.starts_with("```") {
                code(page, lines.by_ref().take_while(|line| !line.starts_with("```")));
            } else {
                page.text(inline(line));
            }
        }
        is_first = false;
    }
}

fn code<'a>(page: &mut Roff, lines: impl Iterator<Item = &'a str>) {
    page.control("RS", ["4"]).control("EX", []);
    for line in lines {
        page.text([roman(line)]);
    }
    page.control("EE", []).control("RE", []);
}

fn entry(page: &mut Roff, row: &str) {
    let row = row.replace("\\|", "\u{0}");
    let cells = row.trim_matches('|').split('|').map(|cell| cell.trim().replace('\u{0}', "|"));
    let cells = cells.collect::<Vec<_>>();
    let mut body = cells.get(1).map(|meaning| sentence(meaning)).unwrap_or_default();
    body += &match cells.get(2) {
        Some(default) if default.starts_with("required") => format!(" {}", sentence(default)),
        Some(default) => format!(" Default: {default}."),
        None => String::new(),
    };
    page.control("TP", []).text(inline(&cells[0])).text(inline(&body));
}

/// A line of text, with `code` and **weight** in bold.
pub fn inline(line: &str) -> Vec<Inline> {
    let weighed = line.replace("**", "`");
    let pieces = weighed.split('`').enumerate();
    let pieces = pieces.map(|(at, piece)| if at % 2 == 0 { roman(piece) } else { bold(piece) });
    pieces.collect()
}

/// A remark as a sentence: with a capital and a full stop.
pub fn sentence(remark: &str) -> String {
    let mut letters = remark.chars();
    let capital = letters.next().into_iter().flat_map(char::to_uppercase);
    let stop = if remark.ends_with('.') { "" } else { "." };
    capital.chain(letters.by_ref()).collect::<String>() + stop
}
