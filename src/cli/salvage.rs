//! `spool salvage`: whatever can be read in a folder that was a spool.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use indicatif::{HumanCount, MultiProgress, ProgressBar};

use crate::cli::spool::{into, render};
use crate::cli::terminal::style;
use crate::clock::{self, Clock};
use crate::record::{Gap, Marker};
use crate::spool::inspect::Salvage;

const CARVING: &str = "{bar:20} {percent}% of {total_bytes} searched, {eta} left";
const WRITING: &str = "{bar:20} {percent}% of {human_len} chunks written, {eta} left";

pub fn salvage(
    dir: &Path,
    to: Option<&Path>,
    terminal: Option<MultiProgress>,
) -> anyhow::Result<ExitCode> {
    let mut salvage = Salvage::open(dir)?;
    // Records on the same terminal would run through the line.
    let terminal = terminal.filter(|_| to.is_some() || !io::stdout().is_terminal());
    let bar = terminal.map_or_else(ProgressBar::hidden, |all| {
        all.add(ProgressBar::new(salvage.bytes()).with_style(style(CARVING)))
    });
    while let Some(bytes) = salvage.carve() {
        bar.inc(bytes);
    }
    bar.reset();
    bar.set_style(style(WRITING));
    bar.set_length(salvage.left());
    let samples = into(to, |out| write(&mut salvage, out, &bar))?;
    bar.finish_and_clear();
    say(&salvage, samples);
    Ok(ExitCode::SUCCESS)
}

/// Writes every sample, and what is missing; returns how many samples.
fn write(salvage: &mut Salvage, out: &mut dyn Write, bar: &ProgressBar) -> io::Result<u64> {
    let mut out = BufWriter::new(out);
    let now_ms = Clock::new().now().wall_ms;
    let sent = clock::partition_hour(now_ms);
    let (mut samples, mut lines) = (0, Vec::new());
    loop {
        let chunks = salvage.chunks();
        if chunks.is_empty() {
            break;
        }
        for chunk in &chunks {
            render(chunk, salvage.offset_ms(chunk), &sent, &mut lines);
            samples += chunk.entries.len() as u64;
            bar.inc(1);
        }
        out.write_all(&lines)?;
        lines.clear();
    }
    let (declared, damaged) = salvage.declarations();
    let markers = declared.into_iter().chain(damaged.into_iter().map(Marker::Gap));
    markers.for_each(|marker| marker.render(now_ms, &sent, &mut lines));
    out.write_all(&lines)?;
    out.flush()?;
    Ok(samples)
}

fn say(salvage: &Salvage, samples: u64) {
    let found = &salvage.salvaged;
    let (_, damaged) = salvage.declarations();
    let lost: u64 = damaged.iter().map(seqs).sum();
    let mut text = format!(
        "{} samples in {} chunks; {} chunks with {} samples are damaged; \
         {} samples were found twice\n",
        HumanCount(samples),
        HumanCount(found.chunks),
        HumanCount(damaged.len() as u64),
        HumanCount(lost),
        HumanCount(found.duplicates),
    );
    if !salvage.has_ledger {
        text += "there is no ledger that can be read: some of this may have been delivered\n";
    }
    for (path, why) in &found.unreadable {
        text += &format!("{} cannot be read: {why}\n", path.display());
    }
    // Where stderr is gone there is nobody to tell.
    let _ = io::stderr().write_all(text.as_bytes());
}

fn seqs(gap: &Gap) -> u64 {
    (gap.last_seq - gap.first_seq).saturating_add(1)
}
