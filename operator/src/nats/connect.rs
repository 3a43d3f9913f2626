//! Connections of the operator itself: users of a few hours, made anew at each connect.

use super::{Error, claims, jwt};
use async_nats::{
    Auth, AuthError, Client, ConnectOptions,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, pem::PemObject as _},
    },
};
use k8s_openapi::jiff::Timestamp;
use nkeys::KeyPair;
use std::{sync::Arc, time::Duration};

/// How long the operator's own users live. The broker ends the connection then, and the client makes a new user.
const LIFETIME_S: i64 = 6 * 3600;
/// A call that takes longer has failed.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the broker is, and whom to believe that it is the broker.
#[derive(Clone)]
pub struct Broker {
    pub url: String,
    /// CA of the broker's certificate; none for a broker without TLS.
    pub ca_pem: Option<String>,
}

/// Connects as an all-powerful user of an account. Returns an error when the broker is away; later losses are repaired
/// by the client itself.
pub async fn connect(broker: &Broker, account_seed: &str, name: &str) -> Result<Client, Error> {
    let account = Arc::new(KeyPair::from_seed(account_seed)?);
    let user_name = name.to_owned();
    let mut options = ConnectOptions::with_auth_callback(move |nonce| {
        let auth = authenticate(&account, &user_name, &nonce);
        async move { auth }
    })
    .name(name)
    .custom_inbox_prefix(format!("_INBOX.{name}"))
    .connection_timeout(CALL_TIMEOUT)
    .request_timeout(Some(CALL_TIMEOUT));
    if let Some(ca) = &broker.ca_pem {
        options = options.require_tls(true).tls_client_config(tls(ca)?);
    }
    options.connect(&broker.url).await.map_err(|error| Error::unavailable("connect", error))
}

fn authenticate(account: &KeyPair, name: &str, nonce: &[u8]) -> Result<Auth, AuthError> {
    let user = KeyPair::new_user();
    let now = Timestamp::now().as_second();
    let claims = claims::user(&user.public_key(), name, &claims::all_permissions(), now + LIFETIME_S);
    let mut auth = Auth::new();
    auth.jwt = Some(jwt::encode(&claims, account, now).map_err(AuthError::new)?);
    auth.signature = Some(user.sign(nonce).map_err(AuthError::new)?);
    Ok(auth)
}

fn tls(ca_pem: &str) -> Result<ClientConfig, Error> {
    let wrong = |why: String| Error::Tls { why };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        let certificate = certificate.map_err(|error| wrong(format!("the CA is no PEM: {error}")))?;
        roots.add(certificate).map_err(|error| wrong(format!("the CA cannot be used: {error}")))?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}
