//! The operator's connections: one to the system account, one for each workspace's data account.

use super::{
    Error,
    connect::{self, Broker},
    keys,
};
use async_nats::{Client, connection::State};
use nkeys::KeyPair;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::sync::{Mutex, MutexGuard};

/// Connections by account. One that is lost is repaired by its client; meanwhile a call fails at once.
pub struct Pool {
    broker: Broker,
    installation: keys::Installation,
    accounts: Mutex<()>,
    clients: Mutex<HashMap<String, Arc<Mutex<Option<Client>>>>>,
}

impl Pool {
    pub fn new(broker: Broker, installation: keys::Installation) -> Self {
        Self { broker, installation, accounts: Mutex::default(), clients: Mutex::default() }
    }

    /// Signs accounts.
    pub fn signer(&self) -> &KeyPair {
        &self.installation.operator_signing
    }

    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// To be held while an account is read and written: the broker cannot tell a change in between.
    pub async fn lock_accounts(&self) -> MutexGuard<'_, ()> {
        self.accounts.lock().await
    }

    pub async fn system(&self) -> Result<Client, Error> {
        self.client(&self.installation.system).await
    }

    /// A connection to an account.
    pub async fn client(&self, account: &KeyPair) -> Result<Client, Error> {
        let slot = self.clients.lock().await.entry(account.public_key()).or_default().clone();
        let mut slot = slot.lock().await;
        if let Some(client) = slot.as_ref() {
            return match client.connection_state() {
                State::Connected => Ok(client.clone()),
                State::Pending | State::Disconnected => Err(Error::unavailable("connect", "the connection is lost")),
            };
        }
        let client = connect::connect(&self.broker, &account.seed()?, "operator").await?;
        *slot = Some(client.clone());
        Ok(client)
    }

    /// Waits until the broker answers, but no longer than `limit`. The network may let a new pod through a moment late,
    /// and a leader that begins before would call every workspace broken.
    pub async fn wait_for_broker(&self, limit: Duration) {
        let answers = async {
            while let Err(error) = self.system().await {
                tracing::info!(%error, "waiting for the broker");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        if tokio::time::timeout(limit, answers).await.is_err() {
            tracing::warn!("the broker does not answer; beginning without it");
        }
    }

    /// Ends the connection to an account that is no more.
    pub async fn forget(&self, account: &str) {
        let slot = self.clients.lock().await.remove(account);
        if let Some(slot) = slot
            && let Some(client) = slot.lock().await.take()
        {
            // A connection that is broken already needs no goodbye.
            let _ = client.drain().await;
        }
    }
}
