//! The connection to the broker: credentials read at each connect, an inbox of one's own, and requests that tell
//! "no answer" from "no".

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use async_nats::{Auth, AuthError, Client, ConnectOptions, Event};
use bytes::Bytes;
use rhizon_api::settings;
use tokio::sync::watch;

use super::{BusError, Result};

const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub struct Connection {
    pub client: Client,
    /// How often the connection was made: another number means that what was under way is lost.
    pub generation: watch::Receiver<u64>,
    message_id_key: Arc<ring::hmac::Key>,
}

impl Connection {
    /// Starts to connect, and goes on in the background for as long as it takes.
    pub async fn start(settings: &settings::Nats) -> anyhow::Result<Self> {
        let (count, generation) = watch::channel(0);
        let count = Arc::new(count);
        let mut options = match settings.credentials.clone() {
            Some(path) => ConnectOptions::with_auth_callback(move |nonce| sign(path.clone(), nonce)),
            None => ConnectOptions::new(),
        };
        if let Some(ca) = &settings.ca {
            options = options.add_root_certificates(ca.clone()).require_tls(true);
        }
        let client = options
            .name(&settings.user)
            .custom_inbox_prefix(format!("_INBOX.{}", settings.user))
            .retry_on_initial_connect()
            .request_timeout(Some(TIMEOUT))
            .ping_interval(Duration::from_secs(10))
            .reconnect_delay_callback(|attempts| Duration::from_millis((50 << attempts.min(6)).min(2_000)))
            .event_callback(move |event| {
                let count = count.clone();
                async move {
                    match event {
                        Event::Connected => count.send_modify(|n| *n += 1),
                        other => tracing::warn!(event = %other, "broker connection"),
                    }
                }
            })
            .connect(&settings.url)
            .await
            .with_context(|| format!("the broker at {} can't be connected to", settings.url))?;
        let secret = match &settings.message_id_key {
            Some(path) => tokio::fs::read(path).await.with_context(|| format!("reading {}", path.display()))?,
            None => settings.user.clone().into_bytes(),
        };
        let message_id_key = Arc::new(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret));
        Ok(Self { client, generation, message_id_key })
    }

    /// `Nats-Msg-Id` of an event: nobody without the secret can occupy it.
    pub fn message_id(&self, key: &rhizon_kernel::chain::Hash) -> String {
        use base64::Engine as _;
        let tag = ring::hmac::sign(&self.message_id_key, &key.0);
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&tag.as_ref()[..24])
    }

    /// Waits for the first connection; answers which one is in force.
    pub async fn connected(&self) -> Result<u64> {
        let mut generation = self.generation.clone();
        let unreachable = |cause: String| BusError::Unreachable { doing: "connect", cause };
        match tokio::time::timeout(TIMEOUT, generation.wait_for(|count| *count > 0)).await {
            Ok(Ok(count)) => Ok(*count),
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Err(_) => Err(unreachable("no connection yet".into())),
        }
    }

    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    pub async fn request(&self, doing: &'static str, subject: String, payload: Bytes) -> Result<Bytes> {
        let answer = self.client.request(subject, payload).await;
        answer.map(|message| message.payload).map_err(|e| BusError::Unreachable { doing, cause: e.to_string() })
    }
}

async fn sign(path: std::path::PathBuf, nonce: Vec<u8>) -> std::result::Result<Auth, AuthError> {
    let read = async {
        let (jwt, seed) = read_credentials(&path).await?;
        let key =
            nkeys::KeyPair::from_seed(&seed).map_err(|e| anyhow!("{}: the seed is no NKey: {e}", path.display()))?;
        let mut auth = Auth::new();
        auth.signature = Some(key.sign(&nonce).map_err(|e| anyhow!("signing the broker's nonce: {e}"))?);
        auth.jwt = Some(jwt);
        anyhow::Ok(auth)
    };
    read.await.map_err(|e| AuthError::new(format!("{e:#}")))
}

/// A credentials file holds a user's JWT and the seed of its key, each between dashed lines.
async fn read_credentials(path: &Path) -> anyhow::Result<(String, String)> {
    let text = tokio::fs::read_to_string(path).await.with_context(|| format!("reading {}", path.display()))?;
    let section = |name: &str| {
        let (_, rest) = text.split_once(&format!("-----BEGIN {name}-----"))?;
        Some(rest.trim_start_matches('-').split_once("---")?.0.trim().to_owned())
    };
    let jwt = section("NATS USER JWT").ok_or_else(|| anyhow!("{}: no user JWT in it", path.display()))?;
    let seed = section("USER NKEY SEED").ok_or_else(|| anyhow!("{}: no seed in it", path.display()))?;
    Ok((jwt, seed))
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn a_credentials_file_is_taken_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("user.creds");
        let text = "-----BEGIN NATS USER JWT-----\neyJ.a.b\n------END NATS USER JWT------\n\n\
                    -----BEGIN USER NKEY SEED-----\nSUAB\n------END USER NKEY SEED------\n";
        std::fs::write(&path, text).unwrap();
        assert_eq!(super::read_credentials(&path).await.unwrap(), ("eyJ.a.b".into(), "SUAB".into()));
        std::fs::write(&path, "nothing").unwrap();
        assert!(super::read_credentials(&path).await.unwrap_err().to_string().contains("no user JWT"));
    }
}
