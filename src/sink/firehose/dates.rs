//! The time that the service tells with every answer.

use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_firehose::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_firehose::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_firehose::error::BoxError;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;

use crate::clock;

/// The last `Date` in milliseconds since the Unix epoch, and the boot time in
/// milliseconds when it was heard.
#[derive(Debug, Clone, Default)]
pub(super) struct Dates(Arc<Mutex<Option<(i64, u64)>>>);

impl Dates {
    pub(super) fn last(&self) -> Option<(i64, u64)> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Intercept for Dates {
    fn name(&self) -> &'static str {
        "Dates"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let told = date.and_then(|date| DateTime::from_str(date, Format::HttpDate).ok());
        if let Some(ms) = told.and_then(|told| told.to_millis().ok()) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((ms, clock::boot_ms()));
        }
        Ok(())
    }
}
