//! The picture drawn: SVG 1.1, dark on white, with text as text and nothing from elsewhere.
//!
//! What fits on an A4 page is as high as it has to be; more is a column of whole pages.

use super::layout::{
    BETWEEN, CLIENTS, COLUMNS, FONT, LINE, MARGIN, PADDING, PAGE_HEIGHT, PAGE_WIDTH, Page, Placed, TOP, pages,
};
use super::picture::{Lane, Picture, Stop};
use std::fmt::{self, Display, Formatter, Write};
use std::ops::Range;

/// A colour a path, all of them dark: they can be read on white, and in greyscale.
const COLOURS: [&str; 6] = ["#0b4f9e", "#a33a00", "#1b6335", "#6a2c91", "#70480a", "#8a1546"];
const GREY: &str = "#555555";

/// Told apart without colour.
const WAY_IN: &str = "stroke-width=\"1.5\"";
const WAY_OUT: &str = "stroke-width=\"3\" stroke-dasharray=\"5 3\"";

/// The whole file.
pub fn draw(picture: &Picture) -> String {
    let pages = pages(picture);
    let height = match pages.as_slice() {
        [only] => only.end + MARGIN / 2,
        all => all.len() * PAGE_HEIGHT,
    };
    let mut svg = Svg(String::new());
    svg.begin(picture, height);
    let mut colours = COLOURS.iter().cycle();
    for (at, page) in pages.iter().enumerate() {
        let number =
            if pages.len() > 1 { format!("; page {} of {}", at + 1, pages.len()) } else { String::new() };
        svg.add(format_args!("<g transform=\"translate(0 {})\">", at * PAGE_HEIGHT));
        svg.head(&format!("{}{number}", picture.about), picture.note.unwrap_or_default());
        svg.around(page);
        for (top, lane) in &page.lanes {
            let colour = if lane.lane.is_path { colours.next() } else { None };
            svg.lane(lane, *top, colour.unwrap_or(&GREY));
        }
        for (base, line) in &page.notes {
            svg.text(MARGIN, *base, "", line);
        }
        svg.add("</g>");
    }
    svg.add("</svg>");
    svg.0
}

struct Svg(String);

impl Svg {
    /// A line of the file.
    fn add(&mut self, line: impl Display) {
        let _ = writeln!(self.0, "{line}"); // a String takes everything
    }

    fn begin(&mut self, picture: &Picture, height: usize) {
        let width = PAGE_WIDTH;
        self.add("<?xml version=\"1.0\" encoding=\"UTF-8\"?>");
        self.add(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}mm\" height=\"{}mm\" viewBox=\"0 0 {width} {height}\" \
             role=\"graphics-document document\" aria-labelledby=\"returnpath-title returnpath-desc\" \
             font-family=\"DejaVu Sans Mono, Liberation Mono, Menlo, Consolas, monospace\" font-size=\"{FONT}\">",
            width as f64 / 4.0,
            height as f64 / 4.0,
        ));
        self.add(format_args!(
            "<title id=\"returnpath-title\">returnpath: {}</title>",
            Escaped(&picture.about)
        ));
        self.add("<desc id=\"returnpath-desc\">");
        picture.lanes.iter().for_each(|lane| self.add(Escaped(&described(lane))));
        self.add("</desc>");
        // Where the page around it is dark, the text would be black on black.
        self.add(format_args!("<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>"));
    }

    /// The title of a page, and how its ways are told apart.
    fn head(&mut self, about: &str, note: &str) {
        let base = MARGIN + 14;
        self.text(MARGIN, base, " font-size=\"18\" font-weight=\"bold\"", "Return paths");
        self.text(MARGIN + 152, base, "", about);
        if !note.is_empty() {
            self.text(MARGIN, base + 18, "", note);
        }
        let right = PAGE_WIDTH - MARGIN;
        for (from, style, words) in [(right - 330, WAY_IN, "way in"), (right - 160, WAY_OUT, "way out")] {
            self.add(format_args!("<g stroke=\"{GREY}\" fill=\"{GREY}\" {style}>"));
            self.arrow(from, from + 60, base - 4);
            self.add("</g>");
            self.text(from + 70, base, "", words);
        }
    }

    /// What is around the lanes of a page: the clients, and this gateway behind its ports.
    fn around(&mut self, page: &Page) {
        let Some((last, lane)) = page.lanes.last() else {
            return;
        };
        let height = last + lane.height() - TOP;
        let gateway = middle(&COLUMNS[1])..middle(&COLUMNS[4]);
        let style = format!("fill=\"#f4f4f4\" stroke=\"{GREY}\" stroke-dasharray=\"2 4\"");
        self.rect(&gateway, TOP - 26, height + 36, &style);
        self.text(gateway.start + 14, TOP - 9, "", "this gateway");
        self.rect(&CLIENTS, TOP, height, &format!("fill=\"#ffffff\" stroke=\"{GREY}\""));
        let (x, y) = (middle(&CLIENTS) + 4, TOP + height / 2);
        let upright = format!(" text-anchor=\"middle\" transform=\"rotate(-90 {x} {y})\"");
        self.text(x, y, &upright, "clients");
    }

    fn lane(&mut self, lane: &Placed, top: usize, colour: &str) {
        let [upper, lower] = lane.heights();
        let (below, whole) = (top + upper + BETWEEN, upper + BETWEEN + lower);
        self.add(format_args!("<g><title>{}</title>", Escaped(&lane.lane.name)));
        self.add(format_args!("<g stroke=\"{colour}\" stroke-width=\"1.5\" fill=\"#ffffff\">"));
        let [router, inner @ .., answers] = &COLUMNS;
        [router, answers].into_iter().for_each(|across| self.rect(across, top, whole, ""));
        inner.iter().for_each(|across| self.rect(across, top, upper, ""));
        inner.iter().for_each(|across| self.rect(across, below, lower, ""));
        self.add("</g>");

        let stops = [&CLIENTS].into_iter().chain(&COLUMNS).collect::<Vec<_>>();
        let gaps = || stops.windows(2).map(|pair| (pair[0].end, pair[1].start));
        self.add(format_args!("<g stroke=\"{colour}\" fill=\"{colour}\" {WAY_IN}>"));
        gaps().for_each(|(left, right)| self.arrow(left, right, top + upper / 2));
        self.add("</g>");
        self.add(format_args!("<g stroke=\"{colour}\" fill=\"{colour}\" {WAY_OUT}>"));
        gaps().for_each(|(left, right)| self.arrow(right, left, below + lower / 2));
        self.add("</g>");

        // In the order in which packets pass.
        let inward = lane.inward.iter().zip(&COLUMNS);
        inward.for_each(|(lines, across)| self.lines(lines, across, top));
        let outward = lane.outward.iter().zip(&COLUMNS).rev();
        outward.for_each(|(lines, across)| self.lines(lines, across, below));
        self.add("</g>");
    }

    /// A box's lines, the first of them its title.
    fn lines(&mut self, lines: &[String], across: &Range<usize>, top: usize) {
        for (at, line) in lines.iter().enumerate() {
            let style = if at == 0 { " font-weight=\"bold\"" } else { "" };
            self.text(across.start + PADDING, top + PADDING + at * LINE + FONT, style, line);
        }
    }

    fn text(&mut self, x: usize, y: usize, style: &str, text: &str) {
        self.add(format_args!("<text x=\"{x}\" y=\"{y}\"{style}>{}</text>", Escaped(text)));
    }

    fn rect(&mut self, across: &Range<usize>, top: usize, height: usize, style: &str) {
        let (x, width) = (across.start, across.len());
        self.add(format_args!(
            "<rect x=\"{x}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" rx=\"4\" {style}/>"
        ));
    }

    /// A line with its head, from one edge to another.
    fn arrow(&mut self, from: usize, to: usize, y: usize) {
        let (tip, back) = if from < to { (to - 1, to - 10) } else { (to + 1, to + 10) };
        self.add(format_args!("<path d=\"M{from} {y}H{back}\"/>"));
        let (upper, lower) = (y - 5, y + 5);
        self.add(format_args!("<path d=\"M{tip} {y}L{back} {upper}V{lower}Z\" stroke=\"none\"/>"));
    }
}

fn middle(across: &Range<usize>) -> usize {
    (across.start + across.end) / 2
}

/// A lane in words, for who can not see it.
fn described(lane: &Lane) -> String {
    let say = |stops: &mut dyn Iterator<Item = &Stop>| stops.map(Stop::text).collect::<Vec<_>>().join("; ");
    format!(
        "{}. Way in: {}. Way out: {}.",
        lane.name,
        say(&mut lane.inward.iter()),
        say(&mut lane.outward.iter().rev())
    )
}

/// Text that XML takes for nothing else.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|letter| match letter {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            _ => f.write_char(letter),
        })
    }
}
