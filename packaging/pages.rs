//! Writes the man pages and the shells' completions that the packages carry.
//!
//! `cargo run --example pages FOLDER`. They come from the options themselves, so
//! that they cannot say anything else.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;
use iot_agent::cli::Cli;

fn main() -> io::Result<()> {
    let folder: Option<OsString> = std::env::args_os().nth(1);
    let folder = PathBuf::from(folder.ok_or_else(|| io::Error::other("name a folder"))?);
    fs::create_dir_all(&folder)?;
    let mut command = Cli::command();
    clap_mangen::generate_to(command.clone(), &folder)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut command, "iot-agent", &folder)?;
    }
    Ok(())
}
