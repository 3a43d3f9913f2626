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
    settings::{Agent, Issuer},
};
use rhizon_kernel::TypePattern;

pub struct Inputs {
    /// The namespace of that name, ours or not.
    pub namespace: Option<Namespace>,
    /// Another, older workspace that wants the same namespace.
    pub rival: Option<String>,
    /// The workspace's agents, sorted by name.
    pub agents: Vec<Agent>,
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
    Ok(Inputs {
        namespace,
        rival: rival(workspace, context),
        agents: agents(client, name).await?,
        issuer: context.jwks.get(client).await?,
        gateway_secret,
    })
}

/// Read field by field, so that one object that cannot be decoded keeps nobody else from the gateway.
async fn agents(client: &Client, namespace: &str) -> Result<Vec<Agent>, Error> {
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &ApiResource::erase::<RhizonAgent>(&()));
    let agents = api.list(&ListParams::default()).await;
    let agents = agents.map_err(|e| Error::new("listing", format!("agents of {namespace}"), e))?;
    let mut known: Vec<Agent> = agents
        .items
        .into_iter()
        .filter(|agent| agent.metadata.deletion_timestamp.is_none())
        .filter_map(|agent| Some(Agent { subscribes: subscribes(&agent.data["spec"]), name: agent.metadata.name? }))
        .collect();
    known.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(known)
}

/// A type that is none is the agent's problem, and said in its status.
fn subscribes(spec: &serde_json::Value) -> Vec<TypePattern> {
    let types = spec["subscribes"].as_array().into_iter().flatten();
    types.filter_map(|text| text.as_str()?.parse().ok()).collect()
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
