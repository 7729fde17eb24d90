//! Rows as PostgreSQL's COPY takes them in its text format.
//!
//! What must stay true: every text arrives character by character, but for U+0000, which PostgreSQL
//! cannot hold, neither as a character of a text nor as an escape in jsonb: it arrives as U+FFFD and
//! is counted.

use std::borrow::Cow;
use std::io::Write as _;

use crate::store::transfer::Cell;

/// Rows in the making, to be sent piece by piece.
#[derive(Default)]
pub(super) struct Rows {
    /// What is to be sent next.
    pub(super) bytes: Vec<u8>,
    /// Characters U+0000 that were replaced.
    pub(super) replaced: u64,
}

impl Rows {
    /// Adds a row, whose cell number `document` is JSON for a jsonb column.
    pub(super) fn add(&mut self, cells: &[Option<Cell<'_>>], document: Option<usize>) {
        for (column, cell) in cells.iter().enumerate() {
            if column > 0 {
                self.bytes.push(b'\t');
            }
            match cell {
                None => self.bytes.extend_from_slice(b"\\N"),
                // Writing to a vector cannot fail.
                Some(Cell::Int(number)) => drop(write!(self.bytes, "{number}")),
                Some(Cell::Text(text)) if document == Some(column) => {
                    let (text, replaced) = without_nul_escapes(text);
                    self.replaced += replaced;
                    self.text(&text);
                }
                Some(Cell::Text(text)) => self.text(text),
            }
        }
        self.bytes.push(b'\n');
    }

    fn text(&mut self, text: &str) {
        let mut rest = text.as_bytes();
        while let Some(at) =
            rest.iter().position(|byte| matches!(byte, 0 | b'\t' | b'\n' | b'\r' | b'\\'))
        {
            self.bytes.extend_from_slice(&rest[..at]);
            let instead: &[u8] = match rest[at] {
                b'\t' => b"\\t",
                b'\n' => b"\\n",
                b'\r' => b"\\r",
                b'\\' => b"\\\\",
                _ => {
                    self.replaced += 1;
                    "\u{fffd}".as_bytes()
                }
            };
            self.bytes.extend_from_slice(instead);
            rest = &rest[at + 1..];
        }
        self.bytes.extend_from_slice(rest);
    }
}

/// JSON in which no text holds U+0000, and how many did. In JSON a backslash begins an escape, and
/// is part of nothing else.
fn without_nul_escapes(json: &str) -> (Cow<'_, str>, u64) {
    const NUL: &str = "\\u0000";
    if !json.contains(NUL) {
        return (Cow::Borrowed(json), 0);
    }
    let (mut text, mut replaced, mut rest) = (String::with_capacity(json.len()), 0, json);
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = if rest.starts_with(NUL) {
            text.push_str("\\ufffd");
            replaced += 1;
            NUL.len()
        } else {
            // The backslash and what it escapes, which is one byte in all JSON there is.
            let escape = rest.get(..2).unwrap_or(rest);
            text.push_str(escape);
            escape.len()
        };
        rest = &rest[length..];
    }
    text.push_str(rest);
    (Cow::Owned(text), replaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(cells: &[Option<Cell<'_>>], document: Option<usize>) -> (String, u64) {
        let mut rows = Rows::default();
        rows.add(cells, document);
        (String::from_utf8(rows.bytes).unwrap(), rows.replaced)
    }

    #[test]
    fn a_row_is_a_line_of_cells() {
        let cells = [Some(Cell::Int(i64::MIN)), None, Some(Cell::Text("")), Some(Cell::Text("ü"))];
        assert_eq!(line(&cells, None), ("-9223372036854775808\t\\N\t\tü\n".to_owned(), 0));
    }

    #[test]
    fn what_copy_would_take_for_something_else_is_escaped() {
        let cells =
            [Some(Cell::Text("a\tb\nc\rd\\e")), Some(Cell::Text("\\N")), Some(Cell::Text("\\."))];
        assert_eq!(line(&cells, None).0, "a\\tb\\nc\\rd\\\\e\t\\\\N\t\\\\.\n");
    }

    #[test]
    fn a_nul_is_replaced_and_counted() {
        assert_eq!(
            line(&[Some(Cell::Text("a\0b\0"))], None),
            ("a\u{fffd}b\u{fffd}\n".to_owned(), 2)
        );
        // In JSON that is kept as text its escape is text like any other.
        let json = r#"{"a":"\u0000"}"#;
        assert_eq!(
            line(&[Some(Cell::Text(json))], None),
            (r#"{"a":"\\u0000"}"#.to_owned() + "\n", 0)
        );
        assert_eq!(
            line(&[Some(Cell::Text(json))], Some(0)),
            (r#"{"a":"\\ufffd"}"#.to_owned() + "\n", 1)
        );
    }

    #[test]
    fn only_real_escapes_of_a_nul_are_replaced_in_json() {
        let (json, replaced) =
            without_nul_escapes(r#"{"\\u0000":"\\\u0000","é\"":"\u0000\u0001\n"}"#);
        assert_eq!((&*json, replaced), (r#"{"\\u0000":"\\\ufffd","é\"":"\ufffd\u0001\n"}"#, 2));
        let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(parsed["\\u0000"], "\\\u{fffd}");
    }
}
