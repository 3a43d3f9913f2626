//! The end of an agent. Needs its name and namespace only, so it works whatever the spec says.
//!
//! Its Kubernetes objects go by their owner reference; here goes what has none: the user, the consumers, and with the workspace's
//! policy `Delete` the store. A Postgres is the tenant's: what is in it stays.

use super::{Error, dereference::object_name};
use crate::{
    cluster::{self, Manifest, apply, found, gone},
    context::Context,
    credentials,
    nats::{claims, consumers, resolver, streams},
    workspace,
};
use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use rhizon_api::{RhizonWorkspace, labels, workspace::DeletionPolicy};
use serde_json::json;

pub async fn cleanup(metadata: &ObjectMeta, context: &Context) -> Result<(), Error> {
    let name = metadata.name.as_deref().unwrap_or_default();
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let object = object_name(name);
    let set = Manifest::new(json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": object, "namespace": namespace},
    }));
    apply::delete(&context.client, &set).await.map_err(Error::Cluster)?;
    // Also one that is being deleted itself: its agents go first, and need its accounts.
    let Some(owner) = context.claimant_of(namespace) else { return Ok(()) };
    let secrets = Api::<Secret>::namespaced(context.client.clone(), namespace);
    let secret = found(secrets.get(&object).await)
        .map_err(|e| Error::Cluster(cluster::Error::new("reading", format!("Secret {namespace}/{object}"), e)))?;
    delete_messaging(&owner, name, secret.as_ref().and_then(credentials::user_key).as_deref(), context).await?;
    if owner.spec.deletion_policy == DeletionPolicy::Delete {
        delete_volumes(name, namespace, context).await?;
    }
    Ok(())
}

/// `user` is the public key of the agent's user: its credentials end with it, wherever a copy of them is.
async fn delete_messaging(
    owner: &RhizonWorkspace,
    agent: &str,
    user: Option<&str>,
    context: &Context,
) -> Result<(), Error> {
    let name = owner.metadata.name.as_deref().unwrap_or_default();
    let Some(keys) = workspace::read_keys(name, context).await.map_err(Error::Workspace)? else { return Ok(()) };
    let system = context.pool.system().await.map_err(Error::Messaging)?;
    // An account that never came to be, or is gone, has no streams.
    if resolver::look_up(&system, &keys.data.public_key()).await.map_err(Error::Messaging)?.is_none() {
        return Ok(());
    }
    if let Some(user) = user {
        let (account, now) = (keys.runtime.public_key(), Timestamp::now().as_second());
        let _lock = context.pool.lock_accounts().await;
        resolver::revoke(&system, context.pool.signer(), &account, user, now).await.map_err(Error::Messaging)?;
    }
    let client = context.pool.client(&keys.data).await.map_err(Error::Messaging)?;
    for stream in ["EVENTS", streams::JOURNAL] {
        consumers::delete_all(&client, stream, &claims::agent_user(agent)).await.map_err(Error::Messaging)?;
    }
    if owner.spec.deletion_policy == DeletionPolicy::Delete {
        for (stream, subject) in [(streams::JOURNAL, "jr"), (streams::SNAPSHOTS, "sn")] {
            streams::purge(&client, stream, &format!("{subject}.{agent}.>")).await.map_err(Error::Messaging)?;
        }
    }
    Ok(())
}

/// The claims outlive the StatefulSet; Kubernetes keeps each until its pod is gone.
async fn delete_volumes(agent: &str, namespace: &str, context: &Context) -> Result<(), Error> {
    let api = Api::<PersistentVolumeClaim>::namespaced(context.client.clone(), namespace);
    let failed = |verb| move |e| Error::Cluster(cluster::Error::new(verb, format!("stores of {namespace}/{agent}"), e));
    let ours = ListParams::default().labels(&format!("{}={agent}", labels::AGENT));
    for claim in api.list_metadata(&ours).await.map_err(failed("listing"))? {
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        gone(api.delete(name, &DeleteParams::background()).await).map_err(failed("deleting"))?;
    }
    Ok(())
}
