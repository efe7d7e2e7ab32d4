//! Source of Graphviz (<https://graphviz.org/doc/info/lang.html>).

use super::picture::{Lane, Picture};
use super::wrap::wrap;

/// Widest line of a box, in characters.
const WIDTH: usize = 44;

/// The picture as a directed graph, a cluster a lane.
pub fn draw(picture: &Picture) -> String {
    let mut text =
        String::from("digraph returnpath {\n\trankdir=LR; bgcolor=white; labelloc=t; labeljust=l;\n");
    text += &format!("\tlabel=\"{}\";\n", escape(&format!("returnpath: {}", picture.about)));
    text += "\tgraph [fontname=monospace, fontsize=12]; edge [fontname=monospace, fontsize=10];\n";
    text += "\tnode [shape=box, fontname=monospace, fontsize=10];\n";
    text += "\tclients [label=\"clients\"];\n";
    for (at, lane) in picture.lanes.iter().enumerate() {
        text += &draw_lane(at, lane);
    }
    if let Some(note) = picture.note {
        text += &format!("\tnote [shape=plaintext, label=\"{}\"];\n", lines(&[note.to_owned()]));
    }
    text + "}\n"
}

fn draw_lane(at: usize, lane: &Lane) -> String {
    let mut text = format!("\tsubgraph cluster_{at} {{\n\t\tlabel=\"{}\"; color=gray;\n", escape(&lane.name));
    for (name, said) in lane.boxes() {
        text += &format!("\t\t{name}_{at} [label=\"{}\"];\n", lines(&said));
    }
    let ways = |names: [&str; 5]| names.map(|name| format!("{name}_{at}")).join(" -> ");
    text += &format!("\t}}\n\tclients -> {};\n", ways(["router", "in", "match", "mark", "answers"]));
    // The way out is drawn from its end, so that it lies beside the way in.
    let outward = ways(["router", "out", "table", "rule", "answers"]);
    text + &format!("\tclients -> {outward} [dir=back, style=dashed];\n")
}

/// Lines as one label, each from the left.
fn lines(lines: &[String]) -> String {
    lines.iter().flat_map(|line| wrap(line, WIDTH)).map(|line| escape(&line) + "\\l").collect()
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}
