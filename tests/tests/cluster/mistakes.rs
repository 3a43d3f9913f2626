//! Bad input gets a condition with its reason and an event, and harms nobody else.

use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use rhizon_api::RhizonWorkspace;
use serde_json::{Value, json};

use crate::support::cluster::Cluster;
use crate::support::example;
use crate::support::installation::{BROKER, NAMESPACE, kubectl};
use crate::support::log::Log;
use crate::support::pods::is_ready;
use crate::support::wait::{holds, until};
use crate::support::workspace::{Workspace, reason_of};

const NAME: &str = "test-mistakes";
/// A namespace that belongs to no workspace.
const FOREIGN: &str = "test-mistakes-foreign";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_explained_and_harms_no_neighbour() {
    let cluster = Cluster::ready().await;
    let log = Log::sample();
    let workspace = Workspace::permits(&cluster, NAME).await;
    let uids = pods_of_the_good(&workspace).await;
    cluster.make_namespace(FOREIGN).await;

    agents_that_cannot_run(&workspace).await;
    agents_that_the_api_server_refuses(&workspace).await;
    a_namespace_that_is_taken(&cluster).await;
    an_agent_without_a_workspace(&cluster).await;
    a_broker_that_is_away(&workspace, &log).await;

    workspace.result(&log).await;
    assert_eq!(pods_of_the_good(&workspace).await, uids, "the good agents' pods are the same all the time");
    cluster.delete(&cluster.all::<Namespace>(), FOREIGN).await;
}

async fn pods_of_the_good(workspace: &Workspace) -> Vec<Option<String>> {
    let mut uids = Vec::new();
    for agent in ["permits", "ledger"] {
        let pod: Pod = workspace.pods().get(&format!("agent-{agent}-0")).await.expect("a good agent's pod");
        uids.push(pod.uid());
    }
    uids
}

/// An agent that would work, but for what is laid over it.
fn agent(namespace: &str, name: &str, spec: &Value) -> Value {
    let mut manifest = json!({
        "apiVersion": "rhizon.dev/v1alpha1", "kind": "RhizonAgent",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"subscribes": ["evt.permit.recorded"], "container": {"image": "localhost/rhizon/ledger:0.1.0"}},
    });
    merge(&mut manifest["spec"], spec);
    manifest
}

fn merge(under: &mut Value, over: &Value) {
    match over {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| merge(&mut under[name], value)),
        value => *under = value.clone(),
    }
}

/// Taken by the API server, and said by the operator.
async fn agents_that_cannot_run(workspace: &Workspace) {
    let secret = |name: &str| {
        let source = json!({"secretKeyRef": {"name": name, "key": "user.creds"}});
        json!({"container": {"env": [{"name": "STOLEN", "valueFrom": source}]}})
    };
    let postgres = |name: &str| json!({"store": {"kind": "Postgres", "secretRef": name}});
    let mistakes = [
        ("no-image", json!({"container": {"image": "localhost/rhizon/nothing:1"}}), "ImageNotFound", "nothing:1"),
        ("no-type", json!({"subscribes": ["Permit recorded"]}), "InvalidType", "spec.subscribes[0]"),
        ("steals", secret("agent-permits"), "SecretNotAllowed", "agent-permits"),
        ("no-secret", secret("nowhere"), "SecretMissing", "nowhere"),
        ("no-database", postgres("nowhere"), "StoreSecretMissing", "nowhere"),
        ("not-a-database", postgres("agent-permits"), "StoreSecretNotAllowed", "agent-permits"),
        (
            "too-big",
            json!({"container": {"resources": {"limits": {"memory": "100Gi"}}}}),
            "QuotaExceeded",
            "limits.memory",
        ),
    ];
    for (name, spec, _, _) in &mistakes {
        workspace.cluster.apply(&agent(NAME, name, spec)).await;
    }
    for (name, _, reason, names) in &mistakes {
        let message = workspace.agent_says(name, reason).await;
        assert!(message.contains(names), "{name}: {message:?} does not name {names}");
        event(&workspace.cluster, NAME, "RhizonAgent", name, reason).await;
        assert!(
            workspace.pods().get_opt(&format!("agent-{name}-0")).await.expect("an answer").is_none()
                || *name == "no-image"
        );
    }
    for (name, ..) in &mistakes {
        workspace.cluster.delete(&workspace.agents(), name).await;
    }
    for (name, ..) in &mistakes {
        workspace.cluster.gone(&workspace.agents(), name, Duration::from_mins(1)).await;
    }
}

/// The schema itself says no, to whoever applies it.
async fn agents_that_the_api_server_refuses(workspace: &Workspace) {
    let host = json!([{"name": "root", "hostPath": {"path": "/"}}]);
    for (spec, says) in [
        (json!({"volumes": host}), "spec.volumes is not supported"),
        (
            json!({"container": {"volumeMounts": [{"name": "root", "mountPath": "/host"}]}}),
            "volumeMounts is not supported",
        ),
        (json!({"container": {"securityContext": {"privileged": true}}}), "securityContext is not supported"),
        (json!({"container": {"envFrom": [{"secretRef": {"name": "agent-permits"}}]}}), "envFrom is not supported"),
        (json!({"shards": 4}), "a SQLite store has one shard"),
        (json!({"replicas": 2}), "a SQLite store belongs to one pod"),
        (json!({"store": {"kind": "Postgres"}}), "a Postgres store needs spec.store.secretRef"),
        (json!({"store": {"kind": "JetStream", "secretRef": "x"}}), "spec.store.secretRef is for Postgres only"),
    ] {
        let refused = workspace.cluster.try_apply(&agent(NAME, "climber", &spec)).await.expect_err("a refusal");
        assert!(refused.contains(says), "{refused}");
    }
}

async fn a_namespace_that_is_taken(cluster: &Cluster) {
    let name = "test-mistakes-thief";
    let workspaces = cluster.all::<RhizonWorkspace>();
    let mut manifest = example::workspace(name);
    manifest["spec"]["namespace"] = json!(FOREIGN);
    cluster.apply(&manifest).await;
    until("the thief is told", Duration::from_mins(1), async || {
        let live = workspaces.get(name).await.map_err(|error| error.to_string())?;
        reason_of(&live.status.unwrap_or_default().conditions, "NamespaceTaken")
    })
    .await;
    event(cluster, "default", "RhizonWorkspace", name, "NamespaceTaken").await;
    cluster.delete(&workspaces, name).await;
    cluster.gone(&workspaces, name, Duration::from_mins(1)).await;
    let namespace = cluster.all::<Namespace>().get(FOREIGN).await.expect("the namespace is left alone");
    assert!(namespace.metadata.deletion_timestamp.is_none() && namespace.annotations().is_empty(), "{namespace:?}");
}

async fn an_agent_without_a_workspace(cluster: &Cluster) {
    cluster.apply(&agent(FOREIGN, "stray", &json!({}))).await;
    let agents = cluster.within::<rhizon_api::RhizonAgent>(FOREIGN);
    until("the stray is told", Duration::from_mins(1), async || {
        let live = agents.get("stray").await.map_err(|error| error.to_string())?;
        reason_of(&live.status.unwrap_or_default().conditions, "NoWorkspace")
    })
    .await;
    event(cluster, FOREIGN, "RhizonAgent", "stray", "NoWorkspace").await;
    assert!(cluster.within::<StatefulSet>(FOREIGN).get_opt("agent-stray").await.expect("an answer").is_none());
    cluster.delete(&agents, "stray").await;
    cluster.gone(&agents, "stray", Duration::from_mins(1)).await;
}

/// Brings the broker back, also when the test fails.
struct Broker;

impl Broker {
    async fn scale(cluster: &Cluster, replicas: u32) {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        let sets = cluster.within::<StatefulSet>(NAMESPACE);
        sets.patch("rhizon-nats", &PatchParams::default(), &patch).await.expect("scaling the broker");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let args = ["scale", "statefulset", "rhizon-nats", "--replicas=1", "-n", NAMESPACE];
        let _ = kubectl().args(args).output();
    }
}

/// What is published meanwhile waits, for as long as it is told to.
async fn a_broker_that_is_away(workspace: &Workspace, log: &Log) {
    let cluster = &workspace.cluster;
    let broker = Broker;
    Broker::scale(cluster, 0).await;
    until("the broker is away", Duration::from_mins(1), async || {
        let pods = cluster.pods(NAMESPACE, BROKER).await;
        holds(pods.is_empty(), "its pod is there")
    })
    .await;
    until("no gateway is ready", Duration::from_mins(1), async || {
        let gateways = cluster.pods(NAME, "app.kubernetes.io/component=gateway").await;
        holds(!gateways.is_empty() && !gateways.iter().any(is_ready), "one is")
    })
    .await;
    let file = log.events.to_str().expect("a path in UTF-8");
    let refused = workspace.rhizon().try_call(&["publish", file, "--patience", "0s"]).await;
    assert_eq!(refused.code, Some(3), "{}", refused.stderr);
    assert!(refused.stderr.contains("has no gateway that is ready"), "{}", refused.stderr);
    let publishing = workspace.rhizon().publishing(&log.events);
    cluster.apply(&agent(NAME, "late", &json!({}))).await;
    workspace.agent_says("late", "MessagingUnavailable").await;
    event(cluster, NAME, "RhizonAgent", "late", "MessagingUnavailable").await;
    drop(broker);
    cluster.wait_for_pods(NAMESPACE, BROKER).await;
    workspace.agent_is_ready("late").await;
    publishing.done().await;
    cluster.delete(&workspace.agents(), "late").await;
    cluster.gone(&workspace.agents(), "late", Duration::from_mins(1)).await;
}

/// There is a Kubernetes event about the object with this reason.
async fn event(cluster: &Cluster, namespace: &str, kind: &str, name: &str, reason: &str) {
    until(&format!("an event {reason} about {name}"), Duration::from_secs(30), async || {
        let events = cluster.events(namespace, kind, name).await;
        holds(events.iter().any(|(found, _)| found == reason), format!("{events:?}"))
    })
    .await;
}
