//! Pictures of policies. `UPDATE_GOLDEN=1 cargo test --test graph` draws the golden ones anew; look at what comes.

#[path = "common/golden.rs"]
mod golden;
#[path = "common/policy.rs"]
mod policies;
#[path = "common/svg.rs"]
mod svg;

use proptest::prelude::*;
use returnpath::graph::Format;
use returnpath::policy::{Policy, toml};
use std::path::{Path, PathBuf};
use std::process::Command;
use svg::Element;

const GOLDEN: [&str; 4] = ["seed", "both-families", "two-routers", "tunnel"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn policy(name: &str) -> Box<Policy> {
    let source = std::fs::read_to_string(folder().join(format!("plan/{name}.toml"))).unwrap();
    toml::parse(name, &source).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn pictures_are_as_they_were_when_somebody_looked() {
    for name in GOLDEN {
        for extension in ["svg", "mmd", "dot"] {
            let file = folder().join(format!("graph/{name}.{extension}"));
            golden::compare(&file, &Format::of(&file).unwrap().draw(&policy(name)));
        }
    }
    for file in std::fs::read_dir(folder().join("graph")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(GOLDEN.contains(&name), "{}: no test reads it", path.display());
    }
}

#[test]
#[ignore = "needs python3"]
fn a_parser_of_xml_takes_them() {
    let files = GOLDEN.map(|name| folder().join(format!("graph/{name}.svg")));
    let parse = "import sys, xml.dom.minidom\nfor name in sys.argv[1:]: xml.dom.minidom.parse(name)";
    let output = Command::new("python3").args(["-c", parse]).args(files).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What is drawn, by its edges.
#[derive(Clone)]
struct Area {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
    what: String,
}

const FONT: f64 = 12.0;
/// The widest of the common monospaced fonts (Menlo, DejaVu Sans Mono: 1233/2048).
const ADVANCE: f64 = 0.6021;
/// 297 mm and 210 mm, in quarters of a millimetre.
const PAGE: (f64, f64) = (1188.0, 840.0);

impl Area {
    fn of_text(text: &Element) -> Area {
        let size = if text.attributes.contains_key("font-size") { text.number("font-size") } else { FONT };
        let (left, base) = (text.number("x"), text.number("y") + text.down);
        let right = left + text.text.chars().count() as f64 * size * ADVANCE;
        Area { left, top: base - 0.76 * size, right, bottom: base + 0.24 * size, what: text.text.clone() }
    }

    fn of_box(rect: &Element) -> Area {
        let (left, top) = (rect.number("x"), rect.number("y") + rect.down);
        let (right, bottom) = (left + rect.number("width"), top + rect.number("height"));
        Area { left, top, right, bottom, what: "a box".to_owned() }
    }

    fn overlaps(&self, other: &Area) -> bool {
        self.left < other.right
            && other.left < self.right
            && self.top < other.bottom
            && other.top < self.bottom
    }

    fn holds(&self, other: &Area) -> bool {
        self.left <= other.left
            && other.right <= self.right
            && self.top <= other.top
            && other.bottom <= self.bottom
    }
}

/// Looks whether anything lies over something else, or out of its box or its page; returns the number of pages.
fn tidy(svg: &str) -> usize {
    let elements = svg::parse(svg);
    let named = |name: &'static str| elements.iter().filter(move |element| element.name == name);
    let root = elements.last().unwrap();
    let height = root.attribute("viewBox").strip_prefix("0 0 1188 ").unwrap().parse::<f64>().unwrap();
    assert_eq!(root.attribute("width"), "297mm");
    assert_eq!(root.attribute("height"), format!("{}mm", height / 4.0));
    assert!(height <= PAGE.1 || height % PAGE.1 == 0.0, "{height} is not a number of pages");
    let background = named("rect").next().unwrap();
    assert_eq!((background.number("width"), background.number("height")), (PAGE.0, height));
    assert_eq!(background.attribute("fill"), "#ffffff");

    let boxes = named("rect").skip(1).filter(|rect| rect.attribute("stroke-dasharray").is_empty());
    let boxes = boxes.map(Area::of_box).collect::<Vec<_>>();
    let upright = named("text").filter(|text| text.attribute("transform").is_empty());
    let texts = upright.map(Area::of_text).collect::<Vec<_>>();
    let page = |area: &Area| (area.top / PAGE.1) as usize;
    let pages = (height / PAGE.1).ceil() as usize;
    for number in 0..pages {
        let top = number as f64 * PAGE.1;
        let paper = Area {
            left: 32.0,
            top: top + 32.0,
            right: PAGE.0 - 32.0,
            bottom: (top + PAGE.1).min(height),
            what: String::new(),
        };
        let here =
            |areas: &[Area]| areas.iter().filter(|area| page(area) == number).cloned().collect::<Vec<_>>();
        let (boxes, texts) = (here(&boxes), here(&texts));
        for (at, area) in boxes.iter().chain(&texts).enumerate() {
            assert!(paper.holds(area), "page {number}: {} is not on the paper", area.what);
            // A text lies on a box, and then wholly.
            let (boxes, others) = if at < boxes.len() {
                (&[][..], &boxes[..at])
            } else {
                (&boxes[..], &texts[..at - boxes.len()])
            };
            let over = others.iter().find(|other| area.overlaps(other)).map(|other| &other.what);
            assert!(over.is_none(), "page {number}: {} lies over {over:?}", area.what);
            let is_cut = boxes.iter().any(|one| one.overlaps(area) && !one.holds(area));
            assert!(!is_cut, "page {number}: {} is not within its box", area.what);
        }
    }
    pages
}

/// All that can be read in a picture, without the spaces and line ends.
fn visible(svg: &str) -> String {
    let elements = svg::parse(svg);
    let texts = elements.iter().filter(|element| element.name == "text").map(|element| element.text.as_str());
    texts.collect::<String>().replace(' ', "")
}

/// Whether a picture says all that a policy does; `text` has no spaces.
fn says_all(text: &str, policy: &Policy) {
    let says =
        |what: &dyn ToString| assert!(text.contains(&what.to_string()), "{} is missing", what.to_string());
    policy.local_networks.iter().for_each(|network| says(network));
    for path in &policy.paths {
        let (mask, mark, table) = (policy.mark_mask, path.mark, path.table);
        path.auto_macs.then(|| says(&"framesfrom:thegateways'MACs(auto)"));
        path.source_macs.iter().for_each(|mac| says(mac));
        path.ingress.iter().chain(&path.device).for_each(|port| says(port));
        path.services.iter().for_each(|service| says(service));
        path.destinations.iter().for_each(|network| says(network));
        path.gateway4.iter().for_each(|gateway| says(&format!("IPv4:defaultvia{gateway}")));
        path.gateway6.iter().for_each(|gateway| says(&format!("IPv6:defaultvia{gateway}")));
        says(&format!("connectionmark{mark:#x}/{mask:#x}"));
        says(&format!("rule{}fwmark{mark:#x}/{mask:#x}lookup{table}", path.priority));
        says(&format!("table{table}({})", path.name));
        says(&format!("when_down:{}", path.when_down));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_policy_has_a_tidy_picture_that_says_all(policy in policies::any_policy()) {
        let svg = Format::Svg.draw(&policy);
        tidy(&svg);
        says_all(&visible(&svg), &policy);
        prop_assert_eq!(&svg, &Format::Svg.draw(&policy));
        for format in [Format::Mermaid, Format::Dot] {
            let text = format.draw(&policy).replace([' ', '\n'], "").replace("<br/>", "").replace("\\l", "");
            says_all(&text, &policy);
        }
    }
}

#[test]
fn the_largest_policy_has_a_picture_and_its_size_is_that_of_its_paths() {
    let mut policy = policies::maximal();
    let svg = Format::Svg.draw(&policy);
    let (pages, text) = (tidy(&svg), visible(&svg));
    for path in &policy.paths {
        assert!(text.contains(&format!("table{}({})", path.table, path.name)), "{} is missing", path.name);
    }
    policy.paths.truncate(16);
    let part = Format::Svg.draw(&policy);
    says_all(&visible(&part), &policy);
    assert!(
        svg.len() < 17 * part.len() && pages < 17 * tidy(&part),
        "{} and {} bytes",
        svg.len(),
        part.len()
    );
}

#[test]
fn a_policy_without_paths_says_that_all_is_as_ever() {
    let mut policy = Policy::new();
    policy.mark_mask = 0xff;
    let svg = Format::Svg.draw(&policy);
    assert_eq!(tidy(&svg), 1);
    assert!(visible(&svg).contains("0paths") && visible(&svg).contains("aswithoutreturnpath"));
}

/// So that it is there in print, in greyscale, without a network and for those who can not see it.
#[test]
fn it_needs_nothing_from_elsewhere_and_names_itself() {
    let svg = Format::Svg.draw(&policy("two-routers"));
    for foreign in ["href", "@import", "url(", "<script", "<style", "<image"] {
        assert!(!svg.contains(foreign), "{foreign}");
    }
    let elements = svg::parse(&svg);
    let of_id = |id: &str| &elements.iter().find(|element| element.attribute("id") == id).unwrap().text;
    let root = elements.last().unwrap();
    let (title, description) = root.attribute("aria-labelledby").split_once(' ').unwrap();
    assert_eq!(of_id(title), "returnpath: 2 paths, mark_mask 0xff");
    assert!(of_id(description).contains("router3. Way in: router3: frames from: 52:54:00:00:00:32, "));
    assert!(
        of_id(description).contains("Way out: reply: with mark 0x3; rule 900: fwmark 0x3/0xff lookup 300; ")
    );
    // The ways are told apart without colour.
    let dashed = elements.iter().filter(|element| element.attribute("stroke-dasharray") == "5 3").count();
    assert_eq!(dashed, 4, "that of each lane, and the legend's");
}
