//! Reads a lake back with DuckDB, which shares no code with what wrote it.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// `lake.py` ends with it where there is no Parquet file yet.
const NO_FILES: i32 = 3;

/// The rows of `sql`, each an object, over the table `lake`: all Parquet files
/// under `folder`, with `timestamp_sent` from the folder names. No rows as long
/// as there is no file, whatever the statement.
#[track_caller]
pub fn query(folder: &Path, sql: &str) -> Vec<Value> {
    let output = Command::new(crate::python())
        .arg(crate::script("lake.py"))
        .args([folder.as_os_str(), sql.as_ref()])
        .output()
        .expect("python starts");
    if output.status.code() == Some(NO_FILES) {
        return Vec::new();
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "DuckDB on {}: {sql}: {errors}", folder.display());
    let rows = String::from_utf8_lossy(&output.stdout);
    rows.lines().map(|row| serde_json::from_str(row).expect("lake.py prints JSON")).collect()
}
