//! The files that hold credentials.
//!
//! systemd's `LoadCredential=aws:FILE` and its encrypted kin put a file of that
//! name, in the format of `~/.aws/credentials`, where only the service sees it:
//! it takes the place of that one. A blank file says that there is none: systemd
//! 252 takes no empty `SetCredential=`, but `SetCredential=aws:\n`.

use std::env;
use std::fs;
use std::path::PathBuf;

use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};

/// What the packaged unit hands over: credentials, and variables.
pub const CREDENTIALS_OF_UNIT: &str = "/etc/iot-agent.credentials";
const VARIABLES_OF_UNIT: &str = "/etc/default/iot-agent";

/// The credential's name in the unit.
const NAME: &str = "aws";

/// Which files the SDK reads.
pub fn profile_files() -> EnvConfigFiles {
    match of_service() {
        Some(path) => EnvConfigFiles::builder()
            .include_default_config_file(true)
            .with_file(EnvConfigFileKind::Credentials, path)
            .build(),
        None => EnvConfigFiles::default(),
    }
}

/// What the service manager handed over; nothing where a file is named.
fn of_service() -> Option<PathBuf> {
    if set("AWS_SHARED_CREDENTIALS_FILE").is_some() {
        return None;
    }
    let path = set("CREDENTIALS_DIRECTORY")?.join(NAME);
    fs::read(&path).is_ok_and(|text| !text.trim_ascii().is_empty()).then_some(path)
}

fn set(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Files with secrets that the operator keeps: their modes are his. Those that
/// the service manager hands over are its own business; it guards them by an
/// access control list, which looks like a mode for a group.
pub fn secret_files() -> Vec<PathBuf> {
    let home = || set("HOME").map(|home| home.join(".aws/credentials"));
    let shared = match of_service() {
        Some(_) => None,
        None => set("AWS_SHARED_CREDENTIALS_FILE").or_else(home),
    };
    let token = set("AWS_WEB_IDENTITY_TOKEN_FILE");
    let secret = fs::read_to_string(VARIABLES_OF_UNIT);
    let secret = secret.is_ok_and(|text| text.contains("AWS_SECRET_ACCESS_KEY"));
    let variables = secret.then(|| PathBuf::from(VARIABLES_OF_UNIT));
    let all = [shared, token, Some(CREDENTIALS_OF_UNIT.into()), variables];
    all.into_iter().flatten().filter(|path| path.is_file()).collect()
}
