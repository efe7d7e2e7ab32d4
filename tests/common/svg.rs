//! An SVG file taken apart, as strictly as XML is: what is not well-formed is a panic.

use std::collections::HashMap;

/// An element, where it is drawn.
pub struct Element {
    pub name: String,
    pub attributes: HashMap<String, String>,
    pub text: String,
    /// How far down the groups around it have moved it.
    pub down: f64,
}

impl Element {
    /// An attribute that is a number.
    pub fn number(&self, attribute: &str) -> f64 {
        let value = self.attributes.get(attribute).unwrap_or_else(|| panic!("{}: no {attribute}", self.name));
        value.parse().unwrap_or_else(|_| panic!("{}: {attribute}={value}", self.name))
    }

    pub fn attribute(&self, attribute: &str) -> &str {
        self.attributes.get(attribute).map_or("", String::as_str)
    }
}

/// All elements, in the order of their ends.
pub fn parse(svg: &str) -> Vec<Element> {
    let mut rest = svg.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n").expect("the declaration");
    let (mut open, mut done): (Vec<Element>, Vec<Element>) = (vec![], vec![]);
    while let Some(start) = rest.find('<') {
        let text = unescaped(&rest[..start]);
        match open.last_mut() {
            Some(element) => element.text += &text,
            None => assert_eq!(text.trim(), "", "text outside of the root"),
        }
        let end = start + rest[start..].find('>').expect("a tag ends");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            let element = open.pop().expect("an element to end");
            assert_eq!(element.name, name);
            done.push(element);
            continue;
        }
        assert!(!open.is_empty() || done.is_empty(), "a second root: {tag}");
        let (tag, is_whole) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let mut element = begun(tag);
        element.down += open.last().map_or(0.0, |around| around.down);
        if is_whole { done.push(element) } else { open.push(element) }
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{} elements have no end; {rest}", open.len());
    done
}

fn begun(tag: &str) -> Element {
    let (name, mut rest) = tag.split_once(' ').unwrap_or((tag, ""));
    assert!(name.chars().all(|letter| letter.is_ascii_lowercase()), "{tag}");
    let mut attributes = HashMap::new();
    while !rest.trim().is_empty() {
        let (key, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("{tag}"));
        let (value, more) = value.split_once('"').unwrap_or_else(|| panic!("{tag}"));
        assert!(key.starts_with(|first: char| first.is_ascii_lowercase() || first == ' '), "{tag}");
        assert!(attributes.insert(key.trim().to_owned(), unescaped(value)).is_none(), "{key} twice in {tag}");
        rest = more;
    }
    let moved = attributes.get("transform").and_then(|moved| moved.strip_prefix("translate(0 "));
    let down = moved.map_or(0.0, |down| down.trim_end_matches(')').parse().unwrap());
    Element { name: name.to_owned(), attributes, text: String::new(), down }
}

fn unescaped(text: &str) -> String {
    assert!(!text.contains('>'), "{text}");
    let mut pieces = text.split('&');
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |text, piece| {
        let (entity, more) = piece.split_once(';').unwrap_or_else(|| panic!("&{piece}"));
        let letter = match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            _ => panic!("&{entity};"),
        };
        format!("{text}{letter}{more}")
    })
}
