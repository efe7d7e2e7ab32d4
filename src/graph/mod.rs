//! A policy as a picture for people: how each router's connections come in, and how their replies go out.
//!
//! Pure. There is one [`Picture`], with marks, rules and routes from the [`Plan`], and each [`Format`] draws that.

mod dot;
mod layout;
mod mermaid;
mod picture;
mod svg;
mod wrap;

pub use picture::{Item, Lane, Picture, Stop};

use crate::plan::Plan;
use crate::policy::Policy;
use std::ffi::OsStr;
use std::path::Path;

/// What a picture is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Drawn, A4 landscape, to be printed or shown
    Svg,
    /// Source of Mermaid, for Markdown
    Mermaid,
    /// Source of Graphviz
    Dot,
}

impl Format {
    /// The format that a file's name stands for: `.svg`, `.mmd`, `.dot`.
    pub fn of(file: &Path) -> Option<Format> {
        match file.extension().and_then(OsStr::to_str)? {
            "svg" => Some(Format::Svg),
            "mmd" => Some(Format::Mermaid),
            "dot" => Some(Format::Dot),
            _ => None,
        }
    }

    /// The picture of a policy that has passed [`Policy::check`]. The same policy makes the same bytes.
    pub fn draw(self, policy: &Policy) -> String {
        let picture = Picture::new(policy, &Plan::new(policy));
        match self {
            Format::Svg => svg::draw(&picture),
            Format::Mermaid => mermaid::draw(&picture),
            Format::Dot => dot::draw(&picture),
        }
    }
}
