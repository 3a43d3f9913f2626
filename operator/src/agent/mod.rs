//! `RhizonAgent`: credentials, a consumer, and a pod with the agent and its sidecar.

pub mod apply;
pub mod build;
pub mod cleanup;
pub mod dereference;
pub mod inquiry;
pub mod messaging;
pub mod mode;
pub mod pods;
pub mod rules;
pub mod sidecar;
pub mod status;
pub mod store;
pub mod validate;

use crate::{
    cluster::{self, finalizer},
    context::{Agent, Context, Pace},
    nats,
};
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Resource as _,
    core::{PartialObjectMeta, error_boundary::InvalidObject},
    runtime::controller::Action,
};
use rhizon_api::RhizonAgent;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// A healthy agent is looked at this often without a reason: how far it is, and whether its credentials are due.
const CALM: Duration = Duration::from_secs(30);

/// A reconcile that could not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Cluster(cluster::Error),
    #[error(transparent)]
    Messaging(nats::Error),
    #[error(transparent)]
    Workspace(crate::workspace::Error),
}

impl Error {
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Cluster(_) => "cluster",
            Self::Messaging(error) => error.code(),
            Self::Workspace(error) => error.code(),
        }
    }
}

pub async fn reconcile(guard: Arc<Agent>, context: Arc<Context>) -> Result<Action, Error> {
    let agent = match &guard.0 {
        Ok(agent) => agent,
        Err(invalid) => return unreadable(invalid, &context).await,
    };
    let namespace = agent.metadata.namespace.as_deref().unwrap_or_default();
    let api = Api::<RhizonAgent>::namespaced(context.client.clone(), namespace);
    if agent.metadata.deletion_timestamp.is_some() {
        return finish(agent, &api, &context).await;
    }
    finalizer::ensure(&api, &agent.metadata).await.map_err(Error::Cluster)?;
    let inputs = dereference::dereference(agent, &context).await?;
    let outcome = match validate::validate(agent, &inputs) {
        Err(problem) => apply::park(agent, &inputs, problem, &context).await?,
        Ok(valid) => match apply::apply(agent, &inputs, valid, &context).await {
            Err(Error::Cluster(error)) if error.is_refusal() => status::Outcome::Invalid(error.into()),
            result => result?,
        },
    };
    let later = update_status(agent, &api, &outcome, &context).await?;
    Ok(requeue(agent, &outcome, later, &context))
}

async fn finish(agent: &RhizonAgent, api: &Api<RhizonAgent>, context: &Context) -> Result<Action, Error> {
    if !finalizer::is_set(&agent.metadata) {
        return Ok(Action::await_change());
    }
    if let Err(error) = cleanup::cleanup(&agent.metadata, context).await {
        cluster::status::tell_waiting(&context.recorder, &agent.object_ref(&()), &error.to_string()).await;
        return Err(error);
    }
    finalizer::remove(api, &agent.metadata).await.map_err(Error::Cluster)?;
    let uid = agent.metadata.uid.as_deref().unwrap_or_default();
    context.backoff.succeeded(uid);
    context.pace.forget(uid);
    let (namespace, name) = (&agent.metadata.namespace, &agent.metadata.name);
    context.heads.forget(namespace.as_deref().unwrap_or_default(), name.as_deref().unwrap_or_default());
    Ok(Action::await_change())
}

/// An object that does not fit the types: it stops nobody else, and its cleanup needs no more than its name.
async fn unreadable(invalid: &InvalidObject, context: &Context) -> Result<Action, Error> {
    tracing::warn!(agent = invalid.metadata.name, error = invalid.error, "cannot be read");
    let namespace = invalid.metadata.namespace.as_deref().unwrap_or_default();
    let api = Api::<PartialObjectMeta<RhizonAgent>>::namespaced(context.client.clone(), namespace);
    if invalid.metadata.deletion_timestamp.is_some() && finalizer::is_set(&invalid.metadata) {
        cleanup::cleanup(&invalid.metadata, context).await?;
        finalizer::remove(&api, &invalid.metadata).await.map_err(Error::Cluster)?;
    }
    Ok(Action::await_change())
}

/// Writes the status, and returns when to look again for a number that was left out.
async fn update_status(
    agent: &RhizonAgent,
    api: &Api<RhizonAgent>,
    outcome: &status::Outcome,
    context: &Context,
) -> Result<Option<Duration>, Error> {
    let before = agent.status.clone().unwrap_or_default();
    let mut after = status::compute(agent, outcome, Timestamp::now());
    let mut later = None;
    let uid = agent.metadata.uid.as_deref().unwrap_or_default();
    if after.lag != before.lag && !context.pace.take(uid, Instant::now()) {
        after.lag = before.lag;
        later = Some(Pace::INTERVAL);
    }
    if cluster::status::patch(api, agent, &before, &after).await.map_err(Error::Cluster)? {
        let reference = agent.object_ref(&());
        cluster::status::tell(&context.recorder, &reference, &before.conditions, &after.conditions).await;
    }
    Ok(later)
}

fn requeue(agent: &RhizonAgent, outcome: &status::Outcome, later: Option<Duration>, context: &Context) -> Action {
    let key = agent.metadata.uid.as_deref().unwrap_or_default();
    if outcome.needs_retry() {
        return Action::requeue(context.backoff.failed(key));
    }
    context.backoff.succeeded(key);
    let later = if outcome.is_on_its_way() { Some(Pace::INTERVAL) } else { later };
    Action::requeue(later.unwrap_or(CALM))
}
