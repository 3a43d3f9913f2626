//! The cluster's own token issuer and its public keys, which gateways check service account tokens with.

use crate::cluster::Error;
use kube::Client;
use rhizon_api::settings::Issuer;
use serde_json::Value;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Keys are asked for again after this time. A new signing key is announced long before it is used.
const MAX_AGE: Duration = Duration::from_mins(5);

#[derive(Default)]
pub struct Cache {
    last: Mutex<Option<(Instant, Issuer)>>,
}

impl Cache {
    /// The issuer with its keys, at most five minutes old.
    pub async fn get(&self, client: &Client) -> Result<Issuer, Error> {
        let mut last = self.last.lock().await;
        if let Some((when, issuer)) = last.as_ref()
            && when.elapsed() < MAX_AGE
        {
            return Ok(issuer.clone());
        }
        let issuer = fetch(client).await?;
        *last = Some((Instant::now(), issuer.clone()));
        Ok(issuer)
    }
}

async fn fetch(client: &Client) -> Result<Issuer, Error> {
    let discovery = read(client, "/.well-known/openid-configuration").await?;
    let issuer = discovery["issuer"].as_str().unwrap_or_default().to_owned();
    Ok(Issuer { issuer, jwks: read(client, "/openid/v1/jwks").await? })
}

async fn read(client: &Client, path: &str) -> Result<Value, Error> {
    let request = http::Request::get(path)
        .body(Vec::new())
        .map_err(|e| Error::new("reading", path, kube::Error::HttpError(e)))?;
    client.request::<Value>(request).await.map_err(|e| Error::new("reading", path, e))
}
