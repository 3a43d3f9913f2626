//! The end of a workspace. Each step may be repeated; a restart in the middle goes on where the cluster is.
//!
//! `Delete`: agents first (their own cleanup needs the broker), then streams and accounts, then the namespace, and the
//! keys last, since everything before needs them. `Retain`: workloads and credentials go, the rest stays: namespace, volumes, streams.

use super::{Error, keys_secret, read_keys};
use crate::{
    cluster::{self, Manifest, apply, found},
    context::Context,
    nats::{resolver, streams},
};
use k8s_openapi::{api::core::v1::Namespace, jiff::Timestamp};
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams},
    core::GroupVersionKind,
};
use rhizon_api::{RhizonAgent, RhizonWorkspace, labels, workspace::DeletionPolicy, workspace::NamespaceStatus};
use serde_json::json;

pub enum Progress {
    /// Something is on its way out; look again.
    Waiting,
    Done,
}

/// What is to be cleaned up: from the status, so that no spec can point it elsewhere.
pub struct Target {
    pub workspace: String,
    pub namespace: Option<NamespaceStatus>,
    pub policy: DeletionPolicy,
}

impl Target {
    pub fn of(workspace: &RhizonWorkspace) -> Self {
        Self {
            workspace: workspace.metadata.name.clone().unwrap_or_default(),
            namespace: workspace.status.as_ref().and_then(|status| status.namespace.clone()),
            policy: workspace.spec.deletion_policy,
        }
    }
}

pub async fn cleanup(target: &Target, context: &Context) -> Result<Progress, Error> {
    match target.policy {
        DeletionPolicy::Retain => retain(target, context).await,
        DeletionPolicy::Delete => delete(target, context).await,
    }
}

async fn retain(target: &Target, context: &Context) -> Result<Progress, Error> {
    if let Some((namespace, _)) = owned_namespace(target, context).await? {
        delete_workloads(&target.workspace, &namespace.name, context).await.map_err(Error::Cluster)?;
    }
    // Without its account no credentials are worth anything. A new workspace of the name pushes it again.
    if let Some(keys) = read_keys(&target.workspace, context).await? {
        let system = context.pool.system().await.map_err(Error::Messaging)?;
        let (runtime, now) = (keys.runtime.public_key(), Timestamp::now().as_second());
        let signer = context.pool.signer();
        resolver::delete_accounts(&system, signer, &[runtime], now).await.map_err(Error::Messaging)?;
    }
    Ok(Progress::Done)
}

async fn delete(target: &Target, context: &Context) -> Result<Progress, Error> {
    if let Some((namespace, is_terminating)) = owned_namespace(target, context).await? {
        if delete_agents(&namespace.name, context).await.map_err(Error::Cluster)? {
            return Ok(Progress::Waiting);
        }
        delete_messaging(target, context).await?;
        delete_workloads(&target.workspace, &namespace.name, context).await.map_err(Error::Cluster)?;
        if namespace.created && is_terminating {
            return Ok(Progress::Waiting);
        }
        if namespace.created {
            delete_namespace(&namespace, context).await.map_err(Error::Cluster)?;
            return Ok(Progress::Waiting);
        }
        delete_tenancy(&target.workspace, &namespace.name, context).await.map_err(Error::Cluster)?;
    } else {
        delete_messaging(target, context).await?;
    }
    let keys = Manifest::new(json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": keys_secret(&target.workspace), "namespace": context.settings.namespace},
    }));
    apply::delete(&context.client, &keys).await.map_err(Error::Cluster)?;
    Ok(Progress::Done)
}

/// The namespace, if it is still the very one that was recorded, and whether it is on its way out.
async fn owned_namespace(target: &Target, context: &Context) -> Result<Option<(NamespaceStatus, bool)>, Error> {
    let Some(recorded) = &target.namespace else { return Ok(None) };
    let live = found(Api::<Namespace>::all(context.client.clone()).get(&recorded.name).await)
        .map_err(|e| Error::Cluster(cluster::Error::new("reading", format!("Namespace {}", recorded.name), e)))?;
    let live = live.filter(|live| live.metadata.uid.as_deref() == Some(&recorded.uid));
    Ok(live.map(|live| (recorded.clone(), live.metadata.deletion_timestamp.is_some())))
}

/// Asks all agents to go. Returns whether some are left.
async fn delete_agents(namespace: &str, context: &Context) -> Result<bool, cluster::Error> {
    let api = Api::<RhizonAgent>::namespaced(context.client.clone(), namespace);
    let failed = |verb| move |e| cluster::Error::new(verb, format!("agents of {namespace}"), e);
    let agents = api.list_metadata(&ListParams::default()).await.map_err(failed("listing"))?;
    for agent in &agents.items {
        if agent.metadata.deletion_timestamp.is_none() {
            let name = agent.metadata.name.as_deref().unwrap_or_default();
            cluster::gone(api.delete(name, &DeleteParams::background()).await).map_err(failed("deleting"))?;
        }
    }
    Ok(!agents.items.is_empty())
}

async fn delete_messaging(target: &Target, context: &Context) -> Result<(), Error> {
    let Some(keys) = read_keys(&target.workspace, context).await? else { return Ok(()) };
    let (data, runtime) = (keys.data.public_key(), keys.runtime.public_key());
    let system = context.pool.system().await.map_err(Error::Messaging)?;
    // An account that is gone took its streams with it, or they went before.
    if resolver::look_up(&system, &data).await.map_err(Error::Messaging)?.is_some() {
        let client = context.pool.client(&keys.data).await.map_err(Error::Messaging)?;
        for name in ["EVENTS", "DEAD", streams::JOURNAL, streams::SNAPSHOTS] {
            streams::delete(&client, name).await.map_err(Error::Messaging)?;
        }
        context.pool.forget(&data).await;
    }
    let now = Timestamp::now().as_second();
    resolver::delete_accounts(&system, context.pool.signer(), &[runtime, data], now).await.map_err(Error::Messaging)
}

/// Deployments, StatefulSets, Services, configuration and credentials: what runs, and what it runs with.
async fn delete_workloads(workspace: &str, namespace: &str, context: &Context) -> Result<(), cluster::Error> {
    let kinds = [
        ("apps", "v1", "StatefulSet"),
        ("apps", "v1", "Deployment"),
        ("", "v1", "Secret"),
        ("", "v1", "ConfigMap"),
        ("", "v1", "Service"),
    ];
    delete_kinds(&kinds, workspace, namespace, context).await
}

/// What an adopted namespace is rid of: it stays, without our rules and with its volumes gone.
async fn delete_tenancy(workspace: &str, namespace: &str, context: &Context) -> Result<(), cluster::Error> {
    let kinds = [
        ("", "v1", "PersistentVolumeClaim"),
        ("", "v1", "ResourceQuota"),
        ("", "v1", "LimitRange"),
        ("networking.k8s.io", "v1", "NetworkPolicy"),
        ("rbac.authorization.k8s.io", "v1", "Role"),
    ];
    delete_kinds(&kinds, workspace, namespace, context).await
}

async fn delete_kinds(
    kinds: &[(&str, &str, &str)],
    workspace: &str,
    namespace: &str,
    context: &Context,
) -> Result<(), cluster::Error> {
    let ours = ListParams::default().labels(&format!("{}={workspace}", labels::WORKSPACE));
    for (group, version, kind) in kinds {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let api = Api::<DynamicObject>::namespaced_with(context.client.clone(), namespace, &resource);
        let failed = |verb| move |e| cluster::Error::new(verb, format!("{kind} of {namespace}"), e);
        for object in api.list_metadata(&ours).await.map_err(failed("listing"))? {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            cluster::gone(api.delete(name, &DeleteParams::background()).await).map_err(failed("deleting"))?;
        }
    }
    Ok(())
}

async fn delete_namespace(namespace: &NamespaceStatus, context: &Context) -> Result<(), cluster::Error> {
    let manifest =
        Manifest::new(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace.name}}));
    apply::delete_uid(&context.client, &manifest, &namespace.uid).await
}
