//! Two independent readers, of the file and of its lines, see the same.

use arrow_json::ReaderBuilder;
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::record::schema::{self, Type};
use crate::sink::lake::rows::RowSet;
use crate::sink::lake::table;

fn value(of: &Type) -> BoxedStrategy<Value> {
    let some = match of {
        Type::String => any::<String>().prop_map(Value::from).boxed(),
        Type::Double => prop::num::f64::NORMAL.prop_map(Value::from).boxed(),
        Type::Bigint => any::<i64>().prop_map(Value::from).boxed(),
        Type::Boolean => any::<bool>().prop_map(Value::from).boxed(),
        Type::Array(of) => prop::collection::vec(value(of), 0..4).prop_map(Value::from).boxed(),
        Type::Struct(members) => object(members),
        Type::Map(_, of) => {
            let map = prop::collection::btree_map(any::<String>(), value(of), 0..4);
            map.prop_map(|map| Value::Object(map.into_iter().collect())).boxed()
        }
    };
    prop_oneof![1 => Just(Value::Null), 4 => some].boxed()
}

/// An object that has some of the members.
fn object(members: &[(String, Type)]) -> BoxedStrategy<Value> {
    let member = |(name, of): &(String, Type)| (Just(name.clone()), prop::option::of(value(of)));
    let members: Vec<_> = members.iter().map(member).collect();
    members
        .prop_map(|members| {
            let there = members.into_iter().filter_map(|(name, value)| Some((name, value?)));
            Value::Object(there.collect::<Map<_, _>>())
        })
        .boxed()
}

fn row() -> BoxedStrategy<Value> {
    let columns = schema::columns().iter();
    object(&columns.map(|c| (c.name.clone(), c.column_type.clone())).collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn lines_come_back_as_they_are(rows in prop::collection::vec(row(), 1..20)) {
        let ndjson: String = rows.iter().map(|row| format!("{row}\n")).collect();
        let file = table::encode(&Bytes::new(), ndjson.as_bytes(), &RowSet::default()).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        let found: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
        let [found] = &found[..] else { panic!("{} batches", found.len()) };
        let mut lines = ReaderBuilder::new(found.schema()).build_decoder().unwrap();
        lines.decode(ndjson.as_bytes()).unwrap();
        prop_assert_eq!(found, &lines.flush().unwrap().unwrap());
    }
}

#[test]
fn a_line_that_is_no_row_says_which_column() {
    let why = |line: &Value| {
        let line = line.to_string();
        table::check(std::iter::once(line.as_bytes())).unwrap_err().to_string()
    };
    for (line, column) in [
        (json!({"cpu": "0.5"}), "column cpu: invalid type: string \"0.5\", expected f64"),
        (json!({"seq": 0.5}), "column seq: invalid type: floating point `0.5`, expected i64"),
        (json!({"seq": 1u64 << 63}), "column seq: "),
        (json!({"clock": 7}), "column clock: "),
        (json!({"disks": [{"mount": []}]}), "column disks: "),
        (json!({"disks": {}}), "column disks: "),
        (json!({"labels": {"a": 1}}), "column labels: "),
        (json!({"marker": "gap"}), "column marker: "),
        (json!({"simulated": null, "uptime_s": []}), "column uptime_s: "),
        (json!([]), "invalid type: sequence"),
    ] {
        assert!(why(&line).starts_with(column), "{line}: {}", why(&line));
    }
}
