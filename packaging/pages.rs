//! Writes the man pages and the shells' completions that the packages carry.
//!
//! `cargo run --example pages FOLDER`. They come from the options themselves, so
//! that they cannot say anything else.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use clap::CommandFactory;
use clap::builder::Resettable;
use clap_complete::Shell;
use clap_mangen::roff::{Roff, roman};
use iot_agent::cli::Cli;

fn main() -> io::Result<()> {
    let folder: Option<OsString> = std::env::args_os().nth(1);
    let folder = PathBuf::from(folder.ok_or_else(|| io::Error::other("name a folder"))?);
    fs::create_dir_all(&folder)?;
    let mut command = Cli::command();
    let after = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let plain = command.clone().after_help(Resettable::Reset).after_long_help(Resettable::Reset);
    clap_mangen::generate_to(plain, &folder)?;
    sections(&after)
        .to_writer(&mut File::options().append(true).open(folder.join("iot-agent.1"))?)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut command, "iot-agent", &folder)?;
    }
    Ok(())
}

/// The end of `--help`, whose columns clap_mangen would run together.
fn sections(help: &str) -> Roff {
    let mut page = Roff::new();
    for part in help.split("\n\n") {
        let (heading, lines) = part.split_once(":\n").unwrap_or((part, ""));
        let heading = match heading {
            "Configuration" => "FILES",
            "Exit codes" => "EXIT STATUS",
            other => &other.to_uppercase(),
        };
        page.control("SH", [heading]);
        for line in lines.lines() {
            let (term, meaning) = line.trim().split_once("  ").unwrap_or(("", line));
            if !term.is_empty() {
                page.control("TP", []);
                page.text([roman(term)]);
            }
            page.text([roman(meaning.trim())]);
        }
    }
    page
}
