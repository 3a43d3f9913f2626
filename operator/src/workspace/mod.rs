//! `RhizonWorkspace`: a namespace with its limits and policies, two broker accounts, streams and a gateway.

pub mod apply;
pub mod build;
pub mod cleanup;
pub mod dereference;
pub mod nudge;
pub mod status;
pub mod validate;

use crate::{
    cluster::{self, finalizer, found},
    context::{Context, Workspace},
    nats,
};
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Resource as _, runtime::controller::Action};
use rhizon_api::{RhizonWorkspace, conditions};
use std::{sync::Arc, time::Duration};

/// A healthy workspace is looked at this often without a reason: for events that may go, the ends of journals, new token
/// keys, and drift in the broker.
const CALM: Duration = Duration::from_mins(1);

/// A reconcile that could not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Cluster(cluster::Error),
    #[error(transparent)]
    Messaging(nats::Error),
}

impl Error {
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Cluster(_) => "cluster",
            Self::Messaging(error) => error.code(),
        }
    }
}

pub async fn reconcile(guard: Arc<Workspace>, context: Arc<Context>) -> Result<Action, Error> {
    let api = Api::<RhizonWorkspace>::all(context.client.clone());
    let workspace = match &guard.0 {
        Ok(workspace) => workspace,
        Err(invalid) => return unreadable(invalid, &context).await,
    };
    if workspace.metadata.deletion_timestamp.is_some() {
        return finish(workspace, &api, &context).await;
    }
    finalizer::ensure(&api, &workspace.metadata).await.map_err(Error::Cluster)?;
    let inputs = dereference::dereference(workspace, &context).await.map_err(Error::Cluster)?;
    let outcome = match validate::validate(workspace, &inputs, &context.settings.namespace) {
        Err(problem) => status::Outcome::Invalid(problem),
        Ok(access) => match apply::apply(workspace, &inputs, access, &context).await {
            Err(Error::Cluster(error)) if error.is_refusal() => status::Outcome::Invalid(error.into()),
            result => result?,
        },
    };
    update_status(workspace, &api, &outcome, &inputs, &context).await?;
    Ok(requeue(workspace, &outcome, &context))
}

async fn finish(workspace: &RhizonWorkspace, api: &Api<RhizonWorkspace>, context: &Context) -> Result<Action, Error> {
    if !finalizer::is_set(&workspace.metadata) {
        return Ok(Action::await_change());
    }
    let progress = cleanup::cleanup(&cleanup::Target::of(workspace), context).await;
    if let Err(error) = &progress {
        cluster::status::tell_waiting(&context.recorder, &workspace.object_ref(&()), &error.to_string()).await;
    }
    match progress? {
        cleanup::Progress::Waiting => Ok(Action::requeue(Duration::from_secs(2))),
        cleanup::Progress::Done => {
            finalizer::remove(api, &workspace.metadata).await.map_err(Error::Cluster)?;
            context.backoff.succeeded(workspace.metadata.uid.as_deref().unwrap_or_default());
            Ok(Action::await_change())
        }
    }
}

/// An object that does not fit the types: it stops nobody else, and goes when it is deleted.
async fn unreadable(invalid: &kube::core::error_boundary::InvalidObject, context: &Context) -> Result<Action, Error> {
    tracing::warn!(workspace = invalid.metadata.name, error = invalid.error, "cannot be read");
    let api = Api::<kube::core::PartialObjectMeta<RhizonWorkspace>>::all(context.client.clone());
    if invalid.metadata.deletion_timestamp.is_some() && finalizer::is_set(&invalid.metadata) {
        // Without a readable policy everything is kept.
        finalizer::remove(&api, &invalid.metadata).await.map_err(Error::Cluster)?;
    }
    Ok(Action::await_change())
}

async fn update_status(
    workspace: &RhizonWorkspace,
    api: &Api<RhizonWorkspace>,
    outcome: &status::Outcome,
    inputs: &dereference::Inputs,
    context: &Context,
) -> Result<(), Error> {
    let before = workspace.status.clone().unwrap_or_default();
    let seen = context.heads.of(workspace.namespace_name());
    let after = status::compute(workspace, outcome, &inputs.agents, &seen, Timestamp::now());
    if cluster::status::patch(api, workspace, &before, &after).await.map_err(Error::Cluster)? {
        let reference = workspace.object_ref(&());
        cluster::status::tell(&context.recorder, &reference, &before.conditions, &after.conditions).await;
    }
    Ok(())
}

fn requeue(workspace: &RhizonWorkspace, outcome: &status::Outcome, context: &Context) -> Action {
    let key = workspace.metadata.uid.clone().unwrap_or_default();
    if outcome.needs_retry() {
        return Action::requeue(context.backoff.failed(&key));
    }
    context.backoff.succeeded(&key);
    Action::requeue(CALM)
}

/// Whether a workspace is Ready, for those who depend on it.
pub fn is_ready(workspace: &RhizonWorkspace) -> bool {
    let conditions = workspace.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions::find(conditions, conditions::MESSAGING_READY).is_some_and(|condition| condition.status == "True")
}

/// Name of the Secret in the operator's namespace that holds a workspace's account keys.
pub fn keys_secret(workspace: &str) -> String {
    format!("rhizon-workspace-{workspace}")
}

/// The account keys of a workspace, if it has any yet.
pub async fn read_keys(workspace: &str, context: &Context) -> Result<Option<nats::keys::Workspace>, Error> {
    use k8s_openapi::api::core::v1::Secret;
    let name = keys_secret(workspace);
    let api = Api::<Secret>::namespaced(context.client.clone(), &context.settings.namespace);
    let secret = found(api.get(&name).await).map_err(|e| Error::Cluster(cluster::Error::new("reading", &name, e)))?;
    secret
        .map(|secret| nats::keys::Workspace::from_seeds(&crate::install::seeds(&secret)))
        .transpose()
        .map_err(Error::Messaging)
}
