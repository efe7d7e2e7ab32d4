//! JSON, written as it goes (RFC 8259): what `--json` prints. There is nothing here that reads it.

use core::fmt::{Display, Write};

/// The text of one object, on one line.
pub fn object(fill: impl FnOnce(&mut Object)) -> String {
    let mut text = String::new();
    Object::write(&mut text, fill);
    text
}

/// An object that is being written. Names are the caller's and need no escape.
pub struct Object<'a> {
    text: &'a mut String,
    is_empty: bool,
}

impl Object<'_> {
    fn write(text: &mut String, fill: impl FnOnce(&mut Object)) {
        text.push('{');
        fill(&mut Object { text, is_empty: true });
        text.push('}');
    }

    fn name(&mut self, name: &str) -> &mut String {
        if !core::mem::take(&mut self.is_empty) {
            self.text.push(',');
        }
        push_string(self.text, &name);
        self.text.push(':');
        self.text
    }

    /// A string.
    pub fn string(&mut self, name: &str, value: impl Display) {
        push_string(self.name(name), &value);
    }

    /// A string, or `null`.
    pub fn string_or_null(&mut self, name: &str, value: Option<impl Display>) {
        match value {
            Some(value) => self.string(name, value),
            None => self.name(name).push_str("null"),
        }
    }

    /// A whole number. Readers that keep numbers as doubles are exact up to 2^53.
    pub fn number(&mut self, name: &str, value: impl Into<u64>) {
        let _ = write!(self.name(name), "{}", value.into()); // a String takes everything
    }

    /// A whole number, or `null`.
    pub fn number_or_null(&mut self, name: &str, value: Option<impl Into<u64>>) {
        match value {
            Some(value) => self.number(name, value),
            None => self.name(name).push_str("null"),
        }
    }

    /// `true` or `false`.
    pub fn flag(&mut self, name: &str, value: bool) {
        self.name(name).push_str(if value { "true" } else { "false" });
    }

    /// An object within this one.
    pub fn object(&mut self, name: &str, fill: impl FnOnce(&mut Object)) {
        Object::write(self.name(name), fill);
    }

    /// A list of objects.
    pub fn objects<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        mut fill: impl FnMut(&mut Object, T),
    ) {
        let text = self.name(name);
        list(text, items, |text, item| Object::write(text, |object| fill(object, item)));
    }

    /// A list of strings.
    pub fn strings(&mut self, name: &str, items: impl IntoIterator<Item = impl Display>) {
        list(self.name(name), items, |text, item| push_string(text, &item));
    }
}

fn list<T>(text: &mut String, items: impl IntoIterator<Item = T>, mut one: impl FnMut(&mut String, T)) {
    text.push('[');
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        one(text, item);
    }
    text.push(']');
}

fn push_string(text: &mut String, value: &dyn Display) {
    text.push('"');
    for character in value.to_string().chars() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            '\0'..='\u{1f}' => {
                let _ = write!(text, "\\u{:04x}", u32::from(character));
            }
            _ => text.push(character),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_value() {
        let text = object(|json| {
            json.string("name", "a \"b\"\\\n\u{1}ü");
            json.string_or_null("none", None::<&str>);
            json.string_or_null("some", Some(1));
            json.number("count", u64::MAX);
            json.number_or_null("no_count", None::<u64>);
            json.number_or_null("some_count", Some(0_u8));
            json.flag("good", true);
            json.object("empty", |_| ());
            json.objects("paths", [1_u32, 2], |json, n| json.number("n", n));
            json.strings("words", ["a", "b"]);
            json.strings("nothing", core::iter::empty::<&str>());
        });
        let expected = r#"{"name":"a \"b\"\\\u000a\u0001ü","none":null,"some":"1","count":18446744073709551615,"no_count":null,"some_count":0,"good":true,"empty":{},"paths":[{"n":1},{"n":2}],"words":["a","b"],"nothing":[]}"#;
        assert_eq!(text, expected);
    }
}
