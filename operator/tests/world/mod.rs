//! An operator with a workspace and an agent, an API server of a few lines, and a real broker.
#![allow(dead_code, reason = "each test needs another part")]

use crate::api_server::ApiServer;
use crate::broker::{Broker, User};
use clap::Parser as _;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Client,
    core::DeserializeGuard,
    runtime::{
        events::{Recorder, Reporter},
        reflector,
        watcher::Event,
    },
};
use rhizon_operator::{
    agent, context,
    context::{Backoff, Context, Pace},
    heads::Heads,
    jwks,
    metrics::Metrics,
    settings::Settings,
    workspace,
};
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) const WORKSPACE: &str = "/apis/rhizon.dev/v1alpha1/rhizonworkspaces/permits";
pub(crate) const AGENT: &str = "/apis/rhizon.dev/v1alpha1/namespaces/permits/rhizonagents/ledger";
pub(crate) const NAMESPACE: &str = "/api/v1/namespaces/permits";
pub(crate) const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/permits/deployments/rhizon-gateway";
pub(crate) const STATEFUL_SET: &str = "/apis/apps/v1/namespaces/permits/statefulsets/agent-ledger";
pub(crate) const SECRET: &str = "/api/v1/namespaces/permits/secrets/agent-ledger";
pub(crate) const POLICY: &str = "/apis/networking.k8s.io/v1/namespaces/permits/networkpolicies/agent-ledger-store";
pub(crate) const GATEWAY_SETTINGS: &str = "/api/v1/namespaces/permits/configmaps/rhizon-gateway";
pub(crate) const GATEWAY_POD: &str = "/api/v1/namespaces/permits/pods/rhizon-gateway-x";
pub(crate) const POD: &str = "/api/v1/namespaces/permits/pods/agent-ledger-0";

#[derive(clap::Parser)]
pub(crate) struct Flags {
    #[command(flatten)]
    settings: Settings,
}

pub(crate) struct World {
    pub(crate) server: ApiServer,
    pub(crate) context: Arc<Context>,
    pub(crate) workspaces: reflector::store::Writer<context::Workspace>,
    pub(crate) broker: Broker,
}

impl World {
    /// With a workspace and an agent that run.
    pub(crate) async fn running() -> Self {
        let mut world = Self::new().await;
        world.workspace().await;
        world.agent().await;
        world.make_pods_ready();
        world.workspace().await;
        world.agent().await;
        world
    }

    pub(crate) async fn new() -> Self {
        let broker = Broker::start("elsewhere").await;
        let (server, client) = ApiServer::start();
        let (reader, workspaces) = reflector::store();
        let context = Arc::new(context(client, &broker, reader));
        server.put(
            WORKSPACE,
            json!({
                "apiVersion": "rhizon.dev/v1alpha1", "kind": "RhizonWorkspace",
                "metadata": {"name": "permits", "uid": "w1", "generation": 1, "resourceVersion": "1"}, "spec": {},
            }),
        );
        server.put(
            AGENT,
            json!({
                "apiVersion": "rhizon.dev/v1alpha1", "kind": "RhizonAgent",
                "metadata": {
                    "name": "ledger", "namespace": "permits", "uid": "a1", "generation": 1, "resourceVersion": "1",
                },
                "spec": {"subscribes": ["evt.permit.recorded"], "container": {"image": "x:1"}},
            }),
        );
        Self { server, context, workspaces, broker }
    }

    /// Reconciles the workspace as the server has it, and returns the writes.
    pub(crate) async fn workspace(&mut self) -> Vec<String> {
        let guard: context::Workspace = self.object(WORKSPACE);
        workspace::reconcile(Arc::new(guard), self.context.clone()).await.unwrap();
        let after: context::Workspace = self.object(WORKSPACE);
        self.workspaces.apply_watcher_event(&Event::Apply(after));
        self.server.writes()
    }

    pub(crate) async fn agent(&self) -> Vec<String> {
        let guard: context::Agent = self.object(AGENT);
        Box::pin(agent::reconcile(Arc::new(guard), self.context.clone())).await.unwrap();
        self.server.writes()
    }

    /// A reconcile that may end anywhere.
    pub(crate) async fn try_agent(&self) {
        let Ok(guard) = serde_json::from_value::<context::Agent>(self.server.get(AGENT).unwrap()) else { return };
        let _ = Box::pin(agent::reconcile(Arc::new(guard), self.context.clone())).await;
    }

    pub(crate) fn object<K>(&self, path: &str) -> DeserializeGuard<K>
    where
        K: serde::de::DeserializeOwned + kube::Resource,
    {
        serde_json::from_value(self.server.get(path).unwrap()).unwrap()
    }

    pub(crate) fn condition(&self, path: &str, r#type: &str) -> (String, String) {
        let object = self.server.get(path).unwrap();
        let conditions = object["status"]["conditions"].as_array().unwrap().clone();
        let condition = conditions.into_iter().find(|condition| condition["type"] == r#type).unwrap();
        (text(&condition["status"]), text(&condition["reason"]))
    }

    /// Somebody with the credentials that the operator made.
    pub(crate) async fn user(&self) -> User {
        let secret: Secret = serde_json::from_value(self.server.get(SECRET).unwrap()).unwrap();
        let file = String::from_utf8(secret.data.unwrap()["user.creds"].0.clone()).unwrap();
        self.broker.connect("agent-ledger", file).await.unwrap()
    }

    /// A sidecar that answers every question with `answer`.
    pub(crate) async fn sidecar(&self, answer: Value) -> tokio::task::JoinHandle<()> {
        let user = self.user().await;
        let mut questions = user.client.subscribe("rq.ledger.status").await.unwrap();
        user.client.flush().await.unwrap();
        tokio::spawn(async move {
            while let Some(question) = questions.next().await {
                let answer = json!({"ok": answer}).to_string();
                user.client.publish(question.reply.unwrap(), answer.into()).await.unwrap();
            }
        })
    }

    pub(crate) fn make_pods_ready(&self) {
        self.server.change(DEPLOYMENT, |deployment| deployment["status"] = json!({"readyReplicas": 1}));
        self.server.put(
            POD,
            json!({
                "metadata": {"name": "agent-ledger-0", "labels": {"rhizon.dev/agent": "ledger"}},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            }),
        );
    }
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

pub(crate) fn context(client: Client, broker: &Broker, workspaces: reflector::Store<context::Workspace>) -> Context {
    let reporter = Reporter { controller: "rhizon-operator".to_owned(), instance: None };
    Context {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        settings: Flags::parse_from(["test"]).settings,
        pool: broker.pool(),
        metrics: Metrics::default(),
        jwks: jwks::Cache::default(),
        backoff: Backoff::default(),
        pace: Pace::default(),
        heads: Heads::default(),
        workspaces,
    }
}

pub(crate) fn without_events(writes: Vec<String>) -> Vec<String> {
    writes.into_iter().filter(|write| !write.contains("/events")).collect()
}
