//! The Firehose stand-in as a program, for scripts and benchmarks.
//!
//! Prints one line of JSON when it listens (`url`, `control_url`, `ca_file`),
//! then runs until it is ended.

use clap::Parser;
use iot_agent_test_support::firehose::{FirehoseStandIn, Options};
use serde_json::json;

/// A stand-in for Amazon Data Firehose that can be told to fail.
#[derive(Parser)]
struct Args {
    #[arg(long, default_value = "iot-telemetry")]
    stream: String,
    #[arg(long, default_value = "eu-west-1")]
    region: String,
    /// 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    #[arg(long)]
    tls: bool,
    /// Keep the bodies of stored records, not only how often each seq came.
    #[arg(long)]
    keep_records: bool,
    /// What goes wrong, as JSON: `{"mix": {"seed": 1, "percent": [[5, "throttle"]]}}`.
    #[arg(long)]
    faults: Option<String>,
}

fn main() -> Result<(), serde_json::Error> {
    let Args { stream, region, port, tls, keep_records, faults } = Args::parse();
    let faults = faults.as_deref().map(serde_json::from_str).transpose()?;
    let options = Options { stream, region, port, tls, keep_records, ..Options::default() };
    let stand_in = FirehoseStandIn::start(Options { control: true, ..options });
    if let Some(faults) = faults {
        stand_in.set_faults(faults);
    }
    let line = json!({
        "url": stand_in.url(),
        "control_url": stand_in.control_url(),
        "ca_file": stand_in.ca_pem_path(),
        "environment": stand_in.key().environment(),
    });
    println!("{line}");
    loop {
        std::thread::park();
    }
}
