//! `verify-lake`: which samples of each device and run a local lake has.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use indicatif::{HumanCount, MultiProgress, ProgressBar};
use serde_json::json;

use crate::cli::INCOMPLETE;
use crate::cli::terminal::{columns, style, wants_json};
use crate::sink::lake::verify::{Report, Tally, verify};

const PROGRESS: &str = "{bar:20} {percent}% {human_pos} of {human_len} files, {eta} left";

pub fn verify_lake(
    path: &Path,
    json: bool,
    terminal: Option<MultiProgress>,
) -> anyhow::Result<ExitCode> {
    let bar = terminal.map_or_else(ProgressBar::hidden, |all| {
        all.add(ProgressBar::new(0).with_style(style(PROGRESS)))
    });
    let report = verify(path, |read, all| {
        bar.set_length(all);
        bar.set_position(read);
    })?;
    bar.finish_and_clear();
    let mut out = io::stdout().lock();
    if wants_json(json) {
        let Report { files, rows, expired_upto, passed_over, runs } = &report;
        let value = json!({
            "path": path,
            "complete": report.is_complete(),
            "files": files,
            "rows": rows,
            "expired_upto": expired_upto,
            "passed_over": passed_over,
            "runs": runs,
        });
        writeln!(out, "{value}")?;
    } else {
        write!(out, "{}", table(&report.runs))?;
        summary(&report, &mut out)?;
    }
    Ok(if report.is_complete() { ExitCode::SUCCESS } else { ExitCode::from(INCOMPLETE) })
}

fn table(runs: &[Tally]) -> String {
    let head = [
        "device",
        "run",
        "ended",
        "last seq",
        "present",
        "duplicated",
        "declared",
        "missing",
        "expired",
        "beyond end",
    ];
    let mut rows = vec![head.map(String::from)];
    rows.extend(runs.iter().map(|tally| {
        let last_seq = tally.last_seq.map_or_else(|| "-".into(), |seq| seq.to_string());
        [
            tally.id_device.clone(),
            tally.run.to_string(),
            tally.reason.unwrap_or("open").to_owned(),
            last_seq,
            tally.present.to_string(),
            tally.duplicated.to_string(),
            tally.declared.to_string(),
            tally.missing.to_string(),
            tally.expired.to_string(),
            tally.beyond_end.to_string(),
        ]
    }));
    columns(&rows)
}

fn summary(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let sum = |of: fn(&Tally) -> u64| HumanCount(report.runs.iter().map(of).sum());
    writeln!(
        out,
        "\n{} rows in {} files: {} samples present, {} duplicated, {} declared, {} missing",
        HumanCount(report.rows),
        HumanCount(report.files),
        sum(|tally| tally.present),
        sum(|tally| tally.duplicated),
        sum(|tally| tally.declared),
        sum(|tally| tally.missing),
    )?;
    if let Some(upto) = &report.expired_upto {
        let expired = sum(|tally| tally.expired);
        writeln!(
            out,
            "{expired} samples went with files of up to {upto} h, for sink.lake.max_bytes"
        )?;
    }
    if report.runs.iter().any(|tally| tally.open && tally.missing > 0) {
        writeln!(out, "What an open run seems to miss may still be on its way.")?;
    }
    for (path, why) in &report.passed_over {
        writeln!(out, "passed over: {}: {why}", path.display())?;
    }
    Ok(())
}
