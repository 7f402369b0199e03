//! The columns of the record, read from `infra/schema/sample.json`.
