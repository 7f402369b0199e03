//! The service behind the wire: what a request does, and what it is told.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use hyper::http::request::Parts;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::answer::{Answer, HTML_PAGE, Refusal, Reply, assumed_role, garbage};
use super::fault::{Fault, Faults, Plan};
use super::keys::Keyring;
use super::signature;
use super::store::{Stored, Totals};
use super::{ACCOUNT, Options};

/// Source of the three limits: API_PutRecordBatch, Amazon Data Firehose API
/// Reference.
const MAX_RECORDS: usize = 500;
const MAX_BATCH_BYTES: usize = 4 << 20;
const MAX_RECORD_BYTES: usize = 1_000 << 10;

/// The one operation of STS, by the query protocol.
const STS: &str = "AssumeRole";

/// What happened on the wire, and the sums of what was stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    pub connections: u64,
    pub requests: u64,
    pub put_requests: u64,
    /// Requests that the service refused: signature, limits, wrong stream.
    pub refused: u64,
    /// How often each fault struck.
    pub faults: BTreeMap<String, u64>,
    /// Role sessions issued by AssumeRole.
    pub sessions: u64,
    pub last_user_agent: String,
    #[serde(flatten)]
    pub stored: Totals,
}

pub(super) struct Service {
    options: Options,
    state: Mutex<State>,
}

pub(super) struct State {
    pub plan: Plan,
    pub stored: Stored,
    pub keys: Keyring,
    pub refuse_marker: Option<String>,
    stats: Stats,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PutRecordBatch<'a> {
    #[serde(borrow)]
    delivery_stream_name: &'a str,
    records: Vec<Record<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Record<'a> {
    data: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeDeliveryStream {
    delivery_stream_name: String,
}

impl Service {
    pub(super) fn new(options: Options) -> Self {
        let state = State {
            plan: Plan::new(Faults::Never),
            stored: Stored::new(options.keep_records),
            keys: Keyring::new(options.keys.clone()),
            refuse_marker: None,
            stats: Stats::default(),
        };
        Self { options, state: Mutex::new(state) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stats(&self) -> Stats {
        let state = self.state();
        let sessions = state.keys.sessions() as u64;
        Stats { stored: state.stored.totals(), sessions, ..state.stats.clone() }
    }

    pub(super) fn connected(&self) {
        self.state().stats.connections += 1;
    }

    /// The time by the service's own clock.
    pub(super) fn now(&self) -> DateTime<Utc> {
        Utc::now() + self.options.clock_ahead
    }

    /// What this request does; the fault says how long the answer waits.
    pub(super) fn handle(&self, parts: &Parts, body: &[u8]) -> (Reply, Fault) {
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let mut state = self.state();
        state.stats.requests += 1;
        state.stats.last_user_agent = header("user-agent").unwrap_or_default().to_owned();
        let target = header("x-amz-target").unwrap_or_default();
        let firehose = target.strip_prefix("Firehose_20150804.");
        let (reply, fault) = self.operate(&mut state, firehose.unwrap_or(STS), parts, body);
        let reply = reply.unwrap_or_else(|refusal| {
            state.stats.refused += 1;
            let answer = if firehose.is_some() { refusal.as_json() } else { refusal.as_xml() };
            Reply::Answer(answer)
        });
        (reply, fault)
    }

    fn operate(
        &self,
        state: &mut State,
        operation: &str,
        parts: &Parts,
        body: &[u8],
    ) -> (Result<Reply, Refusal>, Fault) {
        let records = match operation {
            "PutRecordBatch" => self.records(body),
            _ => Ok(Vec::new()),
        };
        state.stats.put_requests += u64::from(operation == "PutRecordBatch");
        let fault = state.plan.next(operation, records.as_deref().unwrap_or_default());
        if fault != Fault::None {
            *state.stats.faults.entry(fault.name().to_owned()).or_default() += 1;
        }
        if let Some(reply) = before_the_service(&fault) {
            return (reply, fault);
        }
        let now = self.now();
        let checked = check_protocol(operation, parts)
            .and_then(|()| signature::verify(parts, body, &state.keys, &self.options.region, now))
            .and(records);
        let reply = checked.and_then(|records| match operation {
            "PutRecordBatch" => self.put(state, &records, &fault),
            "DescribeDeliveryStream" => self.describe(body),
            STS => self.assume_role(state, body),
            other => Err(Refusal::new(400, "UnknownOperationException", other)),
        });
        (reply, fault)
    }

    /// The records of a request within the limits.
    fn records(&self, body: &[u8]) -> Result<Vec<Vec<u8>>, Refusal> {
        let malformed = |error| Refusal::new(400, "SerializationException", format!("{error}"));
        let request: PutRecordBatch = serde_json::from_slice(body).map_err(malformed)?;
        self.check_stream(request.delivery_stream_name)?;
        if !(1..=MAX_RECORDS).contains(&request.records.len()) {
            let text = format!(
                "1 validation error detected: Value at 'records' failed to satisfy constraint: \
                 Member must have length less than or equal to {MAX_RECORDS} and at least 1, not {}",
                request.records.len()
            );
            return Err(Refusal::new(400, "ValidationException", text));
        }
        let mut records = Vec::with_capacity(request.records.len());
        for record in &request.records {
            let data = STANDARD
                .decode(record.data)
                .map_err(|error| Refusal::new(400, "SerializationException", error.to_string()))?;
            if !(1..=MAX_RECORD_BYTES).contains(&data.len()) {
                let text = format!("a record of {} bytes; at most {MAX_RECORD_BYTES}", data.len());
                return Err(Refusal::invalid(text));
            }
            records.push(data);
        }
        let bytes: usize = records.iter().map(Vec::len).sum();
        if bytes > MAX_BATCH_BYTES {
            return Err(Refusal::invalid("Records size exceeds 4 MB limit"));
        }
        Ok(records)
    }

    fn check_stream(&self, name: &str) -> Result<(), Refusal> {
        if name == self.options.stream {
            return Ok(());
        }
        let text = format!("Firehose {name} under account {ACCOUNT} not found.");
        Err(Refusal::new(400, "ResourceNotFoundException", text))
    }

    fn put(&self, state: &mut State, records: &[Vec<u8>], fault: &Fault) -> Result<Reply, Refusal> {
        if let Some(marker) = &state.refuse_marker {
            let marked = |record: &Vec<u8>| contains(record, marker.as_bytes());
            if records.iter().any(marked) {
                return Err(Refusal::invalid("a record holds what this stream does not take"));
            }
        }
        let failing: &[usize] = match fault {
            Fault::FailRecords(failing) => failing,
            _ => &[],
        };
        let mut outcomes = Vec::with_capacity(records.len());
        for (place, record) in records.iter().enumerate() {
            if failing.contains(&place) {
                outcomes.push(failure(place));
            } else {
                state.stored.add(record);
                outcomes.push(json!({ "RecordId": format!("stand-in-{place}") }));
            }
        }
        match fault {
            Fault::LoseAnswer => return Ok(Reply::Cut),
            Fault::WrongCount if outcomes.len() > 1 => drop(outcomes.pop()),
            Fault::WrongCount => outcomes.push(json!({ "RecordId": "one-too-many" })),
            _ => {}
        }
        let failed = outcomes.iter().filter(|outcome| outcome.get("ErrorCode").is_some()).count();
        let answer = json!({ "FailedPutCount": failed, "RequestResponses": outcomes });
        Ok(Reply::Answer(Answer::json(200, &answer)))
    }

    fn describe(&self, body: &[u8]) -> Result<Reply, Refusal> {
        let request: DescribeDeliveryStream = serde_json::from_slice(body)
            .map_err(|error| Refusal::new(400, "SerializationException", error.to_string()))?;
        self.check_stream(&request.delivery_stream_name)?;
        let Options { stream, region, stream_status, stream_type, .. } = &self.options;
        let description = json!({ "DeliveryStreamDescription": {
            "DeliveryStreamName": stream,
            "DeliveryStreamARN": format!("arn:aws:firehose:{region}:{ACCOUNT}:deliverystream/{stream}"),
            "DeliveryStreamStatus": stream_status,
            "DeliveryStreamType": stream_type,
            "VersionId": "1",
            "Destinations": [],
            "HasMoreDestinations": false,
        }});
        Ok(Reply::Answer(Answer::json(200, &description)))
    }

    fn assume_role(&self, state: &mut State, body: &[u8]) -> Result<Reply, Refusal> {
        let form = String::from_utf8_lossy(body);
        let field =
            |name| form.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        if field("Action") != Some(STS) {
            return Err(Refusal::new(400, "InvalidAction", "only AssumeRole is known here"));
        }
        let role = field("RoleArn").unwrap_or_default().replace("%3A", ":").replace("%2F", "/");
        let lasts = TimeDelta::from_std(self.options.session).unwrap_or(TimeDelta::MAX);
        let (key, expires) = state.keys.assume_role(self.now(), lasts);
        Ok(Reply::Answer(assumed_role(&key, &role, &expires)))
    }
}

/// Faults that strike before the service has seen the request.
fn before_the_service(fault: &Fault) -> Option<Result<Reply, Refusal>> {
    let answer = |status, content_type, body: Vec<u8>| {
        Some(Ok(Reply::Answer(Answer::new(status, content_type, body))))
    };
    match fault {
        Fault::Throttle => {
            Some(Err(Refusal::new(500, "ServiceUnavailableException", "Slow down.")))
        }
        Fault::Busy(_) => Some(Err(Refusal::new(503, "ServiceUnavailableException", "Busy."))),
        Fault::Error { status, code, message } => Some(Err(Refusal::new(*status, code, message))),
        Fault::Status(status) => answer(*status, "text/plain", Vec::new()),
        Fault::Cut => Some(Ok(Reply::Cut)),
        Fault::Hang => Some(Ok(Reply::Hang)),
        Fault::Html => answer(200, "text/html", HTML_PAGE.into()),
        Fault::Garbage => answer(200, "application/octet-stream", garbage()),
        Fault::Empty => answer(200, "application/x-amz-json-1.1", Vec::new()),
        Fault::None
        | Fault::FailRecords(_)
        | Fault::FailShare(_)
        | Fault::LoseAnswer
        | Fault::Slow(_)
        | Fault::WrongCount => None,
    }
}

fn check_protocol(operation: &str, parts: &Parts) -> Result<(), Refusal> {
    let expected: &[u8] = match operation {
        STS => b"application/x-www-form-urlencoded",
        _ => b"application/x-amz-json-1.1",
    };
    match parts.headers.get("content-type").map(|value| value.as_bytes()) {
        Some(found) if found == expected && parts.method == "POST" => Ok(()),
        other => Err(Refusal::new(
            400,
            "UnknownOperationException",
            format!("{} {:?}", parts.method, other.map(String::from_utf8_lossy)),
        )),
    }
}

fn failure(place: usize) -> Value {
    let (code, message) = match place % 2 {
        0 => ("ServiceUnavailableException", "Slow down."),
        _ => ("InternalFailure", "Internal service failure."),
    };
    json!({ "ErrorCode": code, "ErrorMessage": message })
}

fn contains(hay: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && hay.windows(needle.len()).any(|window| window == needle)
}
