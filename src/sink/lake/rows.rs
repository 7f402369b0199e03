//! Which rows there are: a row's identity, and sets of them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::ledger::Ranges;

/// One line of a parcel, and what makes it this row and no other.
#[derive(Debug, Clone)]
pub struct Row<'a> {
    pub device: Cow<'a, str>,
    pub run: u64,
    pub what: What<'a>,
    /// The JSON object, without the newline.
    pub line: &'a [u8],
}

/// What a row of one device and run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What<'a> {
    /// The sample of this seq.
    Sample(u64),
    /// The marker that says just this.
    Marker(&'a str),
}

#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow)]
    id_device: Cow<'a, str>,
    run: Option<u64>,
    seq: Option<u64>,
    #[serde(borrow)]
    marker: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct OfRun {
    run: u64,
}

/// The rows of a parcel; the error says in words which line is none.
pub fn read(ndjson: &[u8]) -> Result<Vec<Row<'_>>, String> {
    let lines = ndjson.split(|&byte| byte == b'\n').enumerate();
    let filled = lines.filter(|(_, line)| !line.is_empty());
    filled
        .map(|(at, line)| read_row(line).map_err(|why| format!("line {}: {why}", at + 1)))
        .collect()
}

fn read_row(line: &[u8]) -> Result<Row<'_>, String> {
    let members: Members = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let (run, what) = match members {
        Members { marker: Some(marker), .. } => {
            let text = marker.get();
            let of: OfRun = serde_json::from_str(text).map_err(|e| format!("its marker: {e}"))?;
            (of.run, What::Marker(text))
        }
        Members { run: Some(run), seq: Some(seq), .. } => (run, What::Sample(seq)),
        _ => return Err("neither run and seq nor a marker tell which row it is".into()),
    };
    Ok(Row { device: members.id_device, run, what, line })
}

/// The rows of one device and run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Rows {
    seqs: Ranges,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    markers: BTreeSet<String>,
}

impl Rows {
    fn contains(&self, what: What) -> bool {
        match what {
            What::Sample(seq) => self.seqs.contains(seq),
            What::Marker(text) => self.markers.contains(text),
        }
    }

    fn insert(&mut self, what: What) -> bool {
        if self.contains(what) {
            return false;
        }
        match what {
            What::Sample(seq) => self.seqs.insert(seq),
            What::Marker(text) => {
                self.markers.insert(text.to_owned());
            }
        }
        true
    }

    fn extend(&mut self, more: &Self) {
        more.seqs.iter().for_each(|(first, last)| self.seqs.insert_range(first, last));
        self.markers.extend(more.markers.iter().cloned());
    }
}

/// The rows of one run, by device.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunRows(BTreeMap<String, Rows>);

impl RunRows {
    pub fn contains(&self, row: &Row) -> bool {
        self.0.get(&*row.device).is_some_and(|rows| rows.contains(row.what))
    }

    pub fn extend(&mut self, more: &Self) {
        for (device, rows) in &more.0 {
            match self.0.get_mut(device) {
                Some(known) => known.extend(rows),
                None => {
                    self.0.insert(device.clone(), rows.clone());
                }
            }
        }
    }

    /// How much memory it takes, in devices, ranges and markers.
    pub fn weight(&self) -> usize {
        let each = self.0.values().map(|rows| 1 + rows.seqs.ranges() + rows.markers.len());
        each.sum()
    }
}

/// Rows of any device and run. As JSON it is what a file says of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RowSet(BTreeMap<u64, RunRows>);

impl RowSet {
    /// Whether it is new.
    pub fn insert(&mut self, row: &Row) -> bool {
        let devices = &mut self.0.entry(row.run).or_default().0;
        if let Some(rows) = devices.get_mut(&*row.device) {
            return rows.insert(row.what);
        }
        devices.entry(row.device.to_string()).or_default().insert(row.what)
    }

    pub fn extend(&mut self, more: &Self) {
        more.0.iter().for_each(|(run, rows)| self.0.entry(*run).or_default().extend(rows));
    }

    /// Drops the rows of all other runs.
    pub fn keep_only(&mut self, runs: &BTreeSet<u64>) {
        self.0.retain(|run, _| runs.contains(run));
    }

    /// The rows of one run, taken out.
    pub fn take(&mut self, run: u64) -> RunRows {
        self.0.remove(&run).unwrap_or_default()
    }

    pub fn runs(&self) -> impl Iterator<Item = (u64, &RunRows)> {
        self.0.iter().map(|(&run, rows)| (run, rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_and_markers_have_identities() {
        let ndjson = b"{\"id_device\":\"a\",\"run\":7,\"seq\":0,\"cpu\":0.5}\n\
            {\"id_device\":\"a\",\"marker\":{\"kind\":\"gap\",\"run\":7,\"first_seq\":1}}\n";
        let rows = read(ndjson).unwrap();
        assert_eq!((&*rows[0].device, rows[0].run, rows[0].what), ("a", 7, What::Sample(0)));
        assert_eq!(rows[1].run, 7);
        let mut set = RowSet::default();
        assert!(rows.iter().all(|row| set.insert(row)));
        let text = serde_json::to_string(&set).unwrap();
        let mut back: RowSet = serde_json::from_str(&text).unwrap();
        assert_eq!(back, set);
        assert!(!rows.iter().any(|row| back.insert(row)));
        assert!(back.insert(&Row { run: 8, ..rows[0].clone() }));
        assert!(back.insert(&Row { what: What::Marker("{\"run\":7}"), ..rows[1].clone() }));
        let run = back.take(8);
        assert!(run.contains(&Row { run: 8, ..rows[0].clone() }) && !run.contains(&rows[1]));
    }

    #[test]
    fn a_line_without_identity_is_named() {
        let good = "{\"id_device\":\"a\",\"run\":7,\"seq\":0}";
        let bad = [
            "<html>",
            "[1]",
            "{\"id_device\":\"a\",\"run\":7}",
            "{\"run\":7,\"seq\":0}",
            "{\"id_device\":\"a\",\"run\":-1,\"seq\":0}",
            "{\"id_device\":\"a\",\"marker\":{}}",
            "{\"id_device\":\"a\",\"run\":7,\"seq\":0} {}",
        ];
        for line in bad {
            let error = read(format!("{good}\n{line}\n").as_bytes()).unwrap_err();
            assert!(error.starts_with("line 2: "), "{line}: {error}");
        }
    }
}
