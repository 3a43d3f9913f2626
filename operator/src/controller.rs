//! Both controllers: what each watches, and what happens with an error.
#![expect(clippy::needless_pass_by_value, reason = "kube hands its objects over by value")]

use crate::{
    agent,
    context::{Agent, Backoff, Context, Pace, Workspace},
    heads::Heads,
    jwks,
    metrics::Metrics,
    nats::pool::Pool,
    settings::Settings,
    workspace,
};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    core::v1::{ConfigMap, LimitRange, Namespace, Pod, ResourceQuota, Secret, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    rbac::v1::Role,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    core::PartialObjectMeta,
    runtime::{
        Controller, PredicateConfig, WatchStreamExt as _,
        controller::{self, Action, Config},
        events::{Recorder, Reporter},
        predicates,
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use rhizon_api::{RhizonAgent, RhizonWorkspace, labels};
use serde::de::DeserializeOwned;
use std::{fmt::Debug, sync::Arc, time::Duration};

/// Changes that come together are handled together.
const DEBOUNCE: Duration = Duration::from_millis(100);
const CONCURRENCY: u16 = 16;

/// Runs both controllers until the process is asked to stop.
pub async fn run(client: Client, settings: Settings, pool: Pool, metrics: Metrics) {
    let workspaces =
        Controller::new(Api::<Workspace>::all(client.clone()), watcher::Config::default()).with_config(config());
    let agents = Controller::new(Api::<Agent>::all(client.clone()), watcher::Config::default()).with_config(config());
    let (workspace_store, agent_store) = (workspaces.store(), agents.store());
    let reporter = Reporter { controller: "rhizon-operator".to_owned(), instance: Some(settings.identity.clone()) };
    let context = Arc::new(Context {
        recorder: Recorder::new(client.clone(), reporter),
        client: client.clone(),
        settings,
        pool,
        metrics,
        jwks: jwks::Cache::default(),
        backoff: Backoff::default(),
        pace: Pace::default(),
        heads: Heads::default(),
        workspaces: workspace_store.clone(),
    });
    let workspaces = watch_for_workspaces(workspaces, &client, workspace_store.clone())
        .graceful_shutdown_on(stop())
        .run(reconcile_workspace, workspace_failed, context.clone());
    let agents = watch_for_agents(agents, &client, agent_store).graceful_shutdown_on(stop()).run(
        reconcile_agent,
        agent_failed,
        context,
    );
    tokio::join!(drive("workspace", workspaces), drive("agent", agents));
}

fn config() -> Config {
    Config::default().debounce(DEBOUNCE).concurrency(CONCURRENCY)
}

/// A workspace is looked at again when one of its objects changes, and when an agent comes or goes.
fn watch_for_workspaces(
    mut controller: Controller<Workspace>,
    client: &Client,
    store: Store<Workspace>,
) -> Controller<Workspace> {
    fn ours<K: Resource<DynamicType = ()>>(object: PartialObjectMeta<K>) -> Option<ObjectRef<Workspace>> {
        object.labels().get(labels::WORKSPACE).map(|name| ObjectRef::new(name))
    }
    macro_rules! watch {
        ($($kind:ty),*) => {
            $(controller = controller.watches_stream(changes::<$kind>(client, labels::WORKSPACE), ours);)*
        };
    }
    watch!(
        Namespace,
        Deployment,
        NetworkPolicy,
        ResourceQuota,
        LimitRange,
        Role,
        Secret,
        ConfigMap,
        Service,
        ServiceAccount
    );
    // The generation alone: an agent's status is no news for its workspace.
    let agents = watcher(Api::<PartialObjectMeta<RhizonAgent>>::all(client.clone()), watcher::Config::default())
        .touched_objects()
        .predicate_filter(predicates::generation, PredicateConfig::default());
    controller.watches_stream(agents, move |agent| {
        let namespace = agent.namespace().unwrap_or_default();
        let owners = store.state().into_iter().filter_map(move |guard| {
            let workspace = guard.0.as_ref().ok()?;
            (workspace.namespace_name() == namespace).then(|| ObjectRef::from_obj(&*guard))
        });
        owners.collect::<Vec<_>>()
    })
}

/// An agent is looked at again when one of its objects or pods changes, and when its workspace does.
fn watch_for_agents(mut controller: Controller<Agent>, client: &Client, store: Store<Agent>) -> Controller<Agent> {
    fn ours<K: Resource<DynamicType = ()>>(object: PartialObjectMeta<K>) -> Option<ObjectRef<Agent>> {
        let namespace = object.namespace()?;
        object.labels().get(labels::AGENT).map(|name| ObjectRef::new(name).within(&namespace))
    }
    macro_rules! watch {
        ($($kind:ty),*) => {
            $(controller = controller.watches_stream(changes::<$kind>(client, labels::AGENT), ours);)*
        };
    }
    watch!(StatefulSet, Pod, Secret, ConfigMap, Service, ServiceAccount, NetworkPolicy);
    controller.watches(Api::<Workspace>::all(client.clone()), watcher::Config::default(), move |guard| {
        let namespace = guard.0.as_ref().ok().map(|workspace: &RhizonWorkspace| workspace.namespace_name().to_owned());
        let agents = store.state().into_iter().filter(move |agent| agent.meta().namespace == namespace);
        agents.map(|agent| ObjectRef::from_obj(&*agent)).collect::<Vec<_>>()
    })
}

/// Changes of all objects of a kind that carry a label, by their metadata.
fn changes<K>(
    client: &Client,
    label: &str,
) -> impl Stream<Item = Result<PartialObjectMeta<K>, watcher::Error>> + Send + 'static
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watcher(Api::<PartialObjectMeta<K>>::all(client.clone()), watcher::Config::default().labels(label))
        .touched_objects()
}

async fn reconcile_workspace(object: Arc<Workspace>, context: Arc<Context>) -> Result<Action, workspace::Error> {
    let action = workspace::reconcile(object, context.clone()).await?;
    context.metrics.count("workspace", "ok");
    Ok(action)
}

async fn reconcile_agent(object: Arc<Agent>, context: Arc<Context>) -> Result<Action, agent::Error> {
    // Without all workspaces in sight an agent would seem to have none.
    if context.workspaces.wait_until_ready().await.is_err() {
        return Ok(Action::await_change());
    }
    let action = Box::pin(agent::reconcile(object, context.clone())).await?;
    context.metrics.count("agent", "ok");
    Ok(action)
}

fn workspace_failed(object: Arc<Workspace>, error: &workspace::Error, context: Arc<Context>) -> Action {
    context.metrics.count("workspace", error.code());
    retry(object.meta().uid.as_deref(), &context)
}

fn agent_failed(object: Arc<Agent>, error: &agent::Error, context: Arc<Context>) -> Action {
    context.metrics.count("agent", error.code());
    retry(object.meta().uid.as_deref(), &context)
}

fn retry(uid: Option<&str>, context: &Context) -> Action {
    Action::requeue(context.backoff.failed(uid.unwrap_or_default()))
}

async fn drive<T, E, Q>(kind: &'static str, results: impl Stream<Item = Result<T, controller::Error<E, Q>>>)
where
    E: std::error::Error + 'static,
    Q: std::error::Error + 'static,
{
    let failures = results.inspect_err(|error| {
        use std::error::Error as _;
        // The last word about an object that is gone.
        if matches!(error, controller::Error::ObjectNotFound(_)) {
            return;
        }
        let cause = error.source().map(ToString::to_string);
        tracing::warn!(kind, %error, cause, "reconciling failed; it is tried again");
    });
    failures.for_each(|_| async {}).await;
}

/// Resolves on SIGTERM or Ctrl-C.
pub async fn stop() {
    let terminated = async {
        if let Ok(mut signal) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            signal.recv().await;
        }
    };
    tokio::select! {
        () = terminated => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
