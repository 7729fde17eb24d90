//! Keeps the first part of what a module prints, counts all of it, and passes the kept part on
//! while the module runs.
//!
//! What must stay true: however much is printed, memory holds at most the kept part and one small
//! buffer; and neither a pipe that somebody holds open after the module's end nor output that
//! nobody takes keeps an attempt from ending.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::sync::CancellationToken;

use crate::domain::OutputStream;
use crate::providers::Output;
use crate::providers::output::whole_characters;

/// How much is read at a time.
const BUFFER_BYTES: usize = 64 * 1_024;
/// How long to wait for more once the module is over.
const IDLE_WAIT: Duration = Duration::from_millis(500);
/// The most to read once the module is over: what a pipe can hold.
const LEFTOVER_BYTES: usize = 1_024 * 1_024;

/// What one stream of a module brought.
#[derive(Debug)]
pub(super) struct Capture {
    stream: OutputStream,
    kept: Vec<u8>,
    /// How much of `kept` was passed on; more than there is once nobody takes it.
    passed_on: usize,
    max_bytes: usize,
    total_bytes: u64,
}

/// The same, as text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Captured {
    /// The kept part, with U+FFFD for what is not text.
    pub(super) text: String,
    /// Whether there was more.
    pub(super) truncated: bool,
    /// How much there was.
    pub(super) total_bytes: u64,
}

impl Capture {
    /// Keeps `max_bytes` of `stream`.
    pub(super) fn new(stream: OutputStream, max_bytes: usize) -> Self {
        Self { stream, kept: Vec::new(), passed_on: 0, max_bytes, total_bytes: 0 }
    }

    /// Reads `pipe` to its end, or, once `over` is cancelled, to the end of what is in it.
    pub(super) async fn read(
        &mut self,
        pipe: Option<impl AsyncRead + Unpin>,
        output: &Output,
        over: &CancellationToken,
    ) {
        let Some(mut pipe) = pipe else { return };
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut leftover = 0;
        while leftover < LEFTOVER_BYTES {
            let read = tokio::select! {
                biased;
                read = pipe.read(&mut buffer) => read.unwrap_or(0),
                () = idle_after(over) => 0,
            };
            if read == 0 {
                return;
            }
            if over.is_cancelled() {
                leftover += read;
            }
            self.take(&buffer[..read]);
            tokio::select! {
                () = self.pass_on(output) => {}
                // Nobody takes it. The result has it all the same.
                () = idle_after(over) => self.passed_on = usize::MAX,
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.total_bytes += bytes.len() as u64;
        let room = self.max_bytes - self.kept.len();
        self.kept.extend_from_slice(&bytes[..room.min(bytes.len())]);
    }

    async fn pass_on(&mut self, output: &Output) {
        let Some(fresh) = self.kept.get(self.passed_on..) else { return };
        let whole = &fresh[..whole_characters(fresh)];
        if !whole.is_empty() {
            let (text, _) = printable(whole.to_vec(), usize::MAX);
            self.passed_on += whole.len();
            output.text(self.stream, text).await;
        }
    }

    /// What was kept, as [`printable`] text of at most `max_bytes`.
    pub(super) fn finish(self) -> Captured {
        let Self { mut kept, max_bytes, total_bytes, .. } = self;
        let mut truncated = total_bytes > kept.len() as u64;
        if truncated {
            kept.truncate(whole_characters(&kept));
        }
        let (text, cut) = printable(kept, max_bytes);
        truncated |= cut;
        Captured { text, truncated, total_bytes }
    }
}

/// Never returns before `over` is cancelled and some time has passed since.
async fn idle_after(over: &CancellationToken) {
    over.cancelled().await;
    tokio::time::sleep(IDLE_WAIT).await;
}

/// `bytes` as text of at most `max_bytes`, and whether that cut something off.
///
/// What is not UTF-8, and every control character below the space but line breaks and tabs, becomes
/// U+FFFD. JSON takes six bytes for such a character, so that a module that prints zeros would need
/// six times the memory it is allowed; like this no text grows to more than three times its bytes.
fn printable(bytes: Vec<u8>, max_bytes: usize) -> (String, bool) {
    let bytes = match String::from_utf8(bytes) {
        Ok(text) if text.len() <= max_bytes && !text.contains(is_unprintable) => {
            return (text, false);
        }
        Ok(text) => text.into_bytes(),
        Err(error) => error.into_bytes(),
    };
    let characters = bytes.utf8_chunks().flat_map(|chunk| {
        let invalid = (!chunk.invalid().is_empty()).then_some(char::REPLACEMENT_CHARACTER);
        chunk.valid().chars().chain(invalid)
    });
    let mut text = String::with_capacity(max_bytes.min(bytes.len()));
    for character in characters {
        let replace = is_unprintable(character);
        let shown = if replace { char::REPLACEMENT_CHARACTER } else { character };
        if shown.len_utf8() > max_bytes - text.len() {
            return (text, true);
        }
        text.push(shown);
    }
    (text, false)
}

fn is_unprintable(character: char) -> bool {
    character < ' ' && !matches!(character, '\n' | '\r' | '\t')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn captured(pieces: &[&[u8]], max_bytes: usize) -> Captured {
        let mut capture = Capture::new(OutputStream::Stdout, max_bytes);
        for piece in pieces {
            capture.take(piece);
        }
        capture.finish()
    }

    #[test]
    fn a_cut_never_halves_a_character() {
        let captured = captured(&["aä€😀".as_bytes()], 9);
        assert_eq!(captured, Captured { text: "aä€".to_owned(), truncated: true, total_bytes: 10 });
    }

    #[test]
    fn what_is_not_utf8_is_replaced_and_stays_within_the_bound() {
        let captured = captured(&[&[0xff; 100]], 10);
        assert_eq!(captured.text, "\u{fffd}".repeat(3));
        assert!(captured.truncated);
    }

    #[test]
    fn control_characters_are_replaced_but_for_line_breaks_and_tabs() {
        let captured = captured(&[b"\x1b[1ma\tb\0\r\n\x7f"], 100);
        assert_eq!(captured.text, "\u{fffd}[1ma\tb\u{fffd}\r\n\x7f");
        assert!(!captured.truncated);
    }

    #[test]
    fn a_mebibyte_of_zeros_stays_a_mebibyte_in_json() {
        const MIB: usize = 1_024 * 1_024;
        let captured = captured(&[&[0; MIB]], MIB);
        assert_eq!((captured.truncated, captured.total_bytes), (true, MIB as u64));
        assert!(serde_json::to_string(&captured.text).unwrap().len() <= MIB + 2);
    }

    proptest! {
        #[test]
        fn text_stays_within_the_bound_and_every_byte_is_counted(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), max in 0usize..100,
        ) {
            let captured = captured(&[&bytes], max);
            prop_assert!(captured.text.len() <= max);
            prop_assert_eq!(captured.total_bytes, bytes.len() as u64);
            let expected = String::from_utf8_lossy(&bytes).replace(is_unprintable, "\u{fffd}");
            prop_assert!(expected.starts_with(&captured.text));
            prop_assert!(captured.truncated || captured.text == expected);
            let json = serde_json::to_string(&captured.text).unwrap();
            prop_assert!(json.len() <= 3 * bytes.len() + 2);
        }

        #[test]
        fn text_in_pieces_is_passed_on_as_it_was_printed(text in "\\PC{0,40}", at in 0usize..160) {
            let at = at.min(text.len());
            let (first, _) = text.as_bytes().split_at(at);
            let whole = whole_characters(first);
            prop_assert!(text.is_char_boundary(whole));
            prop_assert!(at - whole < 4);
        }
    }
}
