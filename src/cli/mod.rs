//! The command line.
//!
//! Each command is a file; this one holds what they share: the options that
//! every command takes, and how a failure becomes one message and one of the
//! documented exit codes. A reader that goes away (`| head`) is no failure.

mod check;
mod live;
mod logging;
mod reload;
mod run;
mod salvage;
mod sample;
mod service;
mod spool;
mod terminal;
mod verify;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use tracing_subscriber::filter::LevelFilter;

use crate::agent;
use crate::config::{self, Loaded, Override, Request};
use crate::spool::inspect::InspectError;

/// Something failed at run time.
const FAILURE: u8 = 1;

/// `verify-lake`: the lake lacks or doubles samples; EX_DATAERR of sysexits.h.
const INCOMPLETE: u8 = 65;

/// `check`: the sink cannot be used; EX_UNAVAILABLE of sysexits.h.
const UNAVAILABLE: u8 = 69;

/// The configuration is wrong, or the spool is a newer agent's; EX_CONFIG of
/// sysexits.h, which systemd's `RestartPreventExitStatus=78` can tell from a
/// failure that may pass.
const CONFIG: u8 = 78;

const EXAMPLES: &str = "\
Examples:
  iot-agent                                  run: sample this host into the sink
  iot-agent --simulate --devices 10          the same line with simulated devices
  iot-agent --simulate --backfill 7d         a week of history at once
  iot-agent --set sink.kind=stdout | head    records as NDJSON
  iot-agent check                            would it start, and would the sink take data?
  iot-agent sample --watch                   what this host's sensors read, live
  iot-agent spool ls                         what waits to be delivered
  iot-agent verify-lake DIR                  is anything missing or doubled in a lake?

Configuration:
  /etc/iot-agent.toml, then /etc/iot-agent.d/*.toml, then IOT_AGENT_<SECTION>_<KEY>
  variables, then --set. IOT_AGENT_LOG sets how much is logged: error, warn, info,
  debug or trace, or target=level pairs such as \"info,aws_config=debug\".

Exit codes:
    0  done; for run: stopped by SIGTERM or Ctrl-C, with everything flushed
    1  something failed at run time
    2  the command line is wrong
   65  verify-lake: samples are missing or doubled, or a file cannot be read
   69  check: the sink cannot be reached, or refuses
   78  a wrong configuration, or a spool of a newer version or another user: no restart helps
  130  a second Ctrl-C (143: a second SIGTERM): left at once, without flushing";

/// Samples this host's sensors and delivers them to a local Parquet lake or to
/// Amazon Data Firehose; not one sample goes missing unnoticed
#[derive(Debug, Parser)]
#[command(name = "iot-agent", version, after_long_help = EXAMPLES)]
#[command(after_help = "Without a command it runs. --help shows examples and exit codes.")]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sample and deliver until stopped (what happens without a command)
    ///
    /// On a terminal one line on stderr shows the state. SIGTERM and Ctrl-C flush
    /// and leave within 5 seconds, a second one leaves at once. SIGHUP reads the
    /// configuration again; the device's id, the spool and the simulation need a
    /// restart.
    Run {
        #[command(flatten)]
        common: Box<Common>,
    },
    /// Try what a start would do, and whether the sink would take data
    ///
    /// Reads the configuration, opens spool and sensors and asks the sink, with
    /// the code that run uses. Exits with 78 where the configuration is wrong,
    /// with 69 where only the sink is unusable, with 1 where something else is.
    Check {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        /// Leave the sink out: ask nobody, need no credentials
        #[arg(long)]
        offline: bool,
        #[command(flatten)]
        common: Box<Common>,
    },
    /// Print one record of this host: a table on a terminal, NDJSON elsewhere
    ///
    /// The record is read anew and goes nowhere else; its run is 0.
    Sample {
        /// Print NDJSON on a terminal, too
        #[arg(long)]
        json: bool,
        /// Go on, one record every sample.interval, until Ctrl-C
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        common: Box<Common>,
    },
    /// Look into the spool of an agent that is stopped
    Spool {
        #[command(subcommand)]
        command: SpoolCommand,
        #[command(flatten)]
        common: Box<Common>,
    },
    /// Count what a local lake has, lacks and doubles, by device and run
    ///
    /// Each sample is present, declared (a gap marker says that it will not
    /// come), expired (it went for sink.lake.max_bytes) or missing. Up to where a
    /// run is held to that, its run_end marker says; a run without one is open,
    /// and held to its highest sample. Exits with 65 where a sample is missing or
    /// is there twice, or where a file cannot be read.
    VerifyLake {
        /// The lake: sink.lake.path, or a copy of it
        dir: PathBuf,
        /// Print one JSON object on a terminal, too
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum SpoolCommand {
    /// List what waits to be delivered
    Ls {
        /// Print one JSON object on a terminal, too
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        common: Box<Common>,
    },
    /// Write every record that waits, as NDJSON
    ///
    /// Nothing leaves the spool: a later start still delivers all of it.
    Export {
        /// The file to write, all of it or nothing; standard output without it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        common: Box<Common>,
    },
    /// Write every record that can still be read in DIR, as NDJSON
    ///
    /// For a spool copied from a dead card, or one that was set aside: nothing in
    /// DIR changes, and it may be damaged, without a ledger, or read-only. What
    /// the ledger knows to be delivered is left out.
    Salvage {
        /// A spool's folder, or what is left of one
        dir: PathBuf,
        /// The file to write, all of it or nothing; standard output without it
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// List the records that the sink refused for good, and why
    DeadLetters {
        /// Print NDJSON on a terminal, too
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        common: Box<Common>,
    },
}

/// Options that may stand before or after any command. Not clap's `global`:
/// there `--set` after a command would silently replace those before it.
#[derive(Debug, Default, Args)]
struct Common {
    /// Read FILE and its .d folder instead of /etc/iot-agent.toml
    #[arg(long, value_name = "FILE", help_heading = "Configuration")]
    config: Option<PathBuf>,
    /// Override one key, as in sample.interval=1s; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = assignment)]
    #[arg(help_heading = "Configuration")]
    set: Vec<(String, String)>,
    #[command(flatten)]
    simulation: Simulation,
}

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Simulation")]
struct Simulation {
    /// Simulate devices instead of reading this host, with a state folder apart
    #[arg(long)]
    simulate: bool,
    /// How many devices
    #[arg(long, value_name = "N")]
    devices: Option<String>,
    /// The same seed gives the same readings
    #[arg(long, value_name = "S")]
    seed: Option<String>,
    /// How much faster than the clock time runs, as in 60x
    #[arg(long, value_name = "FACTOR")]
    speed: Option<String>,
    /// Begin this far in the past and catch up, as in 7d
    #[arg(long, value_name = "DURATION")]
    backfill: Option<String>,
    /// Share of samples that are dated up to 180 minutes late, 0 to 1
    #[arg(long, value_name = "SHARE")]
    late: Option<String>,
    /// realistic or uniform
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("write it as section.key=value, as in sample.interval=1s".into()),
    }
}

impl Common {
    /// These options, and where they say nothing, those given further left.
    fn after(self, left: Self) -> Self {
        let (ours, theirs) = (self.simulation, left.simulation);
        Self {
            config: self.config.or(left.config),
            set: left.set.into_iter().chain(self.set).collect(),
            simulation: Simulation {
                simulate: ours.simulate || theirs.simulate,
                devices: ours.devices.or(theirs.devices),
                seed: ours.seed.or(theirs.seed),
                speed: ours.speed.or(theirs.speed),
                backfill: ours.backfill.or(theirs.backfill),
                late: ours.late.or(theirs.late),
                profile: ours.profile.or(theirs.profile),
            },
        }
    }

    fn request(self) -> Result<Request, clap::Error> {
        let Simulation { simulate, devices, seed, speed, backfill, late, profile } =
            self.simulation;
        let said = |(key, value): (String, String)| {
            let origin = "--set".to_owned();
            Override { key, value, origin }
        };
        let mut overrides: Vec<Override> = self.set.into_iter().map(said).collect();
        let options = [
            ("devices", devices),
            ("seed", seed),
            ("speed", speed),
            ("backfill", backfill),
            ("late", late),
            ("profile", profile),
        ];
        for (name, value) in options {
            let Some(value) = value else {
                continue;
            };
            if !simulate {
                let message = format!("--{name} needs --simulate");
                return Err(Cli::command().error(ErrorKind::MissingRequiredArgument, message));
            }
            let (key, origin) = (format!("simulate.{name}"), format!("--{name}"));
            overrides.push(Override { key, value, origin });
        }
        Ok(Request { file: self.config, overrides, simulate })
    }

    fn load(self) -> anyhow::Result<Loaded> {
        Ok(config::load(&self.request()?)?)
    }
}

impl Cli {
    /// Does what was asked.
    pub fn execute(self) -> anyhow::Result<ExitCode> {
        let live = terminal::live();
        // What the other commands have to say is on stdout; their log is for
        // what is wrong.
        let runs = matches!(self.command, None | Some(Command::Run { .. }));
        let level = if runs { LevelFilter::INFO } else { LevelFilter::WARN };
        logging::init(level, live.clone());
        let outer = self.common;
        match self.command {
            None => run::run(outer.request()?, live),
            Some(Command::Run { common }) => run::run(common.after(outer).request()?, live),
            Some(Command::Check { common, json, offline }) => {
                check::check(common.after(outer), json, offline)
            }
            Some(Command::Sample { common, json, watch }) => {
                sample::sample(&common.after(outer).load()?.config, json, watch)
            }
            Some(Command::VerifyLake { dir, json }) => verify::verify_lake(&dir, json, live),
            Some(Command::Spool { common, command }) => {
                let outer = common.after(outer);
                match command {
                    SpoolCommand::Ls { common, json } => {
                        spool::ls(&common.after(outer).load()?.config.spool, json)
                    }
                    SpoolCommand::Export { common, out } => {
                        let loaded = common.after(outer).load()?;
                        spool::export(&loaded.config.spool, out.as_deref(), live)
                    }
                    SpoolCommand::Salvage { dir, to } => {
                        salvage::salvage(&dir, to.as_deref(), live)
                    }
                    SpoolCommand::DeadLetters { common, json } => {
                        spool::dead_letters(&common.after(outer).load()?.config.spool, json)
                    }
                }
            }
        }
    }
}

/// Says on stderr what failed; returns the exit code for it.
pub fn explain(error: anyhow::Error) -> ExitCode {
    if let Some(usage) = error.downcast_ref::<clap::Error>() {
        usage.exit();
    }
    let io = error.downcast_ref::<io::Error>();
    if io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    let (what, code) = if error.is::<config::Errors>() {
        ("the configuration is wrong\n\n", CONFIG)
    } else if is_final(&error) {
        ("", CONFIG)
    } else {
        ("", FAILURE)
    };
    // Where stderr is gone too, the exit code has to do.
    let _ = writeln!(io::stderr(), "iot-agent: {what}{error:#}");
    ExitCode::from(code)
}

/// Whether the spool is a newer agent's, or another user's.
fn is_final(error: &anyhow::Error) -> bool {
    match error.downcast_ref() {
        Some(agent::Error::Spool(error)) => error.is_final(),
        _ => error.downcast_ref().is_some_and(InspectError::is_newer),
    }
}

/// A small runtime: one thread runs everything, few more may block.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_stack_size(256 * 1024)
        .build()
}
