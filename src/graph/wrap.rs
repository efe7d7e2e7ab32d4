//! Text in lines of bounded width.

/// Breaks text at its spaces into lines of at most `width` characters. A word that is longer than a line is broken
/// behind a colon, as an IPv6 address has them, or where the line ends.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let mut rest = word;
        if !line.is_empty() {
            if length(&line) + 1 + length(word) > width {
                lines.push(std::mem::take(&mut line));
            } else {
                line.push(' ');
            }
        }
        while length(rest) > width {
            let end = rest.char_indices().nth(width).map_or(rest.len(), |(end, _)| end);
            let (piece, _) = rest.split_at(end);
            let (piece, more) = rest.split_at(piece.rfind(':').map_or(end, |colon| colon + 1));
            lines.push(piece.to_owned());
            rest = more;
        }
        line.push_str(rest);
    }
    lines.extend((!line.is_empty()).then_some(line));
    lines
}

fn length(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::wrap;

    #[test]
    fn lines_are_full_and_never_over_full() {
        assert_eq!(wrap("", 3), [""; 0]);
        assert_eq!(wrap("a bc  de f", 4), ["a bc", "de f"]);
        assert_eq!(wrap("abcd e", 4), ["abcd", "e"]);
        assert_eq!(wrap("a 2001:db8::1 b", 5), ["a", "2001:", "db8::", "1 b"]);
        assert_eq!(wrap("fe80::a:bcde x", 8), ["fe80::a:", "bcde x"]);
        assert_eq!(wrap("äöüß", 2), ["äö", "üß"]);
        assert_eq!(wrap("abcdef", 0), ["a", "b", "c", "d", "e", "f"]);
    }
}
