//! The live line of `run`: samples, spooled, delivered, and where to.

use std::io::{self, IsTerminal, Write};

use indicatif::{HumanBytes, HumanCount, MultiProgress, ProgressBar};

use crate::agent::Report;
use crate::cli::terminal::{beside, style};
use crate::config::Config;
use crate::config::model::Sink;
use crate::sink::lake;

const STEADY: &str = "{wide_msg}";
const BACKFILL: &str = "{bar:20} {percent}% {per_sec:0}, {eta} left | {wide_msg}";

/// Draws nothing where nobody looks.
pub struct Live {
    drawn: Option<(MultiProgress, ProgressBar)>,
    /// The query to paste, until it has been shown.
    hint: Option<String>,
    backfilling: bool,
}

impl Live {
    pub fn new(config: &Config, terminal: Option<MultiProgress>) -> Self {
        // Records on the same terminal would run through the line.
        let disturbed = matches!(config.sink, Sink::Stdout) && io::stdout().is_terminal();
        let drawn = terminal.filter(|_| !disturbed).map(|all| {
            let bar = all.add(ProgressBar::no_length().with_style(style(STEADY)));
            (all, bar)
        });
        let hint = match &config.sink {
            Sink::Lake(lake) => Some(lake::query_hint(&lake.path)),
            Sink::Firehose(_) | Sink::Stdout => None,
        };
        Self { drawn, hint, backfilling: false }
    }

    pub fn show(&mut self, report: &Report) {
        let Some((all, bar)) = &self.drawn else {
            return;
        };
        if report.delivered > 0
            && let Some(hint) = self.hint.take()
        {
            let text = format!("\nRows are in the lake. To see them in DuckDB, paste:\n\n{hint}\n");
            // A terminal that is gone takes its line with it.
            let _ = beside(all, || writeln!(io::stderr(), "{text}"));
        }
        let filling = report.backfill.filter(|(done, total)| done < total);
        if filling.is_some() != self.backfilling {
            self.backfilling = filling.is_some();
            bar.set_style(style(if self.backfilling { BACKFILL } else { STEADY }));
        }
        if let Some((done, total)) = filling {
            bar.update(|state| {
                state.set_len(total);
                state.set_pos(done);
            });
        }
        bar.set_message(words(report));
    }

    /// Takes the line away.
    pub fn end(self) {
        if let Some((_, bar)) = self.drawn {
            bar.finish_and_clear();
        }
    }
}

/// What matters most stands first: a narrow terminal cuts the end off.
fn words(report: &Report) -> String {
    let mut text = format!(
        "{} samples, {} spooled, {} delivered",
        HumanCount(report.samples),
        HumanBytes(report.spooled_bytes),
        HumanCount(report.delivered),
    );
    if report.dropped > 0 {
        text += &format!(", {} dropped", HumanCount(report.dropped));
    }
    if report.dead_letters > 0 {
        text += &format!(", {} refused", HumanCount(report.dead_letters));
    }
    if let Some(celsius) = report.temperature {
        text += &format!(", {celsius:.1} °C");
    }
    match (&report.spool_trouble, &report.trouble) {
        (Some(trouble), _) | (None, Some(trouble)) => text + " | " + trouble,
        (None, None) if report.sink.is_empty() => text,
        (None, None) => text + " | " + &report.sink,
    }
}
