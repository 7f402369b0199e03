//! Signature Version 4, checked as the service does.
//!
//! Source: "Create a signed AWS API request", IAM User Guide. Only what the
//! stand-in is asked for: POST without a query string.

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use hyper::http::request::Parts;
use ring::{digest, hmac};

use super::answer::Refusal;
use super::keys::Keyring;

/// How far the time of a signature may lie from the service's own.
const TOLERANCE: TimeDelta = TimeDelta::minutes(5);

const SIGNED_AT: &str = "%Y%m%dT%H%M%SZ";

/// The `Authorization` header taken apart.
struct Authorization<'a> {
    access_key_id: &'a str,
    date: &'a str,
    region: &'a str,
    service: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
}

impl<'a> Authorization<'a> {
    fn parse(header: &'a str) -> Option<Self> {
        let fields = header.strip_prefix("AWS4-HMAC-SHA256 ")?;
        let field = |name: &str| {
            fields.split(',').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='))
        };
        let mut scope = field("Credential")?.split('/');
        let (access_key_id, date) = (scope.next()?, scope.next()?);
        let (region, service) = (scope.next()?, scope.next()?);
        (scope.next()? == "aws4_request").then_some(())?;
        let (signed_headers, signature) = (field("SignedHeaders")?, field("Signature")?);
        Some(Self { access_key_id, date, region, service, signed_headers, signature })
    }
}

/// Checks that `body` was sent by who holds one of the keys, for this region,
/// and close to `now`.
pub(super) fn verify(
    parts: &Parts,
    body: &[u8],
    keys: &Keyring,
    region: &str,
    now: DateTime<Utc>,
) -> Result<(), Refusal> {
    let missing = || {
        Refusal::denied(
            "MissingAuthenticationTokenException",
            "Request is missing Authentication Token",
        )
    };
    let header = header(parts, "authorization").ok_or_else(missing)?;
    let incomplete = || {
        Refusal::denied(
            "IncompleteSignatureException",
            format!("Authorization header is malformed: {header}"),
        )
    };
    let auth = Authorization::parse(header).ok_or_else(incomplete)?;
    let secret = keys.secret(auth.access_key_id, self::header(parts, "x-amz-security-token"))?;

    if auth.region != region {
        let text =
            format!("Credential should be scoped to a valid region, not '{}'. ", auth.region);
        return Err(Refusal::bad_signature(text));
    }
    let at = self::header(parts, "x-amz-date").ok_or_else(incomplete)?;
    check_time(at, now)?;
    for required in ["host", "x-amz-date"] {
        if !auth.signed_headers.split(';').any(|name| name == required) {
            return Err(Refusal::bad_signature(format!("'{required}' must be a signed header")));
        }
    }
    if signature(parts, body, &auth, at, secret) != auth.signature {
        return Err(Refusal::bad_signature(
            "The request signature we calculated does not match the signature you provided. \
             Check your AWS Secret Access Key and signing method. Consult the service \
             documentation for details.",
        ));
    }
    Ok(())
}

fn check_time(at: &str, now: DateTime<Utc>) -> Result<(), Refusal> {
    let signed = NaiveDateTime::parse_from_str(at, SIGNED_AT)
        .map_err(|_| Refusal::bad_signature(format!("Date must be in ISO-8601, not '{at}'")))?
        .and_utc();
    let (earliest, latest) = (now - TOLERANCE, now + TOLERANCE);
    let name = |time: DateTime<Utc>| time.format(SIGNED_AT).to_string();
    if signed < earliest {
        let (earliest, now) = (name(earliest), name(now));
        let text =
            format!("Signature expired: {at} is now earlier than {earliest} ({now} - 5 min.)");
        return Err(Refusal::bad_signature(text));
    }
    if signed > latest {
        let (latest, now) = (name(latest), name(now));
        let text = format!(
            "Signature not yet current: {at} is still later than {latest} ({now} + 5 min.)"
        );
        return Err(Refusal::bad_signature(text));
    }
    Ok(())
}

fn signature(parts: &Parts, body: &[u8], auth: &Authorization, at: &str, secret: &str) -> String {
    let mut canonical = format!("{}\n{}\n\n", parts.method, parts.uri.path());
    for name in auth.signed_headers.split(';') {
        let value = header(parts, name).unwrap_or_default();
        canonical += &format!("{name}:{}\n", value.trim());
    }
    canonical += &format!("\n{}\n{}", auth.signed_headers, sha256(body));

    let Authorization { date, region, service, .. } = auth;
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{at}\n{date}/{region}/{service}/aws4_request\n{}",
        sha256(canonical.as_bytes())
    );
    let mut key = format!("AWS4{secret}").into_bytes();
    for step in [date, region, service, "aws4_request"] {
        key = hmac(&key, step.as_bytes());
    }
    hex(&hmac(&key, to_sign.as_bytes()))
}

fn header<'a>(parts: &'a Parts, name: &str) -> Option<&'a str> {
    parts.headers.get(name)?.to_str().ok()
}

fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data).as_ref().to_vec()
}

fn sha256(data: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, data).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::keys::Key;
    use super::*;

    /// The case `post-vanilla` of AWS's Signature Version 4 test suite.
    fn published() -> (Parts, Keyring, DateTime<Utc>) {
        let request = hyper::Request::post("/")
            .header("host", "example.amazonaws.com")
            .header("x-amz-date", "20150830T123600Z")
            .header(
                "authorization",
                "AWS4-HMAC-SHA256 \
                 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
                 SignedHeaders=host;x-amz-date, \
                 Signature=5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            );
        let keys =
            Keyring::new(vec![Key::new("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")]);
        let (parts, ()) = request.body(()).unwrap().into_parts();
        (parts, keys, "2015-08-30T12:36:00Z".parse().unwrap())
    }

    #[test]
    fn the_published_signature_is_accepted() {
        let (parts, keys, at) = published();
        verify(&parts, b"", &keys, "us-east-1", at).unwrap();
    }

    #[test]
    fn whatever_differs_is_refused() {
        let (parts, keys, at) = published();
        let code = |refused: Result<(), Refusal>| refused.unwrap_err().code;
        assert_eq!(code(verify(&parts, b"x", &keys, "us-east-1", at)), "InvalidSignatureException");
        assert_eq!(code(verify(&parts, b"", &keys, "eu-west-1", at)), "InvalidSignatureException");
        let late = at + TimeDelta::minutes(6);
        assert_eq!(
            code(verify(&parts, b"", &keys, "us-east-1", late)),
            "InvalidSignatureException"
        );
        let other = Keyring::new(vec![Key::new("AKIDEXAMPLE", "another secret")]);
        assert_eq!(code(verify(&parts, b"", &other, "us-east-1", at)), "InvalidSignatureException");
        let unknown = Keyring::new(vec![]);
        assert_eq!(
            code(verify(&parts, b"", &unknown, "us-east-1", at)),
            "UnrecognizedClientException"
        );
    }
}
