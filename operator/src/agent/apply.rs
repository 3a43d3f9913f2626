//! Brings an agent about: consumer and credentials first, since its pod needs both.

use super::{
    Error,
    build::{self, Frame, stateful_set},
    dereference::{Inputs, object_name},
    inquiry::{self, Report},
    messaging, rules,
    rules::Step,
    status::{Applied, Outcome},
    store,
    validate::Valid,
};
use crate::{
    cluster::Manifest,
    cluster::apply::{delete, ensure},
    context::Context,
    credentials,
    heads::Head,
    nats::{claims, keys},
    workspace::validate::Problem,
};
use k8s_openapi::jiff::Timestamp;
use rhizon_api::{
    RhizonAgent,
    settings::{Sidecar, Store},
};
use serde_json::json;

pub async fn apply(
    agent: &RhizonAgent,
    inputs: &Inputs,
    valid: Valid<'_>,
    context: &Context,
) -> Result<Outcome, Error> {
    let Valid { workspace, keys, mut settings, database } = valid;
    let step = rules::step(&settings.kernel, inputs);
    let broker = messaging::Broker { agent, inputs, workspace, keys, context };
    let progress = match &step {
        Step::Keep(rules) | Step::Stop(rules) => {
            settings.kernel = rules.clone();
            broker.ensure(&settings).await
        }
        Step::Place(before) => broker.place(&mut settings, before).await,
    };
    let is_changing = matches!(step, Step::Stop(_)) || matches!(step, Step::Place(_)) && progress.is_err();
    let recorded = messaging::recorded(agent);
    // Without a first position there can be no pod yet; one that has its position goes on while the broker is away.
    let Some(first) = progress.as_ref().ok().map(|progress| progress.first_sequence).or(recorded) else {
        return Ok(Outcome::Applied(Box::new(Applied {
            mode: settings.operating_mode,
            is_changing,
            progress,
            stateful_set: None,
            pods: Vec::new(),
            complaint: None,
            refusals: Vec::new(),
            reports: Vec::new(),
        })));
    };
    for shard in &mut settings.shards {
        shard.consumer.first_sequence = first;
        if let Store::Postgres { account, .. } = &mut shard.store {
            *account = keys.data.public_key();
        }
    }
    settings.nats.url.clone_from(&context.settings.nats_url);
    let name = agent.metadata.name.as_deref().unwrap_or_default();
    let frame = Frame {
        agent,
        workspace: workspace.metadata.name.as_deref().unwrap_or_default(),
        namespace: agent.metadata.namespace.as_deref().unwrap_or_default(),
        name,
        object: &object_name(name),
        journals: &workspace.spec.messaging.journal_max_bytes,
    };
    ensure_credentials(&frame, inputs, keys, &settings, context).await?;
    let settings_json = build::settings_json(&settings);
    let policy = database.as_ref().map(|database| store::network_policy(&frame, database));
    for manifest in build::parts(&frame, &settings_json).into_iter().chain(policy) {
        ensure(&context.client, &manifest).await.map_err(Error::Cluster)?;
    }
    let replicas = if is_changing { 0 } else { stateful_set::replicas(&agent.spec) };
    let set = stateful_set::build(&frame, replicas, &settings_json, database.as_ref(), &context.settings);
    let live = ensure(&context.client, &set).await.map_err(Error::Cluster)?;
    let reports = ask(&frame, inputs, &settings, keys, context).await;
    Ok(Outcome::Applied(Box::new(Applied {
        mode: settings.operating_mode,
        is_changing,
        progress,
        stateful_set: Some(live),
        pods: inputs.pods.clone(),
        complaint: inputs.complaint.clone(),
        refusals: inputs.refusals.clone(),
        reports,
    })))
}

/// What the sidecars say, and where their journals end. A broker that is away is told elsewhere.
async fn ask(
    frame: &Frame<'_>,
    inputs: &Inputs,
    settings: &Sidecar,
    keys: &keys::Workspace,
    context: &Context,
) -> Vec<Option<Report>> {
    let Ok(client) = context.pool.client(&keys.data).await else { return Vec::new() };
    let reports = inquiry::ask(&client, settings, &inputs.pods).await;
    for (shard, report) in settings.shards.iter().zip(&reports) {
        if let Some(Report { records, link: Some(link), .. }) = report {
            let head = Head { sequence: *records, link: link.clone() };
            context.heads.see(frame.namespace, (frame.name.to_owned(), shard.index), head);
        }
    }
    reports
}

async fn ensure_credentials(
    frame: &Frame<'_>,
    inputs: &Inputs,
    keys: &keys::Workspace,
    settings: &Sidecar,
    context: &Context,
) -> Result<(), Error> {
    let permissions = claims::agent_permissions(settings);
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
