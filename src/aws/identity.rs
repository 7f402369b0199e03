//! Who the agent acts as, in words.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use aws_credential_types::Credentials;
use aws_credential_types::provider::{
    ProvideCredentials, Result, SharedCredentialsProvider, future,
};

/// The access key last used, by its id; never a secret.
#[derive(Debug, Clone, Default)]
pub struct Identity(Arc<Mutex<Option<String>>>);

impl Identity {
    /// The same provider, with its answers noted.
    pub(super) fn observe(&self, provider: SharedCredentialsProvider) -> SharedCredentialsProvider {
        SharedCredentialsProvider::new(Observed { provider, identity: self.clone() })
    }

    fn note(&self, found: &Credentials) {
        let words = format!("access key {}", found.access_key_id());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(words);
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        f.write_str(words.as_deref().unwrap_or("no credentials yet"))
    }
}

#[derive(Debug)]
struct Observed {
    provider: SharedCredentialsProvider,
    identity: Identity,
}

impl ProvideCredentials for Observed {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let found: Result = self.provider.provide_credentials().await;
            if let Ok(found) = &found {
                self.identity.note(found);
            }
            found
        })
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        self.provider.fallback_on_interrupt()
    }
}
