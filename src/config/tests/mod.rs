//! The room as a whole: the installed file, the examples, and random input.

mod installed;
mod random;

use crate::config::draft::Surroundings;
use crate::config::model::Config;
use crate::config::problem::Problem;
use crate::config::resolve::{File, resolve};

const INSTALLED: &str = include_str!("../../../config/iot-agent.toml");

fn read_bytes(bytes: &[u8], simulate: bool) -> Result<(Config, Vec<String>), Vec<Problem>> {
    let files = [File { path: "f.toml".into(), content: Ok(bytes.to_vec()) }];
    let surroundings =
        Surroundings { host_name: "attic-7".into(), state: "/var/lib/iot-agent".into() };
    resolve(&files, &[], &[], simulate, &surroundings)
}

fn read(text: &str, simulate: bool) -> Config {
    match read_bytes(text.as_bytes(), simulate) {
        Ok((config, _)) => config,
        Err(problems) => panic!("{}\n{text}", problems[0]),
    }
}
