//! The AWS SDK set up: whom to trust, who we are, how long to wait.
//!
//! Credentials come from the SDK's default chain (environment, profile files
//! with `credential_process`, web identity, container, instance metadata);
//! In a service a credential named `aws` takes the place of ~/.aws/credentials.
//! `profile` restricts it to that profile, `role_arn` assumes a role on top.
//! IAM Identity Center (SSO) and `aws login` are left out: they need a browser.
//! The SDK never retries, and TLS is rustls with ring, in the caller's thread.
//!
//! Proxies follow HTTPS_PROXY, HTTP_PROXY and NO_PROXY, for the metadata
//! addresses (169.254.169.254, 169.254.170.2) too: NO_PROXY must name them.

mod files;
mod identity;

use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, FrameworkMetadata, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector, HttpClientError};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

pub use files::{CREDENTIALS_OF_UNIT, secret_files};
pub use identity::Identity;

/// Name resolution, connection, proxy and TLS together. resolv.conf(5) gives a
/// dead first name server 5 s before the second is asked; as much again is left
/// for a handshake over a slow link.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How CloudTrail names the sessions of `role_arn`.
const SESSION_NAME: &str = "iot-agent";

/// Which identity, where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// From AWS_REGION, the profile or the instance metadata if absent.
    pub region: Option<String>,
    pub profile: Option<String>,
    pub role_arn: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "no AWS region: neither `region` of the sink nor AWS_REGION nor the profile in \
         ~/.aws/config names one; set `region`, for example to \"eu-west-1\""
    )]
    NoRegion,
    #[error(
        "ca_file {path} cannot be read: {source}; it must be a PEM file of the certificate \
         authorities to trust"
    )]
    CaFile { path: PathBuf, source: std::io::Error },
    #[error(
        "ca_file {path} is of no use: {reason}; it must be a PEM file of the certificate \
         authorities to trust (BEGIN CERTIFICATE)"
    )]
    Authorities { path: PathBuf, reason: String },
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] HttpClientError),
}

/// The HTTP client behind every AWS client: its connections are shared and
/// kept open for 90 s of rest (hyper's default), so that a send a minute needs
/// one handshake. `ca_file` holds the only authorities to trust; without it,
/// those of the system.
pub fn http_client(ca_file: Option<&Path>) -> Result<SharedHttpClient, Error> {
    let trust = match ca_file {
        Some(path) => TrustStore::empty().with_pem_certificate(authorities(path)?),
        None => TrustStore::default(),
    };
    let tls = TlsContext::builder().with_trust_store(trust).build()?;
    let client = Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder()
            .proxy_config(ProxyConfig::from_env())
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .tls_context(tls.clone());
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(
            components.and_then(aws_sdk_firehose::config::RuntimeComponents::sleep_impl),
        );
        connector.build()
    });
    Ok(client)
}

/// The variable that makes requests go through a proxy, if one does.
pub fn proxy_variable() -> Option<&'static str> {
    ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]
        .into_iter()
        .find(|name| std::env::var_os(name).is_some_and(|proxy| !proxy.is_empty()))
}

/// The bytes of a PEM file, of which every certificate is sound: the SDK
/// panics over one that is not.
fn authorities(path: &Path) -> Result<Vec<u8>, Error> {
    let pem =
        std::fs::read(path).map_err(|source| Error::CaFile { path: path.to_owned(), source })?;
    let unusable = |reason: String| Error::Authorities { path: path.to_owned(), reason };
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        store.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    if store.is_empty() {
        return Err(unusable("no certificate in it".into()));
    }
    Ok(pem)
}

/// What every AWS client needs. Reads the environment and the profile files,
/// but asks for credentials only at the first request; `identity` then learns
/// whose they are.
pub async fn load(
    settings: &Settings,
    http: &SharedHttpClient,
    identity: &Identity,
) -> Result<SdkConfig, Error> {
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http.clone())
        .profile_files(files::profile_files())
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build());
    if let Ok(agent) = FrameworkMetadata::new("iot-agent", Some(env!("CARGO_PKG_VERSION"))) {
        loader = loader.framework_metadata(agent);
    }
    if let Some(region) = &settings.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(profile) = &settings.profile {
        loader = loader.profile_name(profile);
    }
    let mut sdk = loader.load().await;
    let region = sdk.region().cloned().ok_or(Error::NoRegion)?;

    let chain = match &settings.profile {
        // In the default chain the environment would win over the profile
        // that the operator named.
        Some(profile) => {
            let access = ProviderConfig::without_region()
                .with_region(Some(region))
                .with_http_client(http.clone());
            let profile = ProfileFileCredentialsProvider::builder()
                .configure(&access)
                .profile_files(files::profile_files())
                .profile_name(profile)
                .build();
            Some(SharedCredentialsProvider::new(profile))
        }
        None => sdk.credentials_provider(),
    };
    if let Some(chain) = chain {
        sdk = with_credentials(sdk, identity.observe(chain));
    }
    if let Some(role) = &settings.role_arn {
        let role =
            AssumeRoleProvider::builder(role).session_name(SESSION_NAME).configure(&sdk).build();
        sdk = with_credentials(sdk, identity.observe(SharedCredentialsProvider::new(role.await)));
    }
    Ok(sdk)
}

fn with_credentials(sdk: SdkConfig, provider: SharedCredentialsProvider) -> SdkConfig {
    sdk.into_builder().credentials_provider(provider).build()
}
