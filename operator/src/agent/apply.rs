//! Brings an agent about: consumer and credentials first, since its pod needs both.

use super::{
    Error,
    build::{self, Frame, stateful_set},
    dereference::{Inputs, object_name},
    status::{Applied, Outcome},
    validate::Valid,
};
use crate::{
    cluster::Manifest,
    cluster::apply::{delete, ensure},
    context::Context,
    credentials,
    nats::{
        self, claims,
        consumers::{self, Progress},
        keys, streams,
    },
    workspace::validate::Problem,
};
use k8s_openapi::jiff::Timestamp;
use rhizon_api::{RhizonAgent, agent::StartFrom, settings::Sidecar};
use serde_json::json;

pub async fn apply(
    agent: &RhizonAgent,
    inputs: &Inputs,
    valid: Valid<'_>,
    context: &Context,
) -> Result<Outcome, Error> {
    let Valid { workspace, keys, mut settings } = valid;
    let progress = ensure_consumers(agent, inputs, keys, &settings, context).await;
    let recorded = agent.status.as_ref().and_then(|status| status.first_sequence).and_then(|n| u64::try_from(n).ok());
    // Without a first position there can be no pod yet; one that has its position goes on while the broker is away.
    let Some(first) = progress.as_ref().ok().map(|progress| progress.first_sequence).or(recorded) else {
        return Ok(Outcome::Applied(Box::new(Applied {
            progress,
            stateful_set: None,
            pods: Vec::new(),
            complaint: None,
            refusals: Vec::new(),
        })));
    };
    for shard in &mut settings.shards {
        shard.consumer.first_sequence = first;
    }
    settings.nats.url.clone_from(&context.settings.nats_url);
    let name = agent.metadata.name.as_deref().unwrap_or_default();
    let frame = Frame {
        agent,
        workspace: workspace.metadata.name.as_deref().unwrap_or_default(),
        namespace: agent.metadata.namespace.as_deref().unwrap_or_default(),
        name,
        object: &object_name(name),
    };
    ensure_credentials(&frame, inputs, keys, &settings, context).await?;
    let settings_json = build::settings_json(&settings);
    for manifest in build::parts(&frame, &settings_json) {
        ensure(&context.client, &manifest).await.map_err(Error::Cluster)?;
    }
    let set = stateful_set::build(&frame, &settings_json, &context.settings);
    let live = ensure(&context.client, &set).await.map_err(Error::Cluster)?;
    Ok(Outcome::Applied(Box::new(Applied {
        progress,
        stateful_set: Some(live),
        pods: inputs.pods.clone(),
        complaint: inputs.complaint.clone(),
        refusals: inputs.refusals.clone(),
    })))
}

/// All shards begin at the same place, and lag together.
async fn ensure_consumers(
    agent: &RhizonAgent,
    inputs: &Inputs,
    keys: &keys::Workspace,
    settings: &Sidecar,
    context: &Context,
) -> Result<Progress, nats::Error> {
    let client = context.pool.client(&keys.data).await?;
    let recorded = agent.status.as_ref().and_then(|status| status.first_sequence).and_then(|n| u64::try_from(n).ok());
    let mut known = recorded;
    let mut lag = 0;
    for consumer in consumers::build(settings) {
        let begin = async || match (known, inputs.has_store, agent.spec.start_from) {
            (Some(first), _, _) => Ok(first),
            // A store that was kept has its own position, anywhere in the stream.
            (None, true, _) | (None, false, StartFrom::Beginning) => Ok(1),
            (None, false, StartFrom::New) => Ok(streams::last_sequence(&client, "EVENTS").await? + 1),
        };
        let progress = consumers::ensure(&client, &consumer, begin).await?;
        known.get_or_insert(progress.first_sequence);
        lag += progress.lag;
    }
    Ok(Progress { first_sequence: known.unwrap_or(1), lag })
}

async fn ensure_credentials(
    frame: &Frame<'_>,
    inputs: &Inputs,
    keys: &keys::Workspace,
    settings: &Sidecar,
    context: &Context,
) -> Result<(), Error> {
    let permissions = claims::agent_permissions(frame.name, &settings.kernel.publishes);
    let wanted = credentials::Wanted {
        namespace: frame.namespace,
        secret: frame.object,
        account: &keys.runtime,
        user: &claims::agent_user(frame.name),
        permissions: &permissions,
        ca_pem: context.pool.broker().ca_pem.as_deref(),
    };
    let now = Timestamp::now().as_second();
    let secret = credentials::build(&wanted, inputs.credentials.as_ref(), now).map_err(Error::Messaging)?;
    ensure(&context.client, &frame.finish(secret)).await.map_err(Error::Cluster)?;
    Ok(())
}

/// An agent that makes no sense keeps what it has; one without a workspace keeps no workload and no credentials.
pub async fn park(agent: &RhizonAgent, inputs: &Inputs, problem: Problem, context: &Context) -> Result<Outcome, Error> {
    if inputs.workspace.is_none() {
        for (api_version, kind, exists) in
            [("apps/v1", "StatefulSet", inputs.stateful_set.is_some()), ("v1", "Secret", inputs.credentials.is_some())]
        {
            let name = object_name(agent.metadata.name.as_deref().unwrap_or_default());
            let manifest = Manifest::new(json!({
                "apiVersion": api_version, "kind": kind,
                "metadata": {"name": name, "namespace": agent.metadata.namespace},
            }));
            if exists && is_ours(agent, inputs, kind) {
                delete(&context.client, &manifest).await.map_err(Error::Cluster)?;
            }
        }
    }
    Ok(Outcome::Invalid(problem))
}

/// An object of the same name that somebody else made is not ours to delete.
fn is_ours(agent: &RhizonAgent, inputs: &Inputs, kind: &str) -> bool {
    let metadata = match kind {
        "Secret" => inputs.credentials.as_ref().map(|secret| &secret.metadata),
        _ => inputs.stateful_set.as_ref().map(|set| &set.metadata),
    };
    let owners = metadata.and_then(|metadata| metadata.owner_references.as_ref());
    owners.into_iter().flatten().any(|owner| Some(&owner.uid) == agent.metadata.uid.as_ref())
}
