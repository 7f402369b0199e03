//! What an error of the SDK means, and what to do about it.
//!
//! Every text is one line: the sink, what went wrong, the remedy, and what AWS
//! said, cut to its first line (the rest of a signature error repeats the
//! request's headers, session token included).

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_firehose::config::http::HttpResponse;
use aws_sdk_firehose::error::{ErrorMetadata, ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::result::ConnectorError;
use rustls::CertificateError;

use super::Settings;
use super::arn;
use crate::aws::{self, Identity};
use crate::drain::{Trouble, TroubleKind};

/// What a message may name.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub settings: Settings,
    pub region: String,
    pub identity: Identity,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { stream, endpoint_url, .. } = &self.settings;
        match endpoint_url {
            Some(url) => write!(f, "firehose {stream} ({} at {url})", self.region),
            None => write!(f, "firehose {stream} ({})", self.region),
        }
    }
}

impl Place {
    pub(super) fn trouble(&self, kind: TroubleKind, what: &str) -> Trouble {
        let mut text = format!("{self}: {what}");
        text.retain(|character| !character.is_control());
        Trouble::new(kind, text)
    }

    pub(super) fn silent(&self, waited: Duration) -> Trouble {
        let text = format!("no answer within {} s", waited.as_secs());
        self.trouble(TroubleKind::Unanswered, &text)
    }

    pub(super) fn bad_answer(&self, what: &str) -> Trouble {
        let text = format!(
            "answered with {what}, which Firehose never does; is endpoint_url or a proxy right?"
        );
        self.trouble(TroubleKind::BadAnswer, &text)
    }

    /// A command of the AWS CLI that asks the same service.
    fn command(&self, command: &str) -> String {
        let endpoint = self.settings.endpoint_url.as_ref();
        let endpoint = endpoint.map(|url| format!(" --endpoint-url {url}")).unwrap_or_default();
        format!("`aws {command} --region {}{endpoint}`", self.region)
    }
}

/// Trouble, and whether credentials read anew may end it.
pub(super) struct Found {
    pub trouble: Trouble,
    pub renew: bool,
}

pub(super) fn find<E>(place: &Place, error: &SdkError<E>) -> Found
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let mut trouble = match error {
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            let code = answer.err().code().unwrap_or_default();
            let said = answer.err().message().unwrap_or_default();
            refusal(place, status, code, first_line(said))
        }
        SdkError::ResponseError(answer) => unreadable(place, answer.raw()),
        unsent => not_sent(place, unsent, matches!(unsent, SdkError::ConstructionFailure(_))),
    };
    trouble.retry_after = error.raw_response().and_then(retry_after);
    let clock = error.as_service_error().is_some_and(|error| clock_is_wrong(error.meta()));
    Found { renew: trouble.kind == TroubleKind::Credentials && !clock, trouble }
}

/// Seconds that a service, or a gateway before it, wants to be left alone
/// (RFC 9110, section 10.2.3; its form as a date is for caches).
fn retry_after(answer: &HttpResponse) -> Option<Duration> {
    answer.headers().get("retry-after")?.trim().parse().ok().map(Duration::from_secs)
}

/// Whether the service knows us and says no.
pub(super) fn is_denied<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code);
    matches!(code, Some("AccessDeniedException" | "AccessDenied"))
}

/// The service refused. Source of the codes: "Common errors" and
/// API_PutRecordBatch, Amazon Data Firehose API Reference.
fn refusal(place: &Place, status: u16, code: &str, said: &str) -> Trouble {
    let (kind, what) = if let Some(what) = credentials_refused(place, code, said) {
        (TroubleKind::Credentials, what)
    } else if let Some(what) = settings_refused(place, code, said) {
        (TroubleKind::Configuration, what)
    } else {
        match code {
            "InvalidArgumentException" | "ValidationException" => {
                (TroubleKind::Data, "the records are refused as invalid".to_owned())
            }
            _ if asks_for_less(code) => {
                (TroubleKind::Throttled, "the service asks for less".to_owned())
            }
            _ if status >= 500 => {
                (TroubleKind::Throttled, format!("the service is ill, status {status}"))
            }
            _ => (TroubleKind::BadAnswer, format!("refused with status {status}")),
        }
    };
    place.trouble(kind, &format!("{what} ({})", quoted(code, said)))
}

fn asks_for_less(code: &str) -> bool {
    matches!(
        code,
        "ServiceUnavailableException"
            | "ThrottlingException"
            | "Throttling"
            | "LimitExceededException"
            | "RequestLimitExceeded"
            | "TooManyRequestsException"
    )
}

fn quoted(code: &str, said: &str) -> String {
    let between = if said.is_empty() { "" } else { ": " };
    format!("AWS: {code}{between}{said}")
}

fn credentials_refused(place: &Place, code: &str, said: &str) -> Option<String> {
    let identity = &place.identity;
    let what = match code {
        "AccessDeniedException" | "AccessDenied" => denied(place, said),
        "ExpiredTokenException" | "ExpiredToken" => format!(
            "the session token of {identity} has expired; renew it (profile files and \
             credential_process are read again by themselves, variables at a restart)"
        ),
        _ if is_about_time(code, said) => {
            "this host's clock is wrong; set it (`timedatectl`); the next try is signed with the \
             service's time"
                .to_owned()
        }
        "InvalidSignatureException" if said.contains(OTHER_REGION) => return None,
        "InvalidSignatureException" | "SignatureDoesNotMatch" | "IncompleteSignatureException" => {
            format!("the secret does not fit {identity}; `aws sts get-caller-identity` tries it")
        }
        "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "MissingAuthenticationTokenException" => format!(
            "{identity} is not known to AWS, or its session token is not; \
             `aws sts get-caller-identity` tries it"
        ),
        "OptInRequired" | "SubscriptionRequiredException" => {
            format!("the account of {identity} may not use Firehose in {}", place.region)
        }
        _ => return None,
    };
    Some(what)
}

/// How AWS words a signature made for another region.
const OTHER_REGION: &str = "scoped to a valid region";

fn settings_refused(place: &Place, code: &str, said: &str) -> Option<String> {
    let Place { settings, region, .. } = place;
    let stream = &settings.stream;
    let invalid = matches!(code, "InvalidArgumentException" | "ValidationException");
    let what = match code {
        "ResourceNotFoundException" => format!(
            "there is no stream {stream} in {region}; {} lists those that exist",
            place.command("firehose list-delivery-streams")
        ),
        "InvalidSignatureException" if said.contains(OTHER_REGION) => {
            format!("the endpoint is not in {region}; set `region` to its own")
        }
        "InvalidKMSResourceException" => {
            "the key that encrypts the stream cannot be used".to_owned()
        }
        "InvalidSourceException" => NO_DIRECT_PUTS.to_owned(),
        _ if invalid && said.contains("KinesisStreamAsSource") => NO_DIRECT_PUTS.to_owned(),
        _ if invalid && said.contains("deliveryStreamName") => {
            format!("{stream:?} cannot be the name of a stream")
        }
        _ => return None,
    };
    Some(what)
}

pub(super) const NO_DIRECT_PUTS: &str =
    "the stream takes no direct puts but data of another source; name one of type DirectPut";

fn clock_is_wrong(meta: &ErrorMetadata) -> bool {
    is_about_time(meta.code().unwrap_or_default(), meta.message().unwrap_or_default())
}

fn is_about_time(code: &str, said: &str) -> bool {
    code == "RequestTimeTooSkewed"
        || said.starts_with("Signature expired")
        || said.starts_with("Signature not yet current")
}

/// AWS's own words name who may not do what to which resource; what they leave
/// out is filled in from the settings.
fn denied(place: &Place, said: &str) -> String {
    let action = after(said, "to perform: ").unwrap_or("firehose:PutRecordBatch");
    let resource = after(said, "on resource: ").map(str::to_owned);
    let resource =
        resource.unwrap_or_else(|| arn::of_stream(&place.region, &place.settings.stream));
    let who = after(said, "User: ");
    let principal = who.map_or("ARN".to_owned(), arn::policy_source);
    format!(
        "{} may not do {action}; its policy lacks {{\"Effect\":\"Allow\",\"Action\":\"{action}\",\
         \"Resource\":\"{resource}\"}}, and `aws iam simulate-principal-policy \
         --policy-source-arn {principal} --action-names {action} --resource-arns {resource}` \
         says whether it still does{}",
        place.identity,
        if action == "sts:AssumeRole" { "; the role's trust policy must name it too" } else { "" },
    )
}

/// The word that follows `label`.
fn after<'a>(said: &'a str, label: &str) -> Option<&'a str> {
    let (_, rest) = said.split_once(label)?;
    rest.split([' ', ',']).next().filter(|word| !word.is_empty())
}

/// Something answered that does not speak Firehose's protocol.
fn unreadable(place: &Place, answer: &HttpResponse) -> Trouble {
    let status = answer.status().as_u16();
    let bytes = answer.body().bytes().unwrap_or_default();
    let body = String::from_utf8_lossy(bytes);
    let what = match body.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>")) {
        Some((title, _)) => format!("a web page ({})", first_line(title)),
        None if bytes.is_empty() => "no text".to_owned(),
        None => format!("{} unreadable bytes", bytes.len()),
    };
    let (kind, text) = match status {
        407 => (
            TroubleKind::Unreachable,
            "the proxy asks for a password; write it as http://user:password@host:port".to_owned(),
        ),
        413 => (TroubleKind::Data, "the batch is too large for a server on the way".to_owned()),
        429 | 500.. => {
            (TroubleKind::Throttled, format!("answered with status {status} and {what}"))
        }
        200 => return place.bad_answer(&what),
        status => return place.bad_answer(&format!("status {status} and {what}")),
    };
    place.trouble(kind, &text)
}

/// No answer came.
fn not_sent(place: &Place, error: &(dyn Error + 'static), malformed: bool) -> Trouble {
    let credentials = chain(error).find_map(|cause| cause.downcast_ref::<CredentialsError>());
    if let Some(credentials) = credentials {
        return without_credentials(place, credentials);
    }
    let cause = innermost(error);
    if malformed {
        let text = format!("the request cannot be made: {cause}");
        return place.trouble(TroubleKind::Configuration, &text);
    }
    let text = format!("no answer: {cause}{}", hint(place, error));
    let sent = was_sent(error);
    place.trouble(if sent { TroubleKind::Unanswered } else { TroubleKind::Unreachable }, &text)
}

/// Whether there was a connection for the request. Its one time limit within
/// the SDK is that of connecting, and hyper-util says only in words that there
/// was none.
fn was_sent(error: &(dyn Error + 'static)) -> bool {
    let Some(connector) = chain(error).find_map(|cause| cause.downcast_ref::<ConnectorError>())
    else {
        return false;
    };
    let words = chain(error).map(std::string::ToString::to_string);
    !connector.is_timeout() && !words.into_iter().any(|cause| cause.contains("(Connect)"))
}

fn without_credentials(place: &Place, error: &CredentialsError) -> Trouble {
    let meta = chain(error).find_map(|cause| cause.downcast_ref::<ErrorMetadata>());
    let said = meta.and_then(ErrorMetadata::message).map(first_line);
    if let (Some(code), Some(said)) = (meta.and_then(ErrorMetadata::code), said) {
        let what = credentials_refused(place, code, said);
        let what = what.unwrap_or_else(|| "no credentials".to_owned());
        let throttled = asks_for_less(code);
        let kind = if throttled { TroubleKind::Throttled } else { TroubleKind::Credentials };
        return place.trouble(kind, &format!("{what} ({})", quoted(code, said)));
    }
    let unreachable = matches!(error, CredentialsError::ProviderTimedOut(_))
        || chain(error).any(<dyn std::error::Error + 'static>::is::<ConnectorError>);
    if unreachable {
        let text = format!("no credentials could be fetched: {}", innermost(error));
        return place.trouble(TroubleKind::Unreachable, &text);
    }
    let cause = innermost(error);
    let text = match &place.settings.profile {
        // Only the features left out of aws-config speak of Cargo.
        _ if cause.contains("cargo feature") => format!(
            "no credentials: a profile that needs a browser to sign in does not serve a daemon \
             (`credential_process = aws configure export-credentials --profile NAME` in another \
             profile does): {cause}"
        ),
        Some(profile) => format!("no credentials from profile {profile}: {cause}"),
        None => {
            // Where nothing was found at all, the SDK announces a list that it leaves empty.
            let nothing = cause.starts_with("no credentials found in chain");
            let because = if nothing { String::new() } else { format!(" ({cause})") };
            format!(
                "no AWS credentials{because}; tried, in this order, AWS_ACCESS_KEY_ID, a profile \
                 in ~/.aws/credentials or ~/.aws/config (credential_process too), web identity, \
                 container and EC2 instance; `aws configure` writes a profile, and the packaged \
                 service takes keys from {}",
                aws::CREDENTIALS_OF_UNIT
            )
        }
    };
    place.trouble(TroubleKind::Credentials, &text)
}

/// What to look at, where the cause leaves it open.
fn hint(place: &Place, error: &(dyn Error + 'static)) -> String {
    use CertificateError::{
        BadSignature, Expired, ExpiredContext, NotValidYet, NotValidYetContext, UnknownIssuer,
    };
    match chain(error).find_map(|cause| cause.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(UnknownIssuer | BadSignature)) => {
            match &place.settings.ca_file {
                Some(path) => format!("; its authority is not in ca_file {}", path.display()),
                None => "; install ca-certificates, or name the authority's PEM file as ca_file"
                    .to_owned(),
            }
        }
        Some(rustls::Error::InvalidCertificate(
            NotValidYet | NotValidYetContext { .. } | Expired | ExpiredContext { .. },
        )) => "; is this host's clock right (`timedatectl`)?".to_owned(),
        Some(rustls::Error::InvalidMessage(_)) => {
            "; does the port speak TLS, or should it be http://?".to_owned()
        }
        Some(_) => String::new(),
        None if chain(error).any(|cause| cause.to_string() == "dns error") => {
            format!("; is there a network and a name server, and a region {}?", place.region)
        }
        None => aws::proxy_variable()
            .map(|variable| format!("; {variable} is set: is the proxy right?"))
            .unwrap_or_default(),
    }
}

/// The error and its causes. An `io::Error` hides its payload from `source`.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<io::Error>() {
        Some(io) => io.get_ref().map(|payload| payload as &(dyn Error + 'static)),
        None => error.source(),
    })
}

/// The cause at the bottom, in its own words. A time-out's last cause repeats
/// that it timed out and leaves out what did.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let words =
        chain(error).map(std::string::ToString::to_string).filter(|cause| cause != "timed out");
    first_line(&words.last().unwrap_or_default()).to_owned()
}

/// At most 300 characters of it.
fn first_line(said: &str) -> &str {
    let line = said.trim().lines().next().unwrap_or_default();
    line.char_indices().nth(300).map_or(line, |(end, _)| line.get(..end).unwrap_or(line))
}
