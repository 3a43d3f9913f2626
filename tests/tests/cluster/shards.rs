//! Shards over several pods: they move when pods come, go and die, and no event is lost, repeated or overtaken on the way.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::support::cluster::Cluster;
use crate::support::log::Log;
use crate::support::wait::{holds, until};
use crate::support::workspace::Workspace;
use crate::support::{example, node, pods};

const SHARDS: usize = 4;
const PATIENCE: Duration = Duration::from_mins(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_of_a_jetstream_store_move_and_nothing_is_lost() {
    let cluster = Cluster::ready().await;
    let workspace = Workspace::bare(&cluster, "test-shards", json!({})).await;
    apply_agents(&workspace, &json!({"kind": "JetStream"})).await;
    move_shards(&workspace, &[1, 2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_of_a_postgres_store_move_and_nothing_is_lost() {
    let (name, databases) = ("test-shards-postgres", "test-shards-databases");
    let cluster = Cluster::ready().await;
    cluster.make_namespace(databases).await;
    let workspace = Workspace::bare(&cluster, name, json!({})).await;
    let (secret, server): (Vec<Value>, Vec<Value>) =
        example::postgres(name, databases).into_iter().partition(|manifest| manifest["kind"] == "Secret");
    let store = json!({"kind": "Postgres", "secretRef": secret[0]["metadata"]["name"]});
    cluster.apply(&secret[0]).await;
    apply_agents(&workspace, &store).await;
    let message = workspace.agent_says("permits", "SidecarNotReady").await;
    assert!(message.contains("error communicating with database"), "{message}");
    for manifest in &server {
        cluster.apply(manifest).await;
    }
    workspace.agent_is_ready("permits").await;
    for pod in cluster.pods(name, "rhizon.dev/agent=permits").await {
        let restarts = pods::container(&pod, "rhizon").map(|sidecar| sidecar.restart_count);
        assert_eq!(restarts, Some(0), "{} waited for its database", pod.name_any());
    }
    move_shards(&workspace, &[]).await;

    // Made anew, the workspace has other streams, and the database still has the positions in the old ones.
    drop(workspace);
    let workspace = Workspace::bare(&cluster, name, json!({})).await;
    cluster.apply(&secret[0]).await;
    apply_agents(&workspace, &store).await;
    until("the old database is refused", PATIENCE, async || {
        let message = workspace.agent_says("permits", "SidecarNotReady").await;
        holds(message.contains("belongs to another workspace"), message)
    })
    .await;
    cluster.delete(&cluster.all::<Namespace>(), databases).await;
}

/// A log goes through the example while `permits` has two pods, three, then so many, the last of which loses one.
async fn move_shards(workspace: &Workspace, then: &[i32]) {
    let log = Log::real();
    let parts = log.parts(4 + then.len());
    for agent in ["permits", "ledger"] {
        workspace.agent_is_ready(agent).await;
    }

    let publishing = workspace.rhizon().publishing(&parts[0]);
    scale(workspace, 3).await;
    publishing.done().await;
    every_pod_has_a_share(workspace, &parts[..2]).await;

    for (replicas, part) in then.iter().zip(&parts[2..]) {
        let publishing = workspace.rhizon().publishing(part);
        scale(workspace, *replicas).await;
        publishing.done().await;
    }
    let publishing = workspace.rhizon().publishing(&parts[2 + then.len()]);
    node::kill(&workspace.cluster, workspace.name, "agent-permits-1", "rhizon").await;
    publishing.done().await;
    every_pod_has_a_share(workspace, &parts).await;

    for (agent, expected) in ["permits", "ledger"].into_iter().zip(log.states()) {
        assert_eq!(workspace.rhizon().states(agent).await.as_ref(), Ok(&expected), "states of {agent}");
    }
    assert_eq!(workspace.rhizon().verify_shards("permits").await.len(), SHARDS);
}

async fn apply_agents(workspace: &Workspace, store: &Value) {
    for mut manifest in example::inhabitants(workspace.name) {
        if manifest["metadata"]["name"] == "permits" {
            manifest["spec"]["store"] = store.clone();
            manifest["spec"]["shards"] = json!(SHARDS);
            manifest["spec"]["replicas"] = json!(2);
        }
        workspace.cluster.apply(&manifest).await;
    }
}

/// Returns when all pods are those of the new number.
async fn scale(workspace: &Workspace, replicas: i32) {
    workspace.patch_agent("permits", json!({"replicas": replicas})).await;
    let sets = workspace.cluster.within::<StatefulSet>(workspace.name);
    until(&format!("permits has {replicas} pods"), PATIENCE, async || {
        let set = sets.get("agent-permits").await.map_err(|error| error.to_string())?;
        let is_seen = set.spec.as_ref().is_some_and(|spec| spec.replicas == Some(replicas));
        let status = set.status.unwrap_or_default();
        let is_latest = status.observed_generation == set.metadata.generation;
        let counts = [Some(status.replicas), status.updated_replicas, status.ready_replicas];
        holds(is_seen && is_latest && counts == [Some(replicas); 3], format!("{status:?}"))
    })
    .await;
    workspace.agent_is_ready("permits").await;
}

/// Publishes the last part, of which each pod decides some, and all of them each event once.
async fn every_pod_has_a_share(workspace: &Workspace, parts: &[PathBuf]) {
    let (last, sent) = parts.split_last().expect("a part");
    let sent: u64 = sent.iter().map(|part| events(part)).sum();
    workspace.effects(sent).await;
    let before = decided(workspace).await;
    workspace.rhizon().publish(last).await;
    workspace.effects(sent + events(last)).await;
    let after = decided(workspace).await;
    let shares: Vec<u64> = after.iter().map(|(pod, count)| count - before[pod]).collect();
    assert!(shares.iter().all(|share| *share > 0), "before {before:?}, after {after:?}");
    assert_eq!(shares.iter().sum::<u64>(), events(last), "before {before:?}, after {after:?}");
}

fn events(part: &Path) -> u64 {
    fs::read_to_string(part).expect("a part of the log").lines().count() as u64
}

/// How many events each pod has decided since it started, by its own metrics.
async fn decided(workspace: &Workspace) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for pod in workspace.cluster.pods(workspace.name, "rhizon.dev/agent=permits").await {
        let metrics = pods::metrics(&workspace.pods(), &pod.name_any()).await.expect("the sidecar's metrics");
        let of = |line: &str| line.strip_prefix("rhizon_events_decided_total")?.rsplit(' ').next()?.parse::<u64>().ok();
        counts.insert(pod.name_any(), metrics.lines().filter_map(of).sum());
    }
    counts
}
