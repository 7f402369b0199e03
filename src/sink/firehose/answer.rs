//! What PutRecordBatch answers, record by record.

use aws_sdk_firehose::operation::put_record_batch::PutRecordBatchOutput;
use aws_sdk_firehose::types::PutRecordBatchResponseEntry;

use super::trouble::Place;
use crate::drain::{Outcome, TroubleKind, Verdict};

/// The outcomes stand in the order of the request (API_PutRecordBatch). An
/// answer that has too few or too many, or counts its failures wrongly, is
/// about something else than this batch.
pub(super) fn verdict(place: &Place, sent: usize, answer: &PutRecordBatchOutput) -> Verdict {
    let entries = answer.request_responses();
    if entries.len() != sent {
        let text = format!("outcomes for {} records instead of {sent}", entries.len());
        return Verdict::Failed(place.bad_answer(&text));
    }
    let failed = entries.iter().filter(|entry| !taken(entry)).count();
    if usize::try_from(answer.failed_put_count()) != Ok(failed) {
        let counted = answer.failed_put_count();
        let text = format!("a count of {counted} failed records beside {failed} failures");
        return Verdict::Failed(place.bad_answer(&text));
    }
    let outcome = |entry| if taken(entry) { Outcome::Delivered } else { retry(place, entry) };
    Verdict::Answered(entries.iter().map(outcome).collect())
}

fn taken(entry: &PutRecordBatchResponseEntry) -> bool {
    entry.error_code().is_none() && entry.record_id().is_some()
}

/// The codes that exist are ServiceUnavailableException and InternalFailure;
/// both pass by themselves (API_PutRecordBatch).
fn retry(place: &Place, entry: &PutRecordBatchResponseEntry) -> Outcome {
    let code = entry.error_code().unwrap_or("neither a record id nor an error");
    let message = entry.error_message().unwrap_or_default();
    let text = format!("a record was not taken now: {code}: {message}");
    Outcome::Retry(place.trouble(TroubleKind::Throttled, &text))
}
