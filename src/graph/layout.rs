//! Where everything is on the pages. One unit is a quarter of a millimetre; a page is A4 landscape.

use super::picture::{Item, Lane, Picture, Stop};
use super::wrap::wrap;
use std::ops::Range;

/// 297 mm.
pub const PAGE_WIDTH: usize = 1188;
/// 210 mm.
pub const PAGE_HEIGHT: usize = 840;
/// Around all of it.
pub const MARGIN: usize = 32;
/// Where the lanes begin: beneath the title.
pub const TOP: usize = MARGIN + 70;

/// Height of the letters: 3 mm, 8.5 points.
pub const FONT: usize = 12;
/// From one line to the next.
pub const LINE: usize = 15;
/// Around the text of a box.
pub const PADDING: usize = 7;
/// Between the boxes of the way in and those of the way out.
pub const BETWEEN: usize = 12;
/// Between lanes.
const APART: usize = 16;
/// Tenths of a unit that a character takes. Monospaced fonts have at most 0.605 of their height.
const TENTHS: usize = 73;
/// Lines that an item may take; the rest of a longer one is in a note.
const MAX_LINES: usize = 6;

/// The bar at the left: whoever connects.
pub const CLIENTS: Range<usize> = MARGIN..MARGIN + 34;
/// Router, port, what is looked at or table, mark or rule, who answers.
pub const COLUMNS: [Range<usize>; 5] = [98..274, 306..430, 462..796, 828..996, 1028..PAGE_WIDTH - MARGIN];

/// What is on a page.
pub struct Page<'a> {
    /// Its lanes, each with its upper edge.
    pub lanes: Vec<(usize, Placed<'a>)>,
    /// Lines beneath them, each with its base line.
    pub notes: Vec<(usize, String)>,
    /// Where they end.
    pub end: usize,
}

/// The pages of a picture: no lane lies across two of them. There is at least one.
pub fn pages(picture: &Picture) -> Vec<Page<'_>> {
    let mut notes = Vec::new();
    let lanes = picture.lanes.iter().map(|lane| Placed::new(lane, &mut notes)).collect::<Vec<_>>();

    let (mut full, mut page) = (Vec::new(), Page::new());
    for lane in lanes {
        let at = page.room(lane.height() + APART, &mut full);
        page.lanes.push((at, lane));
    }
    let width = characters(&(MARGIN..PAGE_WIDTH - MARGIN));
    for line in notes.iter().flat_map(|note| wrap(note, width)) {
        let at = page.room(LINE, &mut full);
        page.notes.push((at + FONT, line));
    }
    full.push(page);
    full
}

impl Page<'_> {
    fn new() -> Self {
        Page { lanes: Vec::new(), notes: Vec::new(), end: TOP }
    }

    /// Where there is so much room, on a new page if need be.
    fn room(&mut self, height: usize, full: &mut Vec<Self>) -> usize {
        if self.end + height > PAGE_HEIGHT - MARGIN {
            full.push(std::mem::replace(self, Page::new()));
        }
        self.end += height;
        self.end - height
    }
}

/// A lane with its text in lines.
pub struct Placed<'a> {
    /// What it shows.
    pub lane: &'a Lane,
    /// The way in, each stop's lines.
    pub inward: [Vec<String>; 5],
    /// The way out, in the same columns.
    pub outward: [Vec<String>; 5],
}

impl<'a> Placed<'a> {
    /// What is too long for its box goes to `notes`.
    fn new(lane: &'a Lane, notes: &mut Vec<String>) -> Placed<'a> {
        let mut lines = |stop: &Stop, across: &Range<usize>| {
            let width = characters(across);
            let items = stop.items.iter().flat_map(|item| {
                let title = if item.key.is_empty() { format!(", {}: ", stop.title) } else { ", ".to_owned() };
                shortened(item, width, &[&lane.name, title.as_str()].concat(), notes)
            });
            wrap(&stop.title, width).into_iter().chain(items).collect::<Vec<_>>()
        };
        let mut all = |stops: &[Stop; 5]| std::array::from_fn(|at| lines(&stops[at], &COLUMNS[at]));
        let (inward, outward) = (all(&lane.inward), all(&lane.outward));
        Placed { lane, inward, outward }
    }

    /// Height of the boxes of the way in, and of those of the way out: that of the highest.
    pub fn heights(&self) -> [usize; 2] {
        [&self.inward, &self.outward].map(|stops| {
            let lines = stops.iter().map(Vec::len).max().unwrap_or_default();
            lines * LINE + 2 * PADDING
        })
    }

    /// Height of it all.
    pub fn height(&self) -> usize {
        self.heights().iter().sum::<usize>() + BETWEEN
    }
}

/// How many characters fit into a box.
fn characters(across: &Range<usize>) -> usize {
    (across.len() - 2 * PADDING) * 10 / TENTHS
}

/// An item's lines; of a long one the first, how many values are missing, and the note that has them all.
fn shortened(item: &Item, width: usize, whose: &str, notes: &mut Vec<String>) -> Vec<String> {
    let whole = wrap(&item.text(), width);
    if whole.len() <= MAX_LINES {
        return whole;
    }
    let all = item.values.len();
    let some = |count| wrap(&format!("{},", item.text_of(count)), width);
    let shown = (1..all).rev().find(|count| some(*count).len() < MAX_LINES).unwrap_or(1);
    notes.push(format!("Note {}. {whose}{}", notes.len() + 1, item.text()));
    let rest = format!("and {} more: note {}", all - shown, notes.len());
    some(shown).into_iter().chain(wrap(&rest, width)).collect()
}
