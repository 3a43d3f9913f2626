//! What the installation itself needs before anything else: the broker's operator key, and the broker's Secret.
//!
//! The broker's pods wait for that Secret, so the order of a first start does not matter.

use crate::{
    cluster::{Error as ClusterError, Manifest, apply, found},
    nats::{
        self,
        connect::Broker,
        keys,
        server::{self, Authority},
    },
    settings::Settings,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::{
    api::core::v1::Secret,
    jiff::{Timestamp, tz::TimeZone},
};
use kube::{Api, Client, api::PostParams};
use serde_json::json;

/// Keys of the installation. Whoever loses it loses the way to every account.
pub const OPERATOR_SECRET: &str = "rhizon-nats-operator";
/// What the broker's pods mount.
pub const SERVER_SECRET: &str = "rhizon-nats-server";
/// The year until whose beginning the certificate is good.
const GOOD_UNTIL: &str = "rhizon.dev/certificate-good-until";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Messaging(#[from] nats::Error),
    #[error(
        "Secret {OPERATOR_SECRET} is missing: with a broker of your own, make it with its keys (see the chart's values.yaml)"
    )]
    NoKeys,
}

/// The broker's address and the installation's keys. Makes what is missing when the broker is the chart's.
pub async fn prepare(client: &Client, settings: &Settings) -> Result<(Broker, keys::Installation), Error> {
    let secret = match read(client, settings, OPERATOR_SECRET).await? {
        Some(secret) => secret,
        None if settings.nats_service.is_some() => generate(client, settings).await?,
        None => return Err(Error::NoKeys),
    };
    let seeds = seeds(&secret);
    let keys = keys::Installation::from_seeds(&seeds)?;
    let ca_pem = seeds.get(server::CA_FILE).cloned();
    if let (Some(service), Some(certificate), Some(key)) =
        (&settings.nats_service, &ca_pem, seeds.get(server::CA_KEY_FILE))
    {
        let authority = Authority { certificate: certificate.clone(), key: key.clone() };
        ensure_server(client, settings, service, &keys, &authority).await?;
    }
    Ok((Broker { url: settings.nats_url.clone(), ca_pem }, keys))
}

async fn generate(client: &Client, settings: &Settings) -> Result<Secret, Error> {
    let mut seeds = keys::Installation::generate().seeds()?;
    let authority = Authority::generate(year())?;
    seeds.insert(server::CA_FILE.to_owned(), authority.certificate);
    seeds.insert(server::CA_KEY_FILE.to_owned(), authority.key);
    create_secret(client, &secret(&settings.namespace, OPERATOR_SECRET, &seeds).labelled(&[])).await?;
    // Read back: in a race the first one's keys hold.
    read(client, settings, OPERATOR_SECRET).await?.ok_or(Error::NoKeys)
}

/// The broker's Secret: made once, and again when its certificate comes to its end.
async fn ensure_server(
    client: &Client,
    settings: &Settings,
    service: &str,
    keys: &keys::Installation,
    authority: &Authority,
) -> Result<(), Error> {
    let year = year();
    let live = read(client, settings, SERVER_SECRET).await?;
    let good_until: Option<i16> =
        live.as_ref().and_then(|secret| secret.metadata.annotations.as_ref()?.get(GOOD_UNTIL)?.parse().ok());
    if good_until.is_some_and(|good_until| good_until > year + 1) {
        return Ok(());
    }
    let configuration = server::configuration(keys, Timestamp::now().as_second())?;
    let certificate = authority.issue(&server::names(service, &settings.namespace), year)?;
    let files = server::secret(configuration, authority, certificate);
    let mut manifest = secret(&settings.namespace, SERVER_SECRET, &files).labelled(&[]).value().clone();
    manifest["metadata"]["annotations"][GOOD_UNTIL] = json!((year + 3).to_string());
    apply::ensure(client, &Manifest::new(manifest)).await?;
    Ok(())
}

/// A Secret of the operator's own namespace.
pub fn secret(namespace: &str, name: &str, content: &keys::Seeds) -> Manifest {
    let data: serde_json::Map<_, _> =
        content.iter().map(|(name, text)| (name.clone(), json!(STANDARD.encode(text)))).collect();
    Manifest::new(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "type": "Opaque",
        "data": data,
    }))
}

/// Creates a Secret, and never changes one that exists: keys are made once.
pub async fn create_secret(client: &Client, manifest: &Manifest) -> Result<(), ClusterError> {
    let failed = |e| ClusterError::new("creating", manifest.describe(), e);
    let secret: Secret =
        serde_json::from_value(manifest.value().clone()).map_err(|e| failed(kube::Error::SerdeError(e)))?;
    let api = Api::<Secret>::namespaced(client.clone(), manifest.namespace().unwrap_or_default());
    match api.create(&PostParams::default(), &secret).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// The texts in a Secret.
pub fn seeds(secret: &Secret) -> keys::Seeds {
    let data = secret.data.iter().flatten();
    data.filter_map(|(name, bytes)| Some((name.clone(), String::from_utf8(bytes.0.clone()).ok()?))).collect()
}

async fn read(client: &Client, settings: &Settings, name: &str) -> Result<Option<Secret>, ClusterError> {
    let api = Api::<Secret>::namespaced(client.clone(), &settings.namespace);
    found(api.get(name).await).map_err(|e| ClusterError::new("reading", format!("Secret {name}"), e))
}

fn year() -> i16 {
    Timestamp::now().to_zoned(TimeZone::UTC).year()
}
