//! Printing: results to stdout as a table or as JSON, remarks to stderr.
//!
//! A write that fails is an error like any other, so that `flowgate list | head` ends quietly
//! instead of panicking.

use std::fmt::Display;
use std::io::{self, Write};

use comfy_table::{Table, presets};
use serde_json::Value;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(super) enum Format {
    // For people. Not a doc comment: clap would list the values at length in every help.
    #[default]
    Table,
    // The reply as proto3 JSON; a line each where replies stream.
    Json,
}

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Out {
    format: Format,
}

impl Out {
    pub(super) fn new(format: Format) -> Self {
        Self { format }
    }

    pub(super) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// One result in the format asked for.
    pub(super) fn result(
        self,
        json: impl FnOnce() -> Value,
        text: impl FnOnce() -> String,
    ) -> io::Result<()> {
        match self.format {
            Format::Json => self.line(format_args!("{:#}", json())),
            Format::Table => self.line(text()),
        }
    }

    pub(super) fn line(self, line: impl Display) -> io::Result<()> {
        writeln!(io::stdout().lock(), "{line}")
    }

    /// Text as it is, shown at once though its line may not be complete.
    pub(super) fn piece(self, bytes: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        stdout.flush()
    }
}

/// Tells something that is not the result. There is nobody to tell if stderr is gone.
pub(super) fn note(remark: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{remark}");
}

/// Rows in columns, without lines, under headings.
pub(super) fn table<const N: usize>(
    headings: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(headings);
    for row in rows {
        table.add_row(row.map(|cell| one_line(&cell)));
    }
    trimmed(table)
}

/// Names beside values; those without a value are left out.
pub(super) fn fields<const N: usize>(rows: [(&str, Option<String>); N]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    for (name, value) in rows {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            table.add_row([name.to_owned(), one_line(&value)]);
        }
    }
    trimmed(table)
}

fn trimmed(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// Text from elsewhere on one line, and unable to steer the terminal.
pub(super) fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_whitespace() { ' ' } else { c })
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}

/// The first `width` characters, and a sign if that was not all.
pub(super) fn shortened(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_space() {
        let shown = table(
            ["ID", "STATE"],
            [["a".into(), "RUNNING".into()], ["long".into(), String::new()]],
        );
        assert_eq!(shown, "ID    STATE\na     RUNNING\nlong");
    }

    #[test]
    fn foreign_text_can_neither_break_a_line_nor_steer_the_terminal() {
        assert_eq!(one_line("a\nb\t\u{1b}[31mred"), "a b \\u{1b}[31mred");
    }

    #[test]
    fn text_is_shortened_between_characters() {
        assert_eq!(shortened("héllo", 2), "hé…");
        assert_eq!(shortened("hé", 2), "hé");
    }
}
