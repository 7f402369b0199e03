//! Rows as Parquet: the columns of the record, and a footer that says which
//! rows the file has.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::Compression;
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    KeyValue, ParquetMetaDataOptions, ParquetMetaDataReader, ParquetStatisticsPolicy,
};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;

use crate::sink::lake::columns::{self, Rows};
use crate::sink::lake::rows::RowSet;

/// Key of the footer's entry that holds a [`RowSet`] as JSON.
const ROWS_KEY: &str = "iot-agent.rows";

/// What cannot become a file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Row(#[from] columns::Error),
    #[error(transparent)]
    Parquet(#[from] ParquetError),
}

/// Whether every line has the columns' types. Members that are no column are
/// passed over.
pub fn check<'a>(mut lines: impl Iterator<Item = &'a [u8]>) -> Result<(), columns::Error> {
    let mut rows = Rows::new();
    lines.try_for_each(|line| rows.add(line))
}

/// A whole Parquet file: the row groups of the file `sealed` as they are, and
/// one more of these lines. Its footer says that it has the rows of `set`.
pub fn encode(sealed: &Bytes, ndjson: &[u8], set: &RowSet) -> Result<Bytes, Error> {
    let mut rows = Rows::new();
    let mut lines = ndjson.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines.try_for_each(|line| rows.add(line))?;
    let set = serde_json::to_string(set).map_err(|e| ParquetError::External(Box::new(e)))?;
    let properties = WriterProperties::builder()
        .set_created_by(concat!("iot-agent ", env!("CARGO_PKG_VERSION")).into())
        .set_compression(Compression::SNAPPY)
        // A row group is a page or two of each column: an index of pages
        // would say nothing more.
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
        .set_key_value_metadata(Some(vec![KeyValue::new(ROWS_KEY.into(), set)]))
        .build();
    let file = Vec::with_capacity(sealed.len() + ndjson.len() / 4);
    let mut writer =
        SerializedFileWriter::new(file, columns::parquet_schema()?, Arc::new(properties))?;
    if !sealed.is_empty() {
        copy_groups(sealed, &mut writer)?;
    }
    let mut group = writer.next_row_group()?;
    rows.write(&mut group)?;
    group.close()?;
    Ok(writer.into_inner()?.into())
}

/// Copies row groups without decoding them.
fn copy_groups(
    from: &Bytes,
    writer: &mut SerializedFileWriter<Vec<u8>>,
) -> Result<(), ParquetError> {
    let metadata = ParquetMetaDataReader::new().parse_and_finish(from)?;
    for from_group in metadata.row_groups() {
        let mut group = writer.next_row_group()?;
        for column in from_group.columns() {
            let result = ColumnCloseResult {
                bytes_written: u64::try_from(column.compressed_size()).unwrap_or(0),
                rows_written: u64::try_from(from_group.num_rows()).unwrap_or(0),
                metadata: column.clone(),
                bloom_filter: None,
                column_index: None,
                offset_index: None,
            };
            group.append_column(from, result)?;
        }
        group.close()?;
    }
    Ok(())
}

/// What a file says of itself.
#[derive(Debug)]
pub struct Footer {
    /// How many rows.
    pub count: u64,
    /// Which rows.
    pub rows: RowSet,
}

/// Reads a file's footer; the error says why it is none of this lake's files.
pub fn footer(path: &Path) -> Result<Footer, ParquetError> {
    let file = File::open(path)?;
    guarded(|| read_footer(&file))
}

/// What `read` makes of a file that may be damaged: on one such in some
/// thousand the parquet crate asserts.
pub fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    let read = catch_unwind(AssertUnwindSafe(read));
    read.unwrap_or_else(|_| Err(ParquetError::General("it is damaged".into())))
}

fn read_footer(file: &File) -> Result<Footer, ParquetError> {
    let skip = ParquetStatisticsPolicy::SkipAll;
    let options = ParquetMetaDataOptions::new()
        .with_encoding_stats_policy(skip.clone())
        .with_column_stats_policy(skip.clone())
        .with_size_stats_policy(skip);
    let reader = ParquetMetaDataReader::new().with_metadata_options(Some(options));
    let metadata = reader.parse_and_finish(file)?;
    let metadata = metadata.file_metadata();
    let entries = metadata.key_value_metadata().into_iter().flatten();
    let text = entries.filter(|entry| entry.key == ROWS_KEY).find_map(|e| e.value.as_deref());
    let text = text.ok_or_else(|| ParquetError::General("not written by iot-agent".into()))?;
    let rows = serde_json::from_str(text).map_err(|e| ParquetError::External(Box::new(e)))?;
    Ok(Footer { count: u64::try_from(metadata.num_rows()).unwrap_or(0), rows })
}
