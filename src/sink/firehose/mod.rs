//! Amazon Data Firehose: a batch is one PutRecordBatch, a parcel one record.
//!
//! `Delivered` means that Firehose has taken the record on and keeps it for up
//! to 24 hours (API_PutRecordBatch). An answer that does not account for every
//! record of the batch proves nothing: then nothing counts as delivered, and
//! what did arrive will arrive again. Nothing is tried twice here.
//!
//! Stream, region and credentials are looked up when the sink is made and, since
//! an operator may have mended them meanwhile, again after credentials failed.

mod answer;
mod arn;
mod dates;
mod trouble;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_sdk_firehose::Client;
use aws_sdk_firehose::error::SdkError;
use aws_sdk_firehose::operation::put_record_batch::{PutRecordBatchError, PutRecordBatchOutput};
use aws_sdk_firehose::primitives::Blob;
use aws_sdk_firehose::types::{
    DeliveryStreamDescription, DeliveryStreamStatus, DeliveryStreamType, Record,
};
use aws_smithy_json::protocol::aws_json_rpc::AwsJsonRpcProtocol;
use aws_smithy_runtime_api::client::http::SharedHttpClient;

use super::{Delivering, Probing, Sink};
use crate::aws::{self, Identity};
use crate::drain::{Batch, Limits, Parcel, Trouble, TroubleKind, Verdict, Wire};
use dates::Dates;
use trouble::{Found, Place};

/// Which stream, and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub stream: String,
    /// From the environment or the profile if absent.
    pub region: Option<String>,
    pub endpoint_url: Option<String>,
    pub profile: Option<String>,
    pub role_arn: Option<String>,
    /// PEM file with the only certificate authorities to trust.
    pub ca_file: Option<PathBuf>,
}

/// What keeps the sink from being made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Aws(#[from] aws::Error),
    #[error(
        "endpoint_url {0:?} is no address to send to; write it as https://host or \
         http://host:port, or leave it out for AWS's own"
    )]
    Endpoint(String),
}

/// Source of the limits: API_PutRecordBatch, and for the samples the 500
/// sub-records of one record that de-aggregation takes ("Dynamic partitioning
/// of aggregated data", Amazon Data Firehose Developer Guide). The service
/// takes batches of 4 MiB; but a batch under way costs four times its bytes in
/// memory (itself, its copy, and JSON in base64 with room to grow), and a
/// device has 4 MiB to spare for a backlog.
const LIMITS: Limits = Limits {
    parcel_samples: 500,
    parcel_bytes: 1_000 << 10,
    batch_parcels: 500,
    batch_bytes: 1 << 20,
    billing_quantum_bytes: 5 << 10,
    // About 800 bytes of headers, as much again of a session token, and the
    // frame of the JSON; TLS, TCP and the answer come on top.
    wire: Wire { request_bytes: 1536, parcel_bytes: r#"{"Data":""},"#.len(), base64: true },
};

/// How long an answer may take. Firehose's comes within a fraction of a second;
/// a connection that died is given up soon enough to be back within seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The same after silence: what is tried then is small, and the network may be
/// back on another connection.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Every so many silences in a row an answer is waited for this long, so that a
/// service that takes its time is heard at last.
const PATIENT_EVERY: u32 = 4;
const PATIENT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the answer to a small request may take after so many that had none.
fn patience(silences: u32) -> Duration {
    match silences {
        0 => ANSWER_TIMEOUT,
        n if n.is_multiple_of(PATIENT_EVERY) => PATIENT_TIMEOUT,
        _ => TRIAL_TIMEOUT,
    }
}

/// The slowest upload that is waited for, 128 kbit/s: a time limit that did not
/// grow with the batch would never let a large one through a slow link.
const SLOWEST_BYTES_PER_SECOND: usize = 16 << 10;

/// A Firehose stream.
pub struct Firehose {
    link: Arc<Link>,
}

/// What a delivery under way shares with the sink.
struct Link {
    place: Place,
    http: SharedHttpClient,
    dates: Dates,
    /// `None` after credentials failed: to be made anew.
    client: Mutex<Option<Client>>,
    /// Requests in a row that had no answer in time.
    silences: AtomicU32,
    patience: fn(u32) -> Duration,
}

impl Firehose {
    /// Reads `ca_file`, the environment and the profile files, and asks the
    /// instance metadata for the region where nothing else names it.
    pub async fn new(settings: &Settings) -> Result<Self, Error> {
        if let Some(url) = settings.endpoint_url.as_deref()
            && !["https://", "http://"].iter().any(|scheme| url.starts_with(scheme))
        {
            return Err(Error::Endpoint(url.to_owned()));
        }
        let http = aws::http_client(settings.ca_file.as_deref())?;
        let dates = Dates::default();
        let identity = Identity::default();
        let client = connect(settings, &http, &dates, &identity).await?;
        let region = client.config().region().ok_or(aws::Error::NoRegion)?.to_string();
        // Found once, it holds for the sink's life.
        let settings = Settings { region: Some(region.clone()), ..settings.clone() };
        let place = Place { settings, region, identity };
        let client = Mutex::new(Some(client));
        let link = Link { place, http, dates, client, silences: AtomicU32::new(0), patience };
        Ok(Self { link: Arc::new(link) })
    }
}

impl Sink for Firehose {
    fn name(&self) -> String {
        self.link.place.to_string()
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    fn deliver(&self, batch: Arc<Batch>) -> Delivering {
        let link = self.link.clone();
        Box::pin(async move { link.deliver(&batch).await })
    }

    fn probe(&self) -> Probing {
        let link = self.link.clone();
        Box::pin(async move { link.probe().await })
    }

    fn server_time(&self) -> Option<(i64, u64)> {
        self.link.dates.last()
    }
}

async fn connect(
    settings: &Settings,
    http: &SharedHttpClient,
    dates: &Dates,
    identity: &Identity,
) -> Result<Client, aws::Error> {
    let access = aws::Settings {
        region: settings.region.clone(),
        profile: settings.profile.clone(),
        role_arn: settings.role_arn.clone(),
    };
    let sdk = aws::load(&access, http, identity).await?;
    let mut config = aws_sdk_firehose::config::Builder::from(&sdk)
        // The SDK may choose another protocol some day; gateways and stand-ins
        // speak this one.
        .protocol(AwsJsonRpcProtocol::aws_json_1_1())
        .interceptor(dates.clone());
    if let Some(url) = &settings.endpoint_url {
        config = config.endpoint_url(url);
    }
    Ok(Client::from_conf(config.build()))
}

impl Link {
    fn held(&self) -> MutexGuard<'_, Option<Client>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn client(&self) -> Result<Client, Trouble> {
        if let Some(client) = self.held().clone() {
            return Ok(client);
        }
        let Place { settings, identity, .. } = &self.place;
        let client = connect(settings, &self.http, &self.dates, identity)
            .await
            .map_err(|error| self.place.trouble(TroubleKind::Configuration, &error.to_string()))?;
        *self.held() = Some(client.clone());
        Ok(client)
    }

    /// What is wrong. The SDK reads profile files once, and remembers some
    /// failures for good; so after trouble with credentials it starts anew.
    fn noted(&self, found: Found) -> Trouble {
        if found.renew {
            *self.held() = None;
        }
        found.trouble
    }

    async fn deliver(&self, batch: &Batch) -> Verdict {
        let client = match self.client().await {
            Ok(client) => client,
            Err(trouble) => return Verdict::Failed(trouble),
        };
        let bytes: usize = batch.parcels.iter().map(|parcel| parcel.ndjson().len()).sum();
        let slowest = Duration::from_secs((bytes / SLOWEST_BYTES_PER_SECOND) as u64);
        let silences = self.silences.load(Ordering::Relaxed);
        let limit = (self.patience)(silences) + slowest;
        let answered = tokio::time::timeout(limit, self.put(&client, batch)).await;
        let silences = if answered.is_err() { silences.saturating_add(1) } else { 0 };
        self.silences.store(silences, Ordering::Relaxed);
        match answered {
            Ok(Ok(answered)) => answer::verdict(&self.place, batch.parcels.len(), &answered),
            Ok(Err(error)) => {
                let trouble = self.noted(trouble::find(&self.place, &error));
                match trouble.kind {
                    TroubleKind::Data => Verdict::Refused(trouble),
                    _ => Verdict::Failed(trouble),
                }
            }
            Err(_) => Verdict::Failed(self.place.silent(limit)),
        }
    }

    async fn put(
        &self,
        client: &Client,
        batch: &Batch,
    ) -> Result<PutRecordBatchOutput, SdkError<PutRecordBatchError>> {
        let record = |parcel: &Parcel| Record::builder().data(Blob::new(parcel.ndjson())).build();
        let records = batch.parcels.iter().map(record).collect::<Result<_, _>>();
        client
            .put_record_batch()
            .delivery_stream_name(&self.place.settings.stream)
            .set_records(Some(records.map_err(SdkError::construction_failure)?))
            .send()
            .await
    }

    async fn probe(&self) -> Result<String, Trouble> {
        let client = self.client().await?;
        let stream = &self.place.settings.stream;
        let describing = client.describe_delivery_stream().delivery_stream_name(stream).send();
        let limit = (self.patience)(0);
        let answered =
            tokio::time::timeout(limit, describing).await.map_err(|_| self.place.silent(limit))?;
        match answered {
            Ok(answered) => match answered.delivery_stream_description() {
                Some(about) if about.delivery_stream_name() == stream => {
                    described(&self.place, about)
                }
                _ => Err(self.place.bad_answer("no description of the stream")),
            },
            Err(error) if trouble::is_denied(&error) => Ok(undescribed(&self.place)),
            Err(error) => Err(self.noted(trouble::find(&self.place, &error))),
        }
    }
}

fn described(place: &Place, stream: &DeliveryStreamDescription) -> Result<String, Trouble> {
    let unfit = |text: &str| Err(place.trouble(TroubleKind::Configuration, text));
    if *stream.delivery_stream_type() == DeliveryStreamType::KinesisStreamAsSource {
        return unfit(trouble::NO_DIRECT_PUTS);
    }
    match stream.delivery_stream_status() {
        DeliveryStreamStatus::Active => {
            Ok(format!("{place}: the stream is active, with {}", place.identity))
        }
        DeliveryStreamStatus::Creating => unfit("the stream is still being created; wait for it"),
        other => unfit(&format!("the stream takes nothing, its status is {other}; make it anew")),
    }
}

/// Delivering needs no right to describe.
fn undescribed(place: &Place) -> String {
    format!(
        "{place}: reached with {}; whether the stream exists and is active is unknown, for \
         firehose:DescribeDeliveryStream is not permitted (delivering does not need it)",
        place.identity
    )
}
