//! `spool`: what waits in the spool of an agent that is stopped.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use indicatif::{HumanBytes, HumanCount, MultiProgress, ProgressBar};
use serde_json::{Value, json};

use crate::cli::terminal::{columns, style, wants_json};
use crate::clock::{self, Clock};
use crate::ledger::Ranges;
use crate::record::{Line, Marker, Run, dated};
use crate::spool::Settings;
use crate::spool::chunk::Chunk;
use crate::spool::inspect::{Inspection, Source};

const PROGRESS: &str =
    "{bar:20} {percent}% {human_pos} of {human_len} chunks, {per_sec:0}, {eta} left";

/// What waits of one device and run.
struct Waiting {
    seqs: Ranges,
    chunks: u64,
    /// Of the records before compression.
    bytes: u64,
    /// Milliseconds since the Unix epoch.
    oldest_ms: i64,
    newest_ms: i64,
}

pub fn ls(settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let mut inspection = Inspection::open(settings)?;
    let mut waiting = BTreeMap::new();
    each(&mut inspection, |chunk, offset_ms| {
        count(chunk, offset_ms, &mut waiting);
        Ok(())
    })?;
    let dead_letters = inspection.dead_letters()?.len();
    let mut holding = inspection.holding();
    holding.declarations.extend(inspection.thinned());
    let samples: u64 = waiting.values().map(|w| w.seqs.count()).sum();
    let mut out = io::stdout().lock();
    let declarations = &holding.declarations;
    if wants_json(json) {
        let value = json!({
            "path": settings.path,
            "disk_bytes": holding.disk_bytes,
            "samples": samples,
            "waiting": waiting.iter().map(waiting_json).collect::<Vec<_>>(),
            "declarations": declarations,
            "dead_letters": dead_letters,
        });
        writeln!(out, "{value}")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(
        out,
        "{}: {} samples wait in {} chunks; {} on disk",
        settings.path.display(),
        HumanCount(samples),
        HumanCount(waiting.values().map(|w| w.chunks).sum()),
        HumanBytes(holding.disk_bytes),
    )?;
    if !waiting.is_empty() {
        write!(out, "\n{}", waiting_table(&waiting))?;
    }
    if !declarations.is_empty() {
        let table = declarations_table(declarations);
        write!(out, "\nDeclared, and not yet told the sink:\n{table}")?;
    }
    if dead_letters > 0 {
        let count = HumanCount(dead_letters as u64);
        writeln!(out, "\n{count} records were refused for good: iot-agent spool dead-letters")?;
    }
    Ok(ExitCode::SUCCESS)
}

type ByRun = BTreeMap<(Arc<str>, Run), Waiting>;

/// Hands every chunk of `source` to `take`, with the offset (ms) of its boot if
/// that is known.
fn each(
    source: &mut impl Source,
    mut take: impl FnMut(&Chunk, Option<i64>) -> io::Result<()>,
) -> io::Result<()> {
    loop {
        let chunks = source.chunks();
        if chunks.is_empty() {
            return Ok(());
        }
        for chunk in &chunks {
            take(chunk, source.offset_ms(chunk))?;
        }
    }
}

fn count(chunk: &Chunk, offset_ms: Option<i64>, waiting: &mut ByRun) {
    let key = (Arc::clone(&chunk.device), chunk.run);
    let entry = waiting.entry(key).or_insert_with(|| Waiting {
        seqs: Ranges::default(),
        chunks: 0,
        bytes: 0,
        oldest_ms: i64::MAX,
        newest_ms: i64::MIN,
    });
    entry.chunks += 1;
    for sample in &chunk.entries {
        let (at_ms, _) = dated(&sample.at, offset_ms);
        entry.seqs.insert(sample.seq);
        entry.bytes += sample.payload_bytes() as u64;
        entry.oldest_ms = entry.oldest_ms.min(at_ms);
        entry.newest_ms = entry.newest_ms.max(at_ms);
    }
}

fn waiting_json(((device, run), waiting): (&(Arc<str>, Run), &Waiting)) -> Value {
    json!({
        "device": device.as_ref(),
        "run": run,
        "seqs": waiting.seqs.iter().collect::<Vec<_>>(),
        "samples": waiting.seqs.count(),
        "chunks": waiting.chunks,
        "bytes": waiting.bytes,
        "oldest": clock::rfc3339(waiting.oldest_ms),
        "newest": clock::rfc3339(waiting.newest_ms),
    })
}

fn waiting_table(waiting: &ByRun) -> String {
    let head = ["device", "run", "samples", "chunks", "bytes", "oldest", "newest", "seqs"];
    let mut rows = vec![head.map(String::from)];
    rows.extend(waiting.iter().map(|((device, run), waiting)| {
        [
            device.to_string(),
            run.to_string(),
            HumanCount(waiting.seqs.count()).to_string(),
            HumanCount(waiting.chunks).to_string(),
            HumanBytes(waiting.bytes).to_string(),
            clock::rfc3339(waiting.oldest_ms),
            clock::rfc3339(waiting.newest_ms),
            seqs(&waiting.seqs),
        ]
    }));
    columns(&rows)
}

fn declarations_table(declarations: &[Marker]) -> String {
    let head = ["device", "run", "what", "seqs", "kept", "reason"];
    let mut rows = vec![head.map(String::from)];
    rows.extend(declarations.iter().map(|marker| {
        let (what, seqs, kept, reason) = match marker {
            Marker::Gap(gap) => {
                let seqs = format!("{}-{}", gap.first_seq, gap.last_seq);
                ("gap", seqs, gap.kept.to_string(), json!(gap.reason))
            }
            Marker::RunEnd(end) => {
                ("run_end", format!("0-{}", end.last_seq), String::new(), json!(end.reason))
            }
        };
        let reason = reason.as_str().unwrap_or_default().to_owned();
        [marker.device().to_owned(), marker.run().to_string(), what.into(), seqs, kept, reason]
    }));
    columns(&rows)
}

/// `0-99 120-200`, the first few.
fn seqs(ranges: &Ranges) -> String {
    const SHOWN: usize = 4;
    let shown = ranges.iter().take(SHOWN).map(|(first, last)| format!("{first}-{last}"));
    let mut text = shown.collect::<Vec<_>>().join(" ");
    if ranges.ranges() > SHOWN {
        text += &format!(" and {} more", ranges.ranges() - SHOWN);
    }
    text
}

pub fn export(
    settings: &Settings,
    out: Option<&Path>,
    terminal: Option<MultiProgress>,
) -> anyhow::Result<ExitCode> {
    let mut inspection = Inspection::open(settings)?;
    let holding = inspection.holding();
    let bar = progress(terminal, out, holding.chunks, PROGRESS);
    let markers = holding.declarations;
    let (samples, told) = into(out, |to| write_all(&mut inspection, &markers, to, &bar))?;
    bar.finish_and_clear();
    if let Some(path) = out {
        let records = HumanCount(samples + told);
        writeln!(io::stdout(), "{records} records in {}", path.display())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A bar on the `terminal`, unless records go there.
pub(super) fn progress(
    terminal: Option<MultiProgress>,
    out: Option<&Path>,
    total: u64,
    template: &str,
) -> ProgressBar {
    // Records on the same terminal would run through the line.
    let terminal = terminal.filter(|_| out.is_some() || !io::stdout().is_terminal());
    terminal.map_or_else(ProgressBar::hidden, |all| {
        all.add(ProgressBar::new(total).with_style(style(template)))
    })
}

/// Has `write` write to stdout, or to the file at `out`: all of it or nothing.
pub(super) fn into<T>(
    out: Option<&Path>,
    write: impl FnOnce(&mut dyn Write) -> io::Result<T>,
) -> anyhow::Result<T> {
    let Some(path) = out else { return Ok(write(&mut io::stdout().lock())?) };
    let failed = || format!("{} cannot be written", path.display());
    let partial = partial(path)?;
    let mut file = File::create(&partial).with_context(failed)?;
    let written = write(&mut file).and_then(|written| {
        file.sync_all()?;
        std::fs::rename(&partial, path)?;
        Ok(written)
    });
    if written.is_err() {
        // What was in the way of writing may be in the way of this.
        let _ = std::fs::remove_file(&partial);
    }
    written.with_context(failed)
}

/// Where `path` grows until it is whole.
fn partial(path: &Path) -> anyhow::Result<PathBuf> {
    let taken = std::fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_file());
    match path.file_name() {
        Some(name) if !taken => {
            let mut name = name.to_owned();
            name.push(".partial");
            Ok(path.with_file_name(name))
        }
        _ => anyhow::bail!("{} is no file: name one", path.display()),
    }
}

/// Writes the samples of every chunk, then the markers, and what thinning took;
/// returns how many samples, and markers.
pub(super) fn write_all(
    source: &mut impl Source,
    markers: &[Marker],
    out: impl Write,
    bar: &ProgressBar,
) -> io::Result<(u64, u64)> {
    let mut out = BufWriter::new(out);
    let now_ms = Clock::new().now().wall_ms;
    let sent = clock::partition_hour(now_ms);
    let (mut samples, mut lines) = (0, Vec::new());
    each(source, |chunk, offset_ms| {
        render(chunk, offset_ms, &sent, &mut lines);
        samples += chunk.entries.len() as u64;
        bar.inc(1);
        out.write_all(&lines)?;
        lines.clear();
        Ok(())
    })?;
    let thinned = source.thinned();
    let markers = markers.iter().chain(&thinned);
    let told = markers.clone().count() as u64;
    markers.for_each(|marker| marker.render(now_ms, &sent, &mut lines));
    out.write_all(&lines)?;
    out.flush()?;
    Ok((samples, told))
}

fn render(chunk: &Chunk, offset_ms: Option<i64>, timestamp_sent: &str, out: &mut Vec<u8>) {
    for entry in &chunk.entries {
        let (timestamp_ms, clock) = dated(&entry.at, offset_ms);
        let line = Line {
            device: &chunk.device,
            run: chunk.run,
            seq: entry.seq,
            timestamp_ms,
            clock,
            timestamp_sent,
            body: &entry.body,
        };
        line.render(out);
    }
}

pub fn dead_letters(settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let letters = Inspection::open(settings)?.dead_letters()?;
    let mut out = io::stdout().lock();
    if wants_json(json) {
        letters.iter().try_for_each(|letter| writeln!(out, "{letter}"))?;
        return Ok(ExitCode::SUCCESS);
    }
    if letters.is_empty() {
        writeln!(out, "No record was ever refused.")?;
    }
    for letter in &letters {
        let text = |key: &str| letter.get(key).and_then(Value::as_str).unwrap_or_default();
        writeln!(out, "{}\n    {}", text("reason"), text("record"))?;
    }
    Ok(ExitCode::SUCCESS)
}
