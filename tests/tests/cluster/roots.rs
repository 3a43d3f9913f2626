//! Determinism and exactly-once effects: whatever happens to its processes, a chain of agents decides the same.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::support::cluster::Cluster;
use crate::support::installation::{BROKER, NAMESPACE, OPERATOR};
use crate::support::local::{self, Roots};
use crate::support::log::Log;
use crate::support::wait::{holds, until};
use crate::support::workspace::Workspace;
use crate::support::{node, pods};

/// Events carry their workspace's name, so runs that are to have equal roots share it.
const NAME: &str = "test-roots";

/// Those of local mode, which has no broker, no pods and no operator.
async fn expected_roots(log: &Log) -> &'static Roots {
    static ROOTS: OnceCell<Roots> = OnceCell::const_new();
    ROOTS.get_or_init(|| local::roots(NAME, log)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_calm_run_has_the_roots_of_local_mode() {
    let cluster = Cluster::ready().await;
    let log = Log::real();
    let workspace = Workspace::permits(&cluster, NAME).await;
    workspace.rhizon().publish(&log.events).await;
    assert_eq!(&workspace.result(&log).await, expected_roots(&log).await);
}

#[derive(Clone, Copy, Debug)]
enum Victim {
    /// The process is killed with SIGKILL.
    Sidecar(&'static str),
    /// The pod is deleted.
    Agent(&'static str),
    BrokerProcess,
    BrokerPod,
    Operators,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_in_which_everything_is_killed_has_the_same_roots() {
    use Victim::{Agent, BrokerPod, BrokerProcess, Operators, Sidecar};
    let cluster = Cluster::ready().await;
    let log = Log::real();
    let workspace = Workspace::permits(&cluster, NAME).await;
    let victims = [
        Sidecar("permits"),
        BrokerProcess,
        Agent("permits"),
        Operators,
        Sidecar("ledger"),
        Agent("ledger"),
        Sidecar("permits"),
        BrokerPod,
        Operators,
        Agent("permits"),
        Sidecar("ledger"),
        Agent("ledger"),
    ];
    let parts = log.parts(victims.len());
    for (round, (victim, part)) in victims.into_iter().zip(&parts).enumerate() {
        let publishing = workspace.rhizon().publishing(part);
        // Arbitrary, and the same in every run: the steps that are hit differ all the same.
        tokio::time::sleep(Duration::from_millis(150 + 137 * (round as u64 % 5))).await;
        kill(&workspace, victim).await;
        publishing.done().await;
    }
    // A pod that is deleted goes on for its grace, and a sidecar that stops answers no questions.
    cluster.wait_for_pods(NAME, "rhizon.dev/agent").await;
    assert_eq!(&workspace.result(&log).await, expected_roots(&log).await);
    cluster.wait_for_pods(NAMESPACE, OPERATOR).await;
    workspace.is_ready().await;
}

async fn kill(workspace: &Workspace, victim: Victim) {
    let cluster = &workspace.cluster;
    match victim {
        Victim::Sidecar(agent) => node::kill(cluster, NAME, &pod(agent), "rhizon").await,
        Victim::Agent(agent) => cluster.delete_pods(NAME, &format!("rhizon.dev/agent={agent}"), 30).await,
        Victim::BrokerProcess => node::kill(cluster, NAMESPACE, "rhizon-nats-0", "nats").await,
        // With a grace of a second: Kubernetes makes the next pod only when this one is gone from its disk.
        Victim::BrokerPod => cluster.delete_pods(NAMESPACE, BROKER, 1).await,
        Victim::Operators => cluster.delete_pods(NAMESPACE, OPERATOR, 0).await,
    }
}

fn pod(agent: &str) -> String {
    format!("agent-{agent}-0")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_sidecars_with_one_identity_one_stops_and_the_roots_are_the_same() {
    let cluster = Cluster::ready().await;
    let log = Log::real();
    let workspace = Workspace::permits(&cluster, NAME).await;
    let original = workspace.pods().get(&pod("permits")).await.expect("the agent's pod");
    let parts = log.parts(4);
    let publishing = workspace.rhizon().publishing(&parts[0]);
    cluster.apply(&twin(&original)).await;
    publishing.done().await;
    for part in &parts[1..] {
        workspace.rhizon().publish(part).await;
    }
    until("one of the two sidecars stops", Duration::from_mins(1), async || {
        let [first, second] = [ends(&workspace, &pod("permits")).await, ends(&workspace, "twin").await];
        holds(!first.is_empty() || !second.is_empty(), format!("{first:?} {second:?}"))
    })
    .await;
    let ends = [ends(&workspace, &pod("permits")).await, ends(&workspace, "twin").await].concat();
    assert!(ends.iter().all(|code| *code != 0), "who is taken over says so by its exit code: {ends:?}");
    let now = DeleteParams::default().grace_period(0);
    workspace.pods().delete("twin", &now).await.expect("deleting the twin");
    assert_eq!(&workspace.result(&log).await, expected_roots(&log).await);
}

/// Exit codes of a pod's sidecar so far: of its last end, and of the present one.
async fn ends(workspace: &Workspace, pod: &str) -> Vec<i32> {
    let pod: Pod = workspace.pods().get(pod).await.expect("a pod");
    let Some(sidecar) = pods::container(&pod, "rhizon") else { return Vec::new() };
    let states = [&sidecar.last_state, &sidecar.state];
    states.into_iter().flatten().filter_map(|state| state.terminated.as_ref()).map(|end| end.exit_code).collect()
}

/// A copy of an agent's pod with the same store, settings and credentials, whose sidecar is not started again.
fn twin(original: &Pod) -> Value {
    let mut spec = serde_json::to_value(&original.spec).expect("a pod is JSON");
    let mut sidecar = spec["initContainers"][0].take();
    let fields = spec.as_object_mut().expect("a spec is an object");
    for field in ["initContainers", "nodeName", "hostname", "subdomain", "priority", "preemptionPolicy"] {
        fields.remove(field);
    }
    sidecar.as_object_mut().expect("a container is an object").remove("restartPolicy");
    spec["containers"].as_array_mut().expect("containers").push(sidecar);
    spec["restartPolicy"] = json!("Never");
    // Policies go by these labels; the StatefulSet does not take it for its own.
    let labels = original.labels();
    let labels = json!({
        "app.kubernetes.io/component": "agent", "rhizon.dev/workspace": labels["rhizon.dev/workspace"],
    });
    json!({
        "apiVersion": "v1", "kind": "Pod", "spec": spec,
        "metadata": {"name": "twin", "namespace": original.namespace(), "labels": labels},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_updates_lose_nothing_and_charge_no_attempt() {
    let cluster = Cluster::ready().await;
    let log = Log::real();
    let workspace = Workspace::permits(&cluster, NAME).await;
    let parts = log.parts(4);
    for (round, part) in parts.iter().enumerate() {
        let publishing = workspace.rhizon().publishing(part);
        let agent = ["permits", "ledger"][round % 2];
        let before = workspace.pods().get(&pod(agent)).await.expect("the agent's pod").uid();
        workspace
            .patch_agent(agent, json!({"container": {"env": [{"name": "ROUND", "value": round.to_string()}]}}))
            .await;
        until(&format!("the pod of {agent} is replaced"), Duration::from_mins(2), async || {
            let pod = workspace.pods().get(&pod(agent)).await.map_err(|error| error.to_string())?;
            holds(pod.uid() != before, "it is the old one")
        })
        .await;
        publishing.done().await;
        workspace.agent_is_ready(agent).await;
    }
    assert_eq!(&workspace.result(&log).await, expected_roots(&log).await);
    for agent in ["permits", "ledger"] {
        let journal = workspace.rhizon().export(agent).await;
        let charged: Vec<&Value> = journal
            .iter()
            .filter(|record| record["decided"].is_object() && record["observed"]["attempts"] != 1)
            .collect();
        assert!(charged.is_empty(), "{agent}: {} records, such as {}", charged.len(), charged[0]);
    }
}
