//! Lines of JSON as the columns of a Parquet file.
//!
//! A column is values, and for each place in a row a level of definition (how
//! much of what is around the value is there) and of repetition (in which list
//! it goes on): Melnik et al., "Dremel", VLDB 2010, section 4.1; and "Nested
//! Encoding" in the Parquet format's description. Arrow would work them out,
//! and add two megabytes to a program that may run on a small board.

use std::borrow::{Borrow, Cow};
use std::collections::{BTreeMap, HashMap};

use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::writer::{SerializedColumnWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::TypePtr;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::record::schema::{self, Column, Type};

/// Why a line is no row.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Line(serde_json::Error),
    #[error("column {0}: {1}")]
    Column(&'static str, serde_json::Error),
}

/// The columns of the files: all but the partition's, which is in the name of
/// the folder. A column of both names breaks Athena.
fn columns() -> impl Iterator<Item = &'static Column> {
    schema::columns().iter().filter(|column| !column.partition)
}

/// The columns as Parquet says it. Each may be null.
pub fn parquet_schema() -> Result<TypePtr, ParquetError> {
    let all: String = columns().map(|c| declaration("optional", &c.name, &c.column_type)).collect();
    parse_message_type(&format!("message sample {{ {all} }}")).map(TypePtr::new)
}

/// The names inside lists and maps are those of the Parquet format's
/// description (LogicalTypes.md, "Nested Types").
fn declaration(repetition: &str, name: &str, of: &Type) -> String {
    match of {
        Type::String => format!("{repetition} binary {name} (STRING);"),
        Type::Double => format!("{repetition} double {name};"),
        Type::Bigint => format!("{repetition} int64 {name};"),
        Type::Boolean => format!("{repetition} boolean {name};"),
        Type::Array(of) => {
            let element = declaration("optional", "element", of);
            format!("{repetition} group {name} (LIST) {{ repeated group list {{ {element} }} }}")
        }
        Type::Struct(members) => {
            let members = members.iter().map(|(name, of)| declaration("optional", name, of));
            format!("{repetition} group {name} {{ {} }}", members.collect::<String>())
        }
        Type::Map(key, value) => {
            let pair =
                declaration("required", "key", key) + &declaration("optional", "value", value);
            format!("{repetition} group {name} (MAP) {{ repeated group key_value {{ {pair} }} }}")
        }
    }
}

/// JSON of one value; `None` where it is null or absent.
type Json<'a> = Option<&'a RawValue>;

/// A member's name, which may be written with escapes.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl Borrow<str> for Name<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The members of an object.
type Members<'a> = HashMap<Name<'a>, Json<'a>>;

/// Rows, column by column.
pub struct Rows(Vec<(&'static str, Node)>);

impl Rows {
    pub fn new() -> Self {
        Self(columns().map(|c| (c.name.as_str(), Node::of(&c.column_type))).collect())
    }

    /// Takes in a line, one JSON object. Members that are no column are passed
    /// over. After an error the rows are of no use.
    pub fn add(&mut self, line: &[u8]) -> Result<(), Error> {
        let members: Members = serde_json::from_slice(line).map_err(Error::Line)?;
        for (name, node) in &mut self.0 {
            let value = members.get(*name).copied().flatten();
            node.add(value, Place::default()).map_err(|error| Error::Column(name, error))?;
        }
        Ok(())
    }

    /// Writes them into a row group of [`parquet_schema`].
    pub fn write(
        mut self,
        group: &mut SerializedRowGroupWriter<Vec<u8>>,
    ) -> Result<(), ParquetError> {
        self.0.iter_mut().try_for_each(|(_, node)| node.each_leaf(&mut |leaf| leaf.write(group)))
    }
}

/// Where a value stands.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// How many lists, and things that may be null, are there around it.
    definition: i16,
    /// The list that it goes on in, counted from outside; 0 begins a row.
    repetition: i16,
    /// Lists around it.
    depth: i16,
}

impl Place {
    /// Within what stands here and may be null.
    fn inside(self) -> Self {
        Self { definition: self.definition + 1, ..self }
    }

    /// The first item of a list that stands here.
    fn item(self) -> Self {
        Self { definition: self.definition + 2, depth: self.depth + 1, ..self }
    }

    /// The item after this one.
    fn next(self) -> Self {
        Self { repetition: self.depth, ..self }
    }
}

/// A column, or what is within one.
enum Node {
    Leaf(Leaf),
    List(Box<Node>),
    Struct(Vec<(&'static str, Node)>),
    Map(Leaf, Box<Node>),
}

impl Node {
    fn of(of: &'static Type) -> Self {
        match of {
            Type::String => Self::Leaf(Leaf::new(Values::Strings(Vec::new()))),
            Type::Double => Self::Leaf(Leaf::new(Values::Doubles(Vec::new()))),
            Type::Bigint => Self::Leaf(Leaf::new(Values::Bigints(Vec::new()))),
            Type::Boolean => Self::Leaf(Leaf::new(Values::Booleans(Vec::new()))),
            Type::Array(of) => Self::List(Box::new(Self::of(of))),
            Type::Struct(members) => Self::Struct(
                members.iter().map(|(name, of)| (name.as_str(), Self::of(of))).collect(),
            ),
            // JSON's keys are strings.
            Type::Map(_, value) => {
                Self::Map(Leaf::new(Values::Strings(Vec::new())), Box::new(Self::of(value)))
            }
        }
    }

    /// Takes in the value that stands at `at`.
    fn add(&mut self, value: Json, at: Place) -> serde_json::Result<()> {
        let Some(json) = value.map(RawValue::get) else {
            return self.each_leaf(&mut |leaf| {
                leaf.skip(at);
                Ok(())
            });
        };
        match self {
            Self::Leaf(leaf) => leaf.add(json, at.inside())?,
            Self::Struct(nodes) => {
                let members: Members = serde_json::from_str(json)?;
                for (name, node) in nodes {
                    node.add(members.get(*name).copied().flatten(), at.inside())?;
                }
            }
            Self::List(element) => {
                let items: Vec<Json> = serde_json::from_str(json)?;
                let mut place = at.item();
                for item in &items {
                    element.add(*item, place)?;
                    place = place.next();
                }
                if items.is_empty() {
                    element.add(None, at.inside())?;
                }
            }
            Self::Map(key, value) => {
                // In the order of their keys, for that compresses best.
                let pairs: BTreeMap<Name, Json> = serde_json::from_str(json)?;
                let mut place = at.item();
                for (Name(name), of) in &pairs {
                    key.push_string(name.as_ref(), place);
                    value.add(*of, place)?;
                    place = place.next();
                }
                if pairs.is_empty() {
                    key.skip(at.inside());
                    value.add(None, at.inside())?;
                }
            }
        }
        Ok(())
    }

    /// Calls `each` for each leaf, in the order of the schema.
    fn each_leaf<E>(&mut self, each: &mut impl FnMut(&mut Leaf) -> Result<(), E>) -> Result<(), E> {
        match self {
            Self::Leaf(leaf) => each(leaf),
            Self::List(element) => element.each_leaf(each),
            Self::Struct(nodes) => nodes.iter_mut().try_for_each(|(_, node)| node.each_leaf(each)),
            Self::Map(key, value) => each(key).and_then(|()| value.each_leaf(each)),
        }
    }
}

/// Values of one type, and their levels.
struct Leaf {
    values: Values,
    definition: Vec<i16>,
    repetition: Vec<i16>,
}

enum Values {
    Strings(Vec<ByteArray>),
    Doubles(Vec<f64>),
    Bigints(Vec<i64>),
    Booleans(Vec<bool>),
}

impl Leaf {
    fn new(values: Values) -> Self {
        Self { values, definition: Vec::new(), repetition: Vec::new() }
    }

    fn add(&mut self, json: &str, at: Place) -> serde_json::Result<()> {
        match &mut self.values {
            Values::Strings(_) => {
                let Name(text) = serde_json::from_str(json)?;
                self.push_string(text.as_ref(), at);
                return Ok(());
            }
            Values::Doubles(values) => values.push(serde_json::from_str(json)?),
            Values::Bigints(values) => values.push(serde_json::from_str(json)?),
            Values::Booleans(values) => values.push(serde_json::from_str(json)?),
        }
        self.skip(at);
        Ok(())
    }

    fn push_string(&mut self, text: &str, at: Place) {
        if let Values::Strings(values) = &mut self.values {
            values.push(text.into());
        }
        self.skip(at);
    }

    /// The levels of a place, whose value has been pushed or is not there.
    fn skip(&mut self, at: Place) {
        self.definition.push(at.definition);
        self.repetition.push(at.repetition);
    }

    fn write(&self, group: &mut SerializedRowGroupWriter<Vec<u8>>) -> Result<(), ParquetError> {
        let missing = || ParquetError::General("the schema has fewer columns".into());
        let mut column = group.next_column()?.ok_or_else(missing)?;
        match &self.values {
            Values::Strings(values) => self.write_as::<ByteArrayType>(&mut column, values),
            Values::Doubles(values) => self.write_as::<DoubleType>(&mut column, values),
            Values::Bigints(values) => self.write_as::<Int64Type>(&mut column, values),
            Values::Booleans(values) => self.write_as::<BoolType>(&mut column, values),
        }?;
        column.close()
    }

    fn write_as<T: DataType>(
        &self,
        column: &mut SerializedColumnWriter,
        values: &[T::T],
    ) -> Result<usize, ParquetError> {
        column.typed::<T>().write_batch(values, Some(&self.definition), Some(&self.repetition))
    }
}
