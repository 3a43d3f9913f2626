//! Everything that a workspace's reconcile reads.

use crate::{
    cluster::{Error, found},
    context::Context,
};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, ListParams},
};
use rhizon_api::{
    RhizonAgent, RhizonWorkspace,
    settings::{Agent, Issuer, consumer_names},
};
use rhizon_kernel::TypePattern;

pub struct Inputs {
    /// The namespace of that name, ours or not.
    pub namespace: Option<Namespace>,
    /// Another, older workspace that wants the same namespace.
    pub rival: Option<String>,
    /// The workspace's agents, sorted by name.
    pub agents: Vec<Agent>,
    /// Consumers of those that have their place in the stream.
    pub consumers: Vec<String>,
    /// The cluster's own token issuer.
    pub issuer: Issuer,
    pub gateway_secret: Option<Secret>,
}

pub async fn dereference(workspace: &RhizonWorkspace, context: &Context) -> Result<Inputs, Error> {
    let name = workspace.namespace_name();
    let client = &context.client;
    let namespace = found(Api::<Namespace>::all(client.clone()).get(name).await)
        .map_err(|e| Error::new("reading", format!("Namespace {name}"), e))?;
    let secrets = Api::<Secret>::namespaced(client.clone(), name);
    let gateway_secret = found(secrets.get("rhizon-gateway").await)
        .map_err(|e| Error::new("reading", format!("Secret {name}/rhizon-gateway"), e))?;
    let live = agents(client, name).await?;
    Ok(Inputs {
        namespace,
        rival: rival(workspace, context),
        agents: live.iter().filter_map(agent).collect(),
        consumers: live.iter().flat_map(consumers).collect(),
        issuer: context.jwks.get(client).await?,
        gateway_secret,
    })
}

/// Those that stay, by name. Read field by field, so that one that cannot be decoded keeps nobody else from the gateway.
async fn agents(client: &Client, namespace: &str) -> Result<Vec<DynamicObject>, Error> {
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &ApiResource::erase::<RhizonAgent>(&()));
    let agents = api.list(&ListParams::default()).await;
    let mut agents = agents.map_err(|e| Error::new("listing", format!("agents of {namespace}"), e))?.items;
    agents.retain(|agent| agent.metadata.deletion_timestamp.is_none());
    agents.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    Ok(agents)
}

/// A type that is none is the agent's problem, and said in its status.
fn agent(live: &DynamicObject) -> Option<Agent> {
    let types = live.data["spec"]["subscribes"].as_array().into_iter().flatten();
    let subscribes: Vec<TypePattern> = types.filter_map(|text| text.as_str()?.parse().ok()).collect();
    Some(Agent { subscribes, name: live.metadata.name.clone()?, shards: shards(live) })
}

fn consumers(live: &DynamicObject) -> Vec<String> {
    match &live.metadata.name {
        Some(name) if !live.data["status"]["firstSequence"].is_null() => consumer_names(name, shards(live)).collect(),
        _ => Vec::new(),
    }
}

fn shards(live: &DynamicObject) -> u32 {
    live.data["spec"]["shards"].as_u64().and_then(|shards| u32::try_from(shards).ok()).unwrap_or(1)
}

fn rival(workspace: &RhizonWorkspace, context: &Context) -> Option<String> {
    let age = |workspace: &RhizonWorkspace| {
        (workspace.metadata.creation_timestamp.as_ref().map(|time| time.0), workspace.metadata.name.clone())
    };
    let others = context.workspaces.state();
    others
        .iter()
        .filter_map(|guard| guard.0.as_ref().ok())
        .filter(|other| other.metadata.uid != workspace.metadata.uid)
        .filter(|other| other.namespace_name() == workspace.namespace_name() && age(other) < age(workspace))
        .find_map(|other| other.metadata.name.clone())
}
