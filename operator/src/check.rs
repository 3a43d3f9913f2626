//! `rhizon-operator check`: is the installation whole? The chart's `helm test` runs it.

use crate::{
    cluster::{self, found},
    install,
    nats::{self, connect, keys, server},
    settings::Settings,
};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Secret};
use kube::{Api, Client, api::ListParams};
use rhizon_api::{RhizonAgent, RhizonWorkspace};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the custom resources are not there: {0}")]
    Definitions(cluster::Error),
    #[error("no operator leads: {0}")]
    Leader(String),
    #[error("Secret {0} is not there: the operator has not prepared the broker")]
    Secret(&'static str),
    #[error(transparent)]
    Cluster(cluster::Error),
    #[error(transparent)]
    Messaging(nats::Error),
}

/// Says each thing that is as it should be; the first that is not ends it.
pub async fn run(client: &Client, settings: &Settings) -> Result<(), Error> {
    let few = ListParams::default().limit(1);
    let failed = |e| Error::Definitions(cluster::Error::new("listing", "Rhizon's resources", e));
    Api::<RhizonWorkspace>::all(client.clone()).list_metadata(&few).await.map_err(failed)?;
    Api::<RhizonAgent>::all(client.clone()).list_metadata(&few).await.map_err(failed)?;
    println!("custom resources: served");

    let leases = Api::<Lease>::namespaced(client.clone(), &settings.namespace);
    let lease = leases.get("rhizon-operator").await.map_err(|e| Error::Leader(e.to_string()))?;
    let holder = lease.spec.and_then(|spec| spec.holder_identity).filter(|holder| !holder.is_empty());
    println!("operator: led by {}", holder.ok_or_else(|| Error::Leader("the lease has no holder".to_owned()))?);

    let secrets = Api::<Secret>::namespaced(client.clone(), &settings.namespace);
    let secret = found(secrets.get(install::OPERATOR_SECRET).await)
        .map_err(|e| Error::Cluster(cluster::Error::new("reading", install::OPERATOR_SECRET, e)))?
        .ok_or(Error::Secret(install::OPERATOR_SECRET))?;
    let seeds = install::seeds(&secret);
    let keys = keys::Installation::from_seeds(&seeds).map_err(Error::Messaging)?;
    let broker = connect::Broker { url: settings.nats_url.clone(), ca_pem: seeds.get(server::CA_FILE).cloned() };
    let seed = keys.system.seed().map_err(|e| Error::Messaging(e.into()))?;
    reach(&broker, &seed).await.map_err(Error::Messaging)?;
    println!("broker: answers at {}", settings.nats_url);
    Ok(())
}

/// Connects, and gives a new pod's network policies a moment to hold.
async fn reach(broker: &connect::Broker, seed: &str) -> Result<(), nats::Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match connect::connect(broker, seed, "check").await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}
