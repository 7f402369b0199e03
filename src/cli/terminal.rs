//! What output looks like: people's on a terminal, plain elsewhere.

use std::env;
use std::io::{self, IsTerminal, Write};

use indicatif::{MultiProgress, ProgressStyle};

/// Whether `stream` may be coloured: a terminal, and <https://no-color.org>
/// does not forbid it.
pub fn colours(stream: &impl IsTerminal) -> bool {
    let forbidden = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !forbidden && able()
}

/// Whether the terminal can move its cursor.
fn able() -> bool {
    env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// What can be drawn on stderr, if that is a terminal.
pub fn live() -> Option<MultiProgress> {
    (io::stderr().is_terminal() && able()).then(MultiProgress::new)
}

/// Has `write` write where `live` is drawn, which comes back with its next change.
/// `MultiProgress::suspend` would panic on a terminal that has gone.
pub fn beside<T>(live: &MultiProgress, write: impl FnOnce() -> T) -> T {
    let _ = live.clear();
    write()
}

/// How a progress line looks; the templates are constants.
pub fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Whether stdout wants JSON: it was asked for, or nobody looks.
pub fn wants_json(asked: bool) -> bool {
    asked || !io::stdout().is_terminal()
}

/// `rows` in aligned columns, two spaces apart, each row ended by `\n`. The
/// last column is as wide as it likes.
pub fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let padded = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}  "));
        text += padded.collect::<String>().trim_end();
        text.push('\n');
    }
    text
}

/// A text on stdout that takes the place of the one before.
#[derive(Default)]
pub struct Page {
    lines: usize,
}

impl Page {
    /// Shows as much of `text` as the terminal has room for.
    pub fn show(&mut self, text: &str) -> io::Result<()> {
        let (rows, width) = size();
        let lines: Vec<String> = text
            .lines()
            .take(rows.saturating_sub(1))
            .map(|line| line.chars().take(width).collect())
            .collect();
        let mut out = io::stdout().lock();
        if self.lines > 0 {
            // Up to the first line, and away with everything below.
            write!(out, "\x1b[{}A\r\x1b[J", self.lines)?;
        }
        lines.iter().try_for_each(|line| writeln!(out, "{line}"))?;
        self.lines = lines.len();
        out.flush()
    }
}

/// Rows and columns of the terminal on stdout.
fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
        _ => (24, 80),
    }
}

/// `0.4512` as `45.1 %`.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_the_letters() {
        let rows = [["a".into(), "1".into()], ["für".into(), "22".into()]];
        assert_eq!(columns(&rows), "a    1\nfür  22\n");
    }
}
