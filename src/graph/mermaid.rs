//! Source of Mermaid (<https://mermaid.js.org/syntax/flowchart.html>).

use super::picture::{Lane, Picture};
use super::wrap::wrap;

/// Widest line of a box, in characters.
const WIDTH: usize = 44;

/// The picture as a flow chart, a subgraph a lane.
pub fn draw(picture: &Picture) -> String {
    let mut text = format!("---\ntitle: \"returnpath: {}\"\n---\nflowchart LR\n", escape(&picture.about));
    text += "    clients([\"clients\"])\n";
    for (at, lane) in picture.lanes.iter().enumerate() {
        text += &draw_lane(at, lane);
    }
    if let Some(note) = picture.note {
        text += &format!("    note[/\"{}\"/]\n", lines(&[note.to_owned()]));
    }
    text
}

fn draw_lane(at: usize, lane: &Lane) -> String {
    let mut text = format!("    subgraph lane{at}[\"{}\"]\n", escape(&lane.name));
    for (name, said) in lane.boxes() {
        text += &format!("        {name}{at}[\"{}\"]\n", lines(&said));
    }
    text += "    end\n";
    text += &format!("    clients --> router{at} --> in{at} --> match{at} --> mark{at} --> answers{at}\n");
    text + &format!(
        "    answers{at} -.-> rule{at} -.-> table{at} -.-> out{at} -.-> router{at} -.-> clients\n"
    )
}

fn lines(lines: &[String]) -> String {
    lines
        .iter()
        .flat_map(|line| wrap(line, WIDTH))
        .map(|line| escape(&line))
        .collect::<Vec<_>>()
        .join("<br/>")
}

/// What has a meaning in a label, as its character code.
fn escape(text: &str) -> String {
    let mut safe = String::new();
    for letter in text.chars() {
        match letter {
            '"' | '#' | '&' | '<' | '>' | ';' | '`' | '\\' => safe += &format!("#{};", u32::from(letter)),
            _ => safe.push(letter),
        }
    }
    safe
}
