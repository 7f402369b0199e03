//! Rows as Parquet: the columns of the record, and a footer that says which
//! rows the file has.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use arrow_array::RecordBatch;
use arrow_json::ReaderBuilder;
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowWriterOptions, compute_leaves};
use parquet::basic::Compression;
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    KeyValue, ParquetMetaDataOptions, ParquetMetaDataReader, ParquetStatisticsPolicy,
};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;

use crate::record::schema::{self, Type};
use crate::sink::lake::rows::RowSet;

/// Key of the footer's entry that holds a [`RowSet`] as JSON.
const ROWS_KEY: &str = "iot-agent.rows";

/// Rows decoded at once: enough to be fast, and about 0.2 MiB of memory.
const DECODED_ROWS: usize = 256;

/// The columns of the files: all but the partition's, which is in the name of
/// the folder. A column of both names breaks Athena.
static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let columns = schema::columns().iter().filter(|column| !column.partition);
    let fields = columns.map(|column| field(&column.name, &column.column_type, true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
});

fn field(name: &str, of: &Type, nullable: bool) -> Field {
    Field::new(name, data_type(of), nullable)
}

/// The names inside lists and maps are those of the Parquet format's
/// description (LogicalTypes.md, "Nested Types").
fn data_type(of: &Type) -> DataType {
    match of {
        Type::String => DataType::Utf8,
        Type::Double => DataType::Float64,
        Type::Bigint => DataType::Int64,
        Type::Boolean => DataType::Boolean,
        Type::Array(element) => DataType::List(Arc::new(field("element", element, true))),
        Type::Struct(members) => {
            DataType::Struct(members.iter().map(|(name, of)| field(name, of, true)).collect())
        }
        Type::Map(key, value) => {
            let pair = [field("key", key, false), field("value", value, true)];
            let pair = DataType::Struct(pair.into_iter().collect());
            DataType::Map(Arc::new(Field::new("key_value", pair, false)), false)
        }
    }
}

/// Whether every line has the columns' types. Members that are no column are
/// passed over.
pub fn check<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Result<(), ArrowError> {
    decode(lines, |_| Ok(()))
}

fn decode<'a, E: From<ArrowError>>(
    ndjson: impl Iterator<Item = &'a [u8]>,
    mut each: impl FnMut(RecordBatch) -> Result<(), E>,
) -> Result<(), E> {
    let mut decoder =
        ReaderBuilder::new(Arc::clone(&SCHEMA)).with_batch_size(DECODED_ROWS).build_decoder()?;
    for piece in ndjson {
        let mut rest = piece;
        loop {
            let read = decoder.decode(rest)?;
            rest = rest.get(read..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            decoder.flush()?.map_or(Ok(()), &mut each)?;
        }
    }
    decoder.flush()?.map_or(Ok(()), each)
}

/// A whole Parquet file: the row groups of the file `sealed` as they are, and
/// one more of these lines. Its footer says that it has `rows`.
pub fn encode(sealed: &Bytes, ndjson: &[u8], rows: &RowSet) -> Result<Bytes, ParquetError> {
    let rows = serde_json::to_string(rows).map_err(|e| ParquetError::External(Box::new(e)))?;
    let properties = WriterProperties::builder()
        .set_created_by(concat!("iot-agent ", env!("CARGO_PKG_VERSION")).into())
        .set_compression(Compression::SNAPPY)
        // A row group is a page or two of each column: an index of pages
        // would say nothing more.
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
        .set_key_value_metadata(Some(vec![KeyValue::new(ROWS_KEY.into(), rows)]))
        .build();
    // The Arrow schema beside Parquet's own would be 4 KiB in every file.
    let options =
        ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    let file = Vec::with_capacity(sealed.len() + ndjson.len() / 4);
    let writer = ArrowWriter::try_new_with_options(file, Arc::clone(&SCHEMA), options)?;
    let (mut writer, groups) = writer.into_serialized_writer()?;
    if !sealed.is_empty() {
        copy_groups(sealed, &mut writer)?;
    }
    let mut columns = groups.create_column_writers(writer.flushed_row_groups().len())?;
    decode(std::iter::once(ndjson), |batch| {
        let mut writers = columns.iter_mut();
        for (field, array) in SCHEMA.fields().iter().zip(batch.columns()) {
            for (leaf, column) in compute_leaves(field, array)?.iter().zip(&mut writers) {
                column.write(leaf)?;
            }
        }
        Ok::<(), ParquetError>(())
    })?;
    let mut group = writer.next_row_group()?;
    for column in columns {
        column.close()?.append_to_row_group(&mut group)?;
    }
    group.close()?;
    writer.into_inner().map(Bytes::from)
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
    let skip = ParquetStatisticsPolicy::SkipAll;
    let options = ParquetMetaDataOptions::new()
        .with_encoding_stats_policy(skip.clone())
        .with_column_stats_policy(skip.clone())
        .with_size_stats_policy(skip);
    let reader = ParquetMetaDataReader::new().with_metadata_options(Some(options));
    let metadata = reader.parse_and_finish(&file)?;
    let metadata = metadata.file_metadata();
    let entries = metadata.key_value_metadata().into_iter().flatten();
    let text = entries.filter(|entry| entry.key == ROWS_KEY).find_map(|e| e.value.as_deref());
    let text = text.ok_or_else(|| ParquetError::General("not written by iot-agent".into()))?;
    let rows = serde_json::from_str(text).map_err(|e| ParquetError::External(Box::new(e)))?;
    Ok(Footer { count: u64::try_from(metadata.num_rows()).unwrap_or(0), rows })
}
