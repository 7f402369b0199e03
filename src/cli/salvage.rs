//! `spool salvage`: whatever can be read in a folder that was a spool.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use indicatif::{HumanCount, MultiProgress};

use crate::cli::spool::{into, progress, write_all};
use crate::cli::terminal::style;
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
    let bar = progress(terminal, to, salvage.bytes(), CARVING);
    while let Some(bytes) = salvage.carve() {
        bar.inc(bytes);
    }
    bar.reset();
    bar.set_style(style(WRITING));
    bar.set_length(salvage.left());
    let (mut markers, damaged) = salvage.declarations();
    markers.extend(damaged.into_iter().map(Marker::Gap));
    let (samples, _) = into(to, |out| write_all(&mut salvage, &markers, out, &bar))?;
    bar.finish_and_clear();
    say(&salvage, samples);
    Ok(ExitCode::SUCCESS)
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
