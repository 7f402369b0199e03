//! Who each row of a lake's file is: its device, run and seq, or what its
//! marker says. Nothing else of the file is read.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, RowGroupReader};
use parquet::file::serialized_reader::SerializedFileReader;

use crate::sink::lake::table::guarded;

/// Rows read at once.
const ROWS_AT_ONCE: usize = 4096;

/// A row, as far as completeness asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub device: Arc<str>,
    pub run: u64,
    pub what: Said,
    /// It is dated after the hour that was asked about.
    pub later: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Sample(u64),
    /// First and last seq.
    Gap(u64, u64),
    /// Last seq, and whether the end was clean.
    RunEnd(u64, bool),
    /// A marker of an agent that knows more kinds.
    Other,
}

/// The rows of a file; the error says why it has none that count. With an
/// `hour`, UTC `yyyy-MM-dd HH`, each says whether it is dated after it.
pub fn read(path: &Path, hour: Option<&str>) -> Result<Vec<Identity>, ParquetError> {
    guarded(|| {
        let file = SerializedFileReader::new(File::open(path)?)?;
        let mut rows = Vec::new();
        for group in 0..file.num_row_groups() {
            read_group(&*file.get_row_group(group)?, hour, &mut rows)?;
        }
        Ok(rows)
    })
}

fn read_group(
    group: &dyn RowGroupReader,
    hour: Option<&str>,
    rows: &mut Vec<Identity>,
) -> Result<(), ParquetError> {
    let mut device = Column::<ByteArrayType>::of(group, "id_device")?;
    let mut run = Column::<Int64Type>::of(group, "run")?;
    let mut seq = Column::<Int64Type>::of(group, "seq")?;
    let mut kind = Column::<ByteArrayType>::of(group, "marker.kind")?;
    let mut reason = Column::<ByteArrayType>::of(group, "marker.reason")?;
    let mut of_run = Column::<Int64Type>::of(group, "marker.run")?;
    let mut first = Column::<Int64Type>::of(group, "marker.first_seq")?;
    let mut last = Column::<Int64Type>::of(group, "marker.last_seq")?;
    let mut dates = match hour {
        Some(hour) => Some((Column::<ByteArrayType>::of(group, "timestamp")?, hour)),
        None => None,
    };
    let mut name: Arc<str> = Arc::from("");
    let before = rows.len();
    loop {
        device.advance()?;
        if device.rows() == 0 {
            break;
        }
        run.advance()?;
        seq.advance()?;
        kind.advance()?;
        reason.advance()?;
        of_run.advance()?;
        first.advance()?;
        last.advance()?;
        if let Some((date, _)) = &mut dates {
            date.advance()?;
        }
        for _ in 0..device.rows() {
            let id = device.next().ok_or_else(|| broken("a row has no id_device"))?;
            if id.data() != name.as_bytes() {
                name = Arc::from(id.as_utf8()?);
            }
            let (run, seq) = (run.number()?, seq.number()?);
            let (kind, reason, of_run) = (kind.next(), reason.next(), of_run.number()?);
            let (first, last) = (first.number()?, last.number()?);
            let what = match kind.as_ref().map(ByteArray::data) {
                None => seq.map(Said::Sample),
                Some(b"gap") => first.zip(last).map(|(first, last)| Said::Gap(first, last)),
                Some(b"run_end") => {
                    let clean = reason.is_some_and(|reason| reason.data() == b"clean");
                    last.map(|last| Said::RunEnd(last, clean))
                }
                Some(_) => Some(Said::Other),
            };
            let later = dates.as_mut().is_some_and(|(date, hour)| {
                date.next().is_some_and(|date| is_after(date.data(), hour.as_bytes()))
            });
            let run = if kind.is_some() { of_run } else { run };
            let (Some(run), Some(what)) = (run, what) else {
                return Err(broken("a row has no run, or neither seq nor marker"));
            };
            rows.push(Identity { device: Arc::clone(&name), run, what, later });
        }
    }
    // A damaged page may read as one that holds fewer.
    match i64::try_from(rows.len() - before) == Ok(group.metadata().num_rows()) {
        true => Ok(()),
        false => Err(broken("it has not the rows that its footer tells of")),
    }
}

/// Whether a date of RFC 3339 lies after an hour written with a space.
fn is_after(date: &[u8], hour: &[u8]) -> bool {
    day_and_hour(date) > day_and_hour(hour)
}

fn day_and_hour(text: &[u8]) -> Option<(&[u8], &[u8])> {
    Some((text.get(..10)?, text.get(11..13)?))
}

fn broken(why: &str) -> ParquetError {
    ParquetError::General(why.to_owned())
}

/// A column without lists, some rows at a time.
struct Column<T: DataType> {
    reader: ColumnReaderImpl<T>,
    /// The level of a value that is there.
    present: i16,
    levels: std::vec::IntoIter<i16>,
    values: std::vec::IntoIter<T::T>,
}

/// A column reader of this type, if the file's column has it.
trait Typed: DataType + Sized {
    fn typed(reader: ColumnReader) -> Option<ColumnReaderImpl<Self>>;
}

impl Typed for Int64Type {
    fn typed(reader: ColumnReader) -> Option<ColumnReaderImpl<Self>> {
        match reader {
            ColumnReader::Int64ColumnReader(reader) => Some(reader),
            _ => None,
        }
    }
}

impl Typed for ByteArrayType {
    fn typed(reader: ColumnReader) -> Option<ColumnReaderImpl<Self>> {
        match reader {
            ColumnReader::ByteArrayColumnReader(reader) => Some(reader),
            _ => None,
        }
    }
}

impl<T: Typed> Column<T> {
    fn of(group: &dyn RowGroupReader, path: &str) -> Result<Self, ParquetError> {
        let schema = group.metadata().schema_descr();
        let mut columns = schema.columns().iter().enumerate();
        let found = columns.find(|(_, column)| column.path().string() == path);
        let (index, column) = found.ok_or_else(|| broken(&format!("it has no column {path}")))?;
        let reader = T::typed(group.get_column_reader(index)?);
        let reader = reader.filter(|_| column.max_rep_level() == 0);
        let reader =
            reader.ok_or_else(|| broken(&format!("its column {path} has another type")))?;
        let (levels, values) = (Vec::new().into_iter(), Vec::new().into_iter());
        Ok(Self { reader, present: column.max_def_level(), levels, values })
    }

    /// Reads the next rows, none at the end.
    fn advance(&mut self) -> Result<(), ParquetError> {
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let (records, ..) =
            self.reader.read_records(ROWS_AT_ONCE, Some(&mut levels), None, &mut values)?;
        if self.present == 0 {
            levels = vec![0; records];
        }
        (self.levels, self.values) = (levels.into_iter(), values.into_iter());
        Ok(())
    }

    /// How many of the rows that were read are left.
    fn rows(&self) -> usize {
        self.levels.len()
    }

    /// The next row's value.
    fn next(&mut self) -> Option<T::T> {
        if self.levels.next()? == self.present { self.values.next() } else { None }
    }
}

impl Column<Int64Type> {
    fn number(&mut self) -> Result<Option<u64>, ParquetError> {
        let number = self.next().map(u64::try_from).transpose();
        number.map_err(|_| broken("a run or seq is negative"))
    }
}
