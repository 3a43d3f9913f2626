//! The end of agents and workspaces: `Retain` keeps the data, `Delete` leaves nothing, and a restart of the operator in
//! the middle changes neither.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolume, PersistentVolumeClaim, Secret, Service};
use kube::ResourceExt as _;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::support::broker::Broker;
use crate::support::cluster::Cluster;
use crate::support::example;
use crate::support::installation::{NAMESPACE, OPERATOR};
use crate::support::log::Log;
use crate::support::wait::{holds, until};
use crate::support::workspace::Workspace;

const SOON: Duration = Duration::from_mins(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delete_leaves_nothing_though_the_operator_is_restarted() {
    let cluster = Cluster::ready().await;
    let (name, log) = ("test-deleted", Log::sample());
    let workspace = Workspace::permits(&cluster, name).await;
    workspace.rhizon().publish(&log.events).await;
    workspace.effects(log.total()).await;
    let broker = Broker::reach(&cluster).await;
    let keys = broker.workspace_keys(name).await;
    assert_eq!(broker.knows(&keys).await, [true, true]);

    // One agent first: its store goes, its neighbour works on.
    let volume = volume_of(&cluster, name, "store-agent-ledger-0").await;
    cluster.delete(&workspace.agents(), "ledger").await;
    cluster.gone(&workspace.agents(), "ledger", SOON).await;
    nothing_of_agent(&cluster, name, "ledger").await;
    cluster.gone(&cluster.within::<PersistentVolumeClaim>(name), "store-agent-ledger-0", SOON).await;
    cluster.gone(&cluster.all::<PersistentVolume>(), &volume, SOON).await;
    assert_eq!(consumers(&broker.contents(&keys).await), ["agent-permits"]);
    assert_eq!(workspace.rhizon().states("permits").await, Ok(log.states()[0].clone()));

    let volume = volume_of(&cluster, name, "store-agent-permits-0").await;
    workspace.delete().await;
    cluster.delete_pods(NAMESPACE, OPERATOR, 0).await;
    workspace.is_gone().await;
    assert!(cluster.all::<Namespace>().get_opt(name).await.expect("an answer").is_none(), "the namespace is left");
    let secret = rhizon_operator::workspace::keys_secret(name);
    assert!(
        cluster.within::<Secret>(NAMESPACE).get_opt(&secret).await.expect("an answer").is_none(),
        "{secret} is left"
    );
    cluster.gone(&cluster.all::<PersistentVolume>(), &volume, SOON).await;
    assert_eq!(broker.knows(&keys).await, [false, false], "the broker still knows the accounts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retain_keeps_the_data_though_the_operator_is_restarted() {
    let cluster = Cluster::ready().await;
    let (name, log) = ("test-retained", Log::sample());
    let workspace = Workspace::permits(&cluster, name).await;
    workspace.rhizon().publish(&log.events).await;
    let roots = workspace.result(&log).await;
    policy(&workspace, "Retain").await;
    let broker = Broker::reach(&cluster).await;
    let keys = broker.workspace_keys(name).await;
    let streams = broker.contents(&keys).await["streams"].clone();

    // An agent goes and comes back to its store.
    cluster.delete(&workspace.agents(), "ledger").await;
    cluster.gone(&workspace.agents(), "ledger", SOON).await;
    nothing_of_agent(&cluster, name, "ledger").await;
    volume_of(&cluster, name, "store-agent-ledger-0").await;
    settle(&workspace).await;
    assert_eq!(workspace.result(&log).await, roots);

    workspace.delete().await;
    cluster.delete_pods(NAMESPACE, OPERATOR, 0).await;
    workspace.is_gone().await;
    until("nothing runs any more", SOON, async || {
        let pods = cluster.pods(name, "app.kubernetes.io/managed-by=rhizon").await;
        holds(pods.is_empty(), format!("{} pods", pods.len()))
    })
    .await;
    assert_eq!(left::<Deployment>(&cluster, name).await, Vec::<String>::new());
    assert_eq!(left::<Secret>(&cluster, name).await, Vec::<String>::new());
    for agent in ["permits", "ledger"] {
        volume_of(&cluster, name, &format!("store-agent-{agent}-0")).await;
    }
    assert_eq!(broker.contents(&keys).await["streams"], streams);

    // Who takes over the namespace goes on with what is there.
    let mut again = example::workspace(name);
    again["spec"]["adoptNamespace"] = json!(true);
    cluster.apply(&again).await;
    workspace.is_ready().await;
    settle(&workspace).await;
    assert_eq!(workspace.result(&log).await, roots);
    workspace.clear().await;
}

/// The example's agents are there and ready.
async fn settle(workspace: &Workspace) {
    for manifest in example::inhabitants(workspace.name) {
        workspace.cluster.apply(&manifest).await;
    }
    for agent in ["permits", "ledger"] {
        workspace.agent_is_ready(agent).await;
    }
}

async fn policy(workspace: &Workspace, policy: &str) {
    let patch = Patch::Merge(json!({"spec": {"deletionPolicy": policy}}));
    let patched = workspace.object().patch(workspace.name, &PatchParams::default(), &patch).await;
    patched.expect("changing the workspace");
}

/// All objects that Kubernetes removes with their owner.
async fn nothing_of_agent(cluster: &Cluster, namespace: &str, agent: &str) {
    let object = format!("agent-{agent}");
    cluster.gone(&cluster.within::<StatefulSet>(namespace), &object, SOON).await;
    cluster.gone(&cluster.within::<Secret>(namespace), &object, SOON).await;
    cluster.gone(&cluster.within::<ConfigMap>(namespace), &object, SOON).await;
    cluster.gone(&cluster.within::<Service>(namespace), &object, SOON).await;
    until(&format!("the pods of {agent} are gone"), SOON, async || {
        let pods = cluster.pods(namespace, &format!("rhizon.dev/agent={agent}")).await;
        holds(pods.is_empty(), format!("{} are left", pods.len()))
    })
    .await;
}

/// The volume behind a claim, which must be there.
async fn volume_of(cluster: &Cluster, namespace: &str, claim: &str) -> String {
    let found = cluster.within::<PersistentVolumeClaim>(namespace).get(claim).await;
    let found = found.unwrap_or_else(|error| panic!("claim {claim}: {error}"));
    assert!(found.metadata.deletion_timestamp.is_none(), "{claim} is being deleted");
    found.spec.and_then(|spec| spec.volume_name).expect("a claim with a volume")
}

/// Names of Rhizon's objects of a kind.
async fn left<K>(cluster: &Cluster, namespace: &str) -> Vec<String>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let ours = ListParams::default().labels("app.kubernetes.io/managed-by=rhizon");
    let list = cluster.within::<K>(namespace).list(&ours).await.expect("listing objects");
    list.items.into_iter().map(|object| object.name_any()).collect()
}

fn consumers(contents: &Value) -> Vec<&str> {
    let consumers = contents["consumers"].as_array().expect("a list");
    consumers.iter().map(|consumer| consumer[0]["durable_name"].as_str().expect("a name")).collect()
}
