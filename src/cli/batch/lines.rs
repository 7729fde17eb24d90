//! The lines of a file, one at a time.
//!
//! What must stay true: no more than one line is in memory, and of that no more than the caller
//! allows, however long the file and its lines are.

use std::io::{self, BufRead, BufReader, Read};

/// What one read takes from the file.
const BUFFER_BYTES: usize = 64 * 1024;
/// Some editors put this before the first line.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads lines.
#[derive(Debug)]
pub(super) struct Lines<R> {
    reader: BufReader<R>,
    max_bytes: usize,
    number: u64,
    /// Where the line after the newest begins.
    offset: u64,
    line: Vec<u8>,
}

/// One line, without what ends it.
#[derive(Debug)]
pub(super) struct Line<'a> {
    /// Counted from 1.
    pub(super) number: u64,
    /// Where it begins, in bytes from where the reading began.
    pub(super) start: u64,
    /// Where the next one begins.
    pub(super) end: u64,
    /// Its bytes; none if they are more than allowed.
    pub(super) text: Option<&'a [u8]>,
    /// Whether a line feed ends it. Only the last may lack one.
    pub(super) complete: bool,
}

impl<R: Read> Lines<R> {
    /// Reads on from where `file` stands.
    pub(super) fn new(file: R, max_bytes: usize) -> Self {
        let reader = BufReader::with_capacity(BUFFER_BYTES, file);
        Self { reader, max_bytes, number: 0, offset: 0, line: Vec::new() }
    }

    /// The next line; none after the last.
    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        self.line.clear();
        let start = self.offset;
        let mut too_long = false;
        let complete = loop {
            let read = match self.reader.fill_buf() {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if read.is_empty() {
                break false;
            }
            let end = read.iter().position(|byte| *byte == b'\n');
            let piece = &read[..end.unwrap_or(read.len())];
            too_long |= self.line.len() + piece.len() > self.max_bytes;
            if !too_long {
                self.line.extend_from_slice(piece);
            }
            let taken = end.map_or(read.len(), |end| end + 1);
            self.reader.consume(taken);
            self.offset += taken as u64;
            if end.is_some() {
                break true;
            }
        };
        if self.offset == start {
            return Ok(None);
        }
        self.number += 1;
        let mut text = self.line.as_slice();
        if self.number == 1 {
            text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        }
        let text = (!too_long).then_some(text);
        Ok(Some(Line { number: self.number, start, end: self.offset, text, complete }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number, text and whether it is complete, of every line.
    fn read(file: &[u8], max_bytes: usize) -> Vec<(u64, Option<String>, bool)> {
        let mut lines = Lines::new(file, max_bytes);
        let mut found = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            let text = line.text.map(|text| String::from_utf8(text.to_vec()).unwrap());
            found.push((line.number, text, line.complete));
        }
        found
    }

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn lines_are_counted_whether_the_last_is_complete_or_not() {
        let torn = [(1, text("a"), true), (2, text(""), true), (3, text("b"), false)];
        assert_eq!(read(b"a\n\nb", 9), torn);
        assert_eq!(read(b"a\n", 9), [(1, text("a"), true)]);
        assert_eq!(read(b"", 9), []);
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over_and_the_next_is_read() {
        let file = [vec![b'x'; 3 * BUFFER_BYTES], b"\nshort\n".to_vec()].concat();
        let mut lines = Lines::new(file.as_slice(), 5);
        assert!(lines.next().unwrap().unwrap().text.is_none());
        assert!(lines.line.capacity() < BUFFER_BYTES, "no more is kept than allowed");
        assert_eq!(lines.next().unwrap().unwrap().text, Some(b"short".as_slice()));
        assert!(lines.next().unwrap().is_none());
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_line() {
        assert_eq!(read(b"\xef\xbb\xbf{}\n", 9), [(1, text("{}"), true)]);
    }
}
