//! What goes back over the wire.

use serde_json::{Value, json};

/// An answer, or none.
#[derive(Debug)]
pub(super) enum Reply {
    Answer(Answer),
    /// The connection is closed without a word.
    Cut,
    /// The connection stays open without a word.
    Hang,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

impl Answer {
    pub(super) fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, content_type, body: body.into() }
    }

    pub(super) fn json(status: u16, value: &Value) -> Self {
        Self::new(status, "application/x-amz-json-1.1", value.to_string())
    }
}

/// An error of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub status: u16,
    pub code: String,
    pub message: String,
}

impl Refusal {
    pub(super) fn new(status: u16, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status, code: code.into(), message: message.into() }
    }

    pub(super) fn denied(code: &str, message: impl Into<String>) -> Self {
        Self::new(400, code, message)
    }

    pub(super) fn bad_signature(message: impl Into<String>) -> Self {
        Self::new(400, "InvalidSignatureException", message)
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "InvalidArgumentException", message)
    }

    pub(super) fn as_json(&self) -> Answer {
        Answer::json(self.status, &json!({ "__type": self.code, "message": self.message }))
    }

    /// As STS puts it.
    pub(super) fn as_xml(&self) -> Answer {
        let Self { status, code, message } = self;
        let body = format!(
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error>\
             <Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>\
             <RequestId>stand-in</RequestId></ErrorResponse>"
        );
        Answer::new(*status, "text/xml", body)
    }
}

pub(super) const HTML_PAGE: &str = "<!DOCTYPE html>\n<html><head><title>Welcome to the guest \
    network</title></head>\n<body><h1>Please sign in</h1></body></html>\n";

/// Bytes that are neither JSON nor text.
pub(super) fn garbage() -> Vec<u8> {
    (0..=255).rev().collect()
}

/// STS's answer to AssumeRole.
pub(super) fn assumed_role(key: &super::Key, role: &str, expires: &str) -> Answer {
    let token = key.session_token.as_deref().unwrap_or_default();
    let (id, secret) = (&key.access_key_id, &key.secret_access_key);
    let name = role.rsplit('/').next().unwrap_or_default();
    let body = format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <AssumeRoleResult><AssumedRoleUser><AssumedRoleId>AROASTANDIN:iot-agent</AssumedRoleId>\
         <Arn>arn:aws:sts::123456789012:assumed-role/{name}/iot-agent</Arn></AssumedRoleUser>\
         <Credentials><AccessKeyId>{id}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>\
         <SessionToken>{token}</SessionToken><Expiration>{expires}</Expiration></Credentials>\
         </AssumeRoleResult><ResponseMetadata><RequestId>stand-in</RequestId></ResponseMetadata>\
         </AssumeRoleResponse>"
    );
    Answer::new(200, "text/xml", body)
}
