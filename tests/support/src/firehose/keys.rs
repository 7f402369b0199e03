//! Who may sign: keys, and the role sessions issued for them.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::answer::Refusal;

/// One set of credentials that the stand-in accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: Option<String>,
}

impl Key {
    /// A long-lived key, without a session token.
    pub fn new(access_key_id: &str, secret_access_key: &str) -> Self {
        Self {
            access_key_id: access_key_id.into(),
            secret_access_key: secret_access_key.into(),
            session_token: None,
        }
    }

    /// The variables that hand it to an AWS SDK.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let mut variables = BTreeMap::from([
            ("AWS_ACCESS_KEY_ID".into(), self.access_key_id.clone()),
            ("AWS_SECRET_ACCESS_KEY".into(), self.secret_access_key.clone()),
        ]);
        if let Some(token) = &self.session_token {
            variables.insert("AWS_SESSION_TOKEN".into(), token.clone());
        }
        variables
    }
}

#[derive(Debug)]
pub(super) struct Keyring {
    keys: Vec<(Key, bool)>,
    sessions: usize,
}

impl Keyring {
    pub(super) fn new(keys: Vec<Key>) -> Self {
        Self { keys: keys.into_iter().map(|key| (key, true)).collect(), sessions: 0 }
    }

    /// The secret behind a key that came with this session token.
    pub(super) fn secret(&self, id: &str, token: Option<&str>) -> Result<&str, Refusal> {
        let known = self.keys.iter().find(|(key, _)| key.access_key_id == id);
        let Some((key, valid)) = known.filter(|(key, _)| key.session_token.as_deref() == token)
        else {
            return Err(Refusal::denied(
                "UnrecognizedClientException",
                "The security token included in the request is invalid.",
            ));
        };
        if !valid {
            return Err(Refusal::denied(
                "ExpiredTokenException",
                "The security token included in the request is expired",
            ));
        }
        Ok(&key.secret_access_key)
    }

    /// A new role session, and when it says that it ends.
    pub(super) fn assume_role(&mut self, now: DateTime<Utc>, lasts: TimeDelta) -> (Key, String) {
        self.sessions += 1;
        let number = self.sessions;
        let key = Key {
            access_key_id: format!("ASIASTANDIN{number:05}"),
            secret_access_key: format!("session-secret-{number}"),
            session_token: Some(format!("session-token-{number}")),
        };
        self.keys.push((key.clone(), true));
        (key, (now + lasts).format("%Y-%m-%dT%H:%M:%SZ").to_string())
    }

    /// How many role sessions were issued.
    pub(super) fn sessions(&self) -> usize {
        self.sessions
    }

    /// Whatever has a session token is expired from here on.
    pub(super) fn expire_tokens(&mut self) {
        for (_, valid) in self.keys.iter_mut().filter(|(key, _)| key.session_token.is_some()) {
            *valid = false;
        }
    }
}
