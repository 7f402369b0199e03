//! What is wrong with a configuration, and where: a [`Source`] is a text that
//! people wrote, a [`Place`] a spot in it, a [`Problem`] what to do there.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// Characters of a line that are shown at most, so that a line of garbage does
/// not flood the terminal.
const SHOWN: usize = 100;

/// A text that settings are read from.
#[derive(Debug)]
pub struct Source {
    pub name: String,
    pub text: String,
    /// A file has lines and columns; a command line and a variable are short
    /// enough to be shown as they are.
    pub is_file: bool,
    /// Where each line begins.
    lines: Vec<usize>,
}

impl Source {
    pub fn new(name: String, text: String, is_file: bool) -> Self {
        let ends = text.match_indices('\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(0).chain(ends).collect();
        Self { name, text, is_file, lines }
    }

    /// The line that holds the byte `at`, counted from 0.
    pub fn line_of(&self, at: usize) -> usize {
        self.lines.partition_point(|begin| *begin <= at).saturating_sub(1)
    }

    /// The spot of the bytes `span`, which may lie beyond the end.
    pub fn place(&self, span: Range<usize>) -> Place {
        let start = self.text.floor_char_boundary(span.start);
        let row = self.line_of(start);
        let begin = self.lines.get(row).copied().unwrap_or_default();
        let line = self.text.get(begin..).unwrap_or_default();
        let line = line.lines().next().unwrap_or_default();
        let chars = |to: usize| line.get(..line.floor_char_boundary(to)).map_or(0, char_count);
        let (column, end) = (chars(start - begin), chars(span.end.saturating_sub(begin)));
        let skipped = if char_count(line) > SHOWN { column.saturating_sub(SHOWN / 2) } else { 0 };
        let visible = |c: char| match c {
            '\t' => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        };
        let caret = column - skipped;
        Place {
            name: self.name.clone(),
            position: self.is_file.then_some((row + 1, column + 1)),
            excerpt: Some(Excerpt {
                line: veiled(line).chars().skip(skipped).take(SHOWN).map(visible).collect(),
                caret,
                width: end.saturating_sub(column).clamp(1, SHOWN),
            }),
        }
    }
}

/// Words that begin secrets, in what people write into a configuration by mistake.
const SECRETS: [&str; 4] = ["secret", "password", "token", "access_key"];

/// A line or a value without what looks like a secret: logs and terminals are read
/// by others, too.
pub fn veiled(text: &str) -> Cow<'_, str> {
    let lower = text.to_ascii_lowercase();
    let head = text.split_inclusive(['=', ':']).next().filter(|head| *head != text);
    if let (true, Some(head)) = (SECRETS.iter().any(|word| lower.contains(word)), head) {
        return format!("{head} …").into();
    }
    let url =
        text.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?)));
    match url {
        Some((scheme, (_, host))) => format!("{scheme}://…@{host}").into(),
        None => text.into(),
    }
}

fn char_count(text: &str) -> usize {
    text.chars().count()
}

/// A spot, ready to be shown.
#[derive(Debug, Clone)]
pub struct Place {
    name: String,
    /// Line and column in characters, from 1.
    position: Option<(usize, usize)>,
    excerpt: Option<Excerpt>,
}

#[derive(Debug, Clone)]
struct Excerpt {
    line: String,
    /// Characters before the marked ones.
    caret: usize,
    width: usize,
}

impl Place {
    /// A file as a whole, or nothing that anyone wrote.
    pub fn whole(name: String) -> Self {
        Self { name, position: None, excerpt: None }
    }

    /// Line and column in characters, from 1, where it is in a file.
    pub fn position(&self) -> Option<(usize, usize)> {
        self.position
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match self.position {
            Some((line, column)) => write!(f, ":{line}:{column}"),
            None => Ok(()),
        }
    }
}

/// One thing that keeps the agent from starting.
#[derive(Debug, Clone)]
pub struct Problem {
    pub place: Place,
    pub what: String,
    /// What to do about it, as a sentence.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.place, self.what)?;
        if let Some(Excerpt { line, caret, width }) = &self.place.excerpt {
            writeln!(f, "    {line}\n    {:caret$}{:^<width$}", "", "")?;
        }
        write!(f, "    {}", self.remedy)
    }
}

/// All that is wrong with a configuration, in the order in which it was read.
#[derive(Debug)]
pub struct Errors(pub(super) Vec<Problem>);

impl std::error::Error for Errors {}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            f.write_str(if n == 0 { "" } else { "\n\n" })?;
            problem.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, span: Range<usize>) -> String {
        let place = Source::new("f".into(), text.into(), true).place(span);
        Problem { place, what: "bad".into(), remedy: "Do.".into() }.to_string()
    }

    #[test]
    fn the_caret_stands_under_what_is_meant() {
        assert_eq!(shown("a = 1\nü = 22\n", 11..13), "f:2:5: bad\n    ü = 22\n        ^^\n    Do.");
    }

    #[test]
    fn a_span_over_lines_or_beyond_the_end_is_marked_where_it_begins() {
        assert!(shown("a = '''\nb", 4..9).contains("f:1:5: bad\n    a = '''\n        ^^^\n"));
        assert!(shown("a", 9..12).contains("f:1:2: bad\n    a\n     ^\n"));
        assert!(shown("", 0..0).contains("f:1:1: bad\n    \n    ^\n"));
    }

    #[test]
    fn secrets_are_not_shown() {
        for (line, seen) in [
            ("aws_secret_access_key = \"AKIA\"", "aws_secret_access_key = …"),
            ("AWS_SESSION_TOKEN=AKIA", "AWS_SESSION_TOKEN= …"),
            ("x = { Password: AKIA }", "x = …"),
            ("url = \"https://me:AKIA@host:1/p\"", "url = \"https://…@host:1/p\""),
        ] {
            assert!(shown(line, 0..1).contains(&format!("\n    {seen}\n")), "{line}");
        }
        for plain in ["secret", "mail = \"a@b\"", "url = \"https://host:1\""] {
            assert_eq!(veiled(plain), plain);
        }
    }

    #[test]
    fn long_lines_are_cut_and_control_characters_do_not_reach_the_terminal() {
        let text = format!("{}\u{1b}[2J\tx", "y".repeat(300));
        let shown = shown(&text, 300..301);
        assert!(!shown.contains('\u{1b}'));
        assert!(shown.lines().all(|line| line.chars().count() <= SHOWN + 4));
        let mut lines = shown.lines();
        assert_eq!(lines.next(), Some("f:1:301: bad"));
        let line: Vec<char> = lines.next().unwrap().chars().collect();
        let caret = lines.next().unwrap().find('^').unwrap();
        assert_eq!(line[caret], char::REPLACEMENT_CHARACTER);
    }
}
