//! Settings that name something: a device, a path, a thing of AWS.
//!
//! Only their shape is looked at; whether it exists is for others to say.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::config::value::{Given, Wrong};

/// 1..=64 characters of `[A-Za-z0-9._-]`: a device id by our own contract, a
/// delivery stream's name by Firehose's
/// (<https://docs.aws.amazon.com/firehose/latest/APIReference/API_CreateDeliveryStream.html>).
pub fn name(given: &Given) -> Result<String, Wrong> {
    let allowed = "1 to 64 of the characters A-Z a-z 0-9 . _ -";
    let Some(text) = given.text() else {
        return given.wrong("is not text", allowed);
    };
    if let Some(bad) = text.chars().find(|c| !is_name_char(*c)) {
        return given.wrong(&format!("contains the character {bad:?}"), allowed);
    }
    match text.len() {
        0 => given.wrong("is empty", allowed),
        1..=64 => Ok(text.to_owned()),
        _ => given.wrong("is too long", allowed),
    }
}

/// Whether `c` may stand in a [`name`].
pub fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// A daemon has no folder of its own to start from, so paths are absolute.
pub fn path(given: &Given) -> Result<PathBuf, Wrong> {
    let allowed = "an absolute path";
    match given.text().map(Path::new) {
        Some(path) if path.is_absolute() => Ok(path.to_owned()),
        Some(_) => given.wrong("does not begin with /", allowed),
        None => given.wrong("is not a path", allowed),
    }
}

/// A folder that the agent may call its own: not the root folder.
pub fn folder(given: &Given) -> Result<PathBuf, Wrong> {
    let path = path(given)?;
    if path.file_name().is_none() {
        return given.wrong("has no name at its end", "an absolute path");
    }
    Ok(path)
}

/// The shape of a region's code.
pub fn region(given: &Given) -> Result<String, Wrong> {
    let fits = |text: &&str| {
        let parts: Vec<&str> = text.split('-').collect();
        let Some((number, words)) = parts.split_last() else { return false };
        let word = |word: &&str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase());
        let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        text.len() <= 64 && digits && words.len() >= 2 && words.iter().all(word)
    };
    match given.text().filter(fits) {
        Some(text) => Ok(text.to_owned()),
        None => given.wrong("is not a region", "an AWS region's code such as eu-west-1"),
    }
}

/// The shape of a role's name in full
/// (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html>).
pub fn role_arn(given: &Given) -> Result<String, Wrong> {
    let fits = |text: &&str| {
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        let [arn, partition, service, region, account, role] = parts.as_slice() else {
            return false;
        };
        let account = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
        let name = role.strip_prefix("role/").unwrap_or_default();
        let named = |c: char| c.is_ascii_alphanumeric() || "+=,.@_/-".contains(c);
        (*arn, *service, *region) == ("arn", "iam", "")
            && partition.starts_with("aws")
            && account
            && (1..=512 + 64).contains(&name.len())
            && name.chars().all(named)
    };
    match given.text().filter(fits) {
        Some(text) => Ok(text.to_owned()),
        None => given.wrong(
            "is not the ARN of a role",
            "an ARN such as arn:aws:iam::123456789012:role/NAME",
        ),
    }
}

/// An http or https URL without query or password.
pub fn endpoint_url(given: &Given) -> Result<String, Wrong> {
    let fits = |text: &&str| {
        let Ok(uri) = text.parse::<http::Uri>() else { return false };
        let Some(authority) = uri.authority() else { return false };
        matches!(uri.scheme_str(), Some("http" | "https"))
            && !authority.host().is_empty()
            && !authority.as_str().contains('@')
            && (authority == authority.host() || authority.port_u16().is_some())
            && uri.query().is_none()
    };
    match given.text().filter(fits) {
        Some(text) => Ok(text.to_owned()),
        None => given.wrong("is not a URL", "https:// or http://, a host, and a port if need be"),
    }
}

/// Whether what is sent to `url` can be read on its way.
pub fn in_clear_text(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    let host = uri.host().unwrap_or_default();
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let local = host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback());
    uri.scheme_str() == Some("http") && !local
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::value::tests::read;

    #[test]
    fn a_name_says_which_character_it_may_not_have() {
        let of = |value: &str| read(&format!("{value:?}"), name);
        assert_eq!(of("Pi-1.attic_2"), Ok("Pi-1.attic_2".into()));
        assert!(of(&"x".repeat(64)).is_ok());
        assert_eq!(of("a/b"), Err("\"a/b\" contains the character '/'".into()));
        assert!(of("café").unwrap_err().contains("'é'"));
        assert!(of(&"x".repeat(65)).unwrap_err().ends_with("is too long"));
        assert!(of("").unwrap_err().ends_with("is empty"));
    }

    #[test]
    fn aws_names_have_their_shape() {
        let of = |value: &str, f: fn(&Given) -> Result<String, Wrong>| {
            read(&format!("{value:?}"), f).is_ok()
        };
        for good in ["eu-west-1", "us-gov-west-1", "us-isob-east-1", "eusc-de-east-1"] {
            assert!(of(good, region), "{good}");
        }
        for bad in ["", "eu-west-1a", "EU-west-1", "euwest1", "eu--1", "Ireland", "eu-west-"] {
            assert!(!of(bad, region), "{bad}");
        }
        let account = "arn:aws:iam::123456789012:";
        assert!(of(&format!("{account}role/path/iot-agent"), role_arn));
        assert!(of("arn:aws-cn:iam::123456789012:role/x", role_arn));
        for bad in ["user/x", "role/", "role/a b"] {
            assert!(!of(&format!("{account}{bad}"), role_arn), "{bad}");
        }
        for bad in ["iot-agent", "arn:aws:iam::123:role/x", "arn:aws:sts::123456789012:role/x"] {
            assert!(!of(bad, role_arn), "{bad}");
        }
    }

    #[test]
    fn an_endpoint_is_a_url_with_a_host() {
        let of = |value: &str| read(&format!("{value:?}"), endpoint_url);
        for good in ["https://gateway.local:8443", "http://[::1]:4566/", "https://a.b/path"] {
            assert_eq!(of(good), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "gateway.local:8443",
            "ftp://a",
            "https://",
            "https:///x",
            "https://u:p@a",
            "https://u:p@a:443",
            "https://a?b",
            "https://a:99999",
            "https://a b",
            "firehose.eu-west-1.amazonaws.com",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
        for (url, clear) in [
            ("http://192.168.0.2:4566", true),
            ("https://192.168.0.2", false),
            ("http://127.0.0.1:4566", false),
            ("http://[::1]:4566", false),
            ("http://localhost:1", false),
        ] {
            assert_eq!(in_clear_text(url), clear, "{url}");
        }
    }
}
