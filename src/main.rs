use std::process::ExitCode;

use clap::Parser;
use iot_agent::cli::{self, Cli};

fn main() -> ExitCode {
    match Cli::parse().execute() {
        Ok(code) => code,
        Err(error) => cli::explain(error),
    }
}
