//! Isolation: nothing of one workspace reaches another, and an agent reaches nothing that it was not given.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Service};
use kube::api::ListParams;
use rhizon_operator::nats::{claims, jwt};
use serde_json::json;

use crate::support::broker::Broker;
use crate::support::cluster::Cluster;
use crate::support::log::Log;
use crate::support::pods;
use crate::support::wait::{holds, until};
use crate::support::workspace::Workspace;

const EAST: &str = "test-east";
const WEST: &str = "test-west";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workspaces_do_not_reach_each_other() {
    let cluster = Cluster::ready().await;
    let (east, west) = tokio::join!(Workspace::permits(&cluster, EAST), Workspace::permits(&cluster, WEST));
    let log = Log::sample();
    for workspace in [&east, &west] {
        workspace.rhizon().publish(&log.events).await;
        workspace.effects(log.total()).await;
    }
    let broker = Broker::reach(&cluster).await;
    agents_keep_within_their_rights(&broker).await;
    accounts_are_closed(&broker).await;
    connections_are_refused(&cluster, &east, &west).await;
    tokens_are_for_one_workspace(&east, &west).await;
    for workspace in [&east, &west] {
        workspace.result(&log).await;
    }
}

/// With everything that the sidecar of east's `permits` holds, against its neighbour in the workspace and, by the same
/// names, against west.
async fn agents_keep_within_their_rights(broker: &Broker) {
    let (east, west) = (broker.workspace_keys(EAST).await, broker.workspace_keys(WEST).await);
    let before = [broker.contents(&east).await, broker.contents(&west).await];
    let thief = broker.user(EAST, "agent-permits", "agent-permits").await;
    for subject in [
        "ev.cmd.permit.record.7.gateway",
        "ev.evt.permit.recorded.7.agent-ledger",
        "ev.evt.permit.revoked.7.agent-permits",
        "to.ledger.evt.permit.recorded.7.agent-ledger",
        "dead.ledger.7.x",
        "rq.ledger.status",
        "$JS.API.CONSUMER.MSG.NEXT.EVENTS.agent-ledger",
        "$JS.API.CONSUMER.RESET.EVENTS.agent-ledger",
        "$JS.API.CONSUMER.INFO.EVENTS.agent-ledger",
        "$JS.ACK.EVENTS.agent-ledger.1.1.1.1.1",
        "$JS.API.CONSUMER.CREATE.EVENTS.thief",
        "$JS.API.CONSUMER.DELETE.EVENTS.agent-ledger",
        "$JS.API.STREAM.INFO.EVENTS",
        "$JS.API.STREAM.PURGE.EVENTS",
        "$JS.API.STREAM.DELETE.EVENTS",
        "$JS.API.STREAM.MSG.GET.EVENTS",
        "$JS.API.DIRECT.GET.EVENTS",
        "$SYS.REQ.CLAIMS.LIST",
    ] {
        thief.may_not_publish(subject).await;
    }
    for subject in [">", "ev.>", "to.>", "_INBOX.>", "_INBOX.gateway.>", "rq.ledger.>", "$JS.>", "$SYS.>"] {
        thief.may_not_subscribe(subject).await;
    }
    for reply in [
        "$JS.API.STREAM.DELETE.EVENTS",
        "$JS.API.STREAM.PURGE.EVENTS",
        "$JS.API.CONSUMER.DELETE.EVENTS.agent-ledger",
        "$JS.API.CONSUMER.RESET.EVENTS.agent-ledger",
        "$JS.ACK.EVENTS.agent-ledger.1.1.1.1.1",
        "ev.cmd.permit.record.7.gateway",
        "dead.ledger.7.x",
        "rq.ledger.status",
    ] {
        thief.put_with_reply("$JS.API.CONSUMER.INFO.EVENTS.agent-permits", reply, "").await;
        let pull = json!({"batch": 1, "no_wait": true}).to_string();
        thief.put_with_reply("$JS.API.CONSUMER.MSG.NEXT.EVENTS.agent-permits", reply, &pull).await;
    }
    thief.ask("$JS.API.CONSUMER.INFO.EVENTS.agent-permits").await;
    assert_eq!([broker.contents(&east).await, broker.contents(&west).await], before);
}

/// What somebody may publish stays at home, and a user that east made for west's account is none: only the account's own key signs users.
async fn accounts_are_closed(broker: &Broker) {
    let (east, west) = (broker.workspace_keys(EAST).await, broker.workspace_keys(WEST).await);
    let (here, there) = (broker.contents(&east).await, broker.contents(&west).await);
    let gateway = broker.user(EAST, "rhizon-gateway", "gateway").await;
    // Nobody subscribes this type.
    gateway.ask_with("ev.cmd.nothing.known.7.gateway", "{}").await;
    assert_ne!(broker.contents(&east).await, here, "east's stream has one more");
    assert_eq!(broker.contents(&west).await, there, "west's has not");

    let user = nkeys::KeyPair::new_user();
    let now = k8s_openapi::jiff::Timestamp::now().as_second();
    let mut claims = claims::user(&user.public_key(), "agent-permits", &claims::all_permissions(), now + 3600);
    claims.nats["issuer_account"] = json!(west.runtime.public_key());
    let forged = jwt::encode(&claims, &east.runtime, now).expect("a JWT");
    let file = jwt::credentials_file(&forged, &user.seed().expect("a seed"));
    let refused = broker.connect("agent-permits", &file).await;
    assert!(refused.is_err(), "the broker took a user of west that east had signed");
}

/// Prints `open`, `refused` or `blocked`; a policy may answer or stay silent.
const PROBE: &str = "
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 1).close()
    print('open')
except ConnectionRefusedError:
    print('refused')
except OSError as error:
    print('unknown' if isinstance(error, socket.gaierror) else 'blocked')
";

/// From the very container in which a tenant's code runs.
async fn connections_are_refused(cluster: &Cluster, east: &Workspace, west: &Workspace) {
    let node = address_of_node(cluster).await;
    let open = [
        // Names are resolved on the way.
        ("rhizon-nats.rhizon-system.svc".to_owned(), "4222"),
        ("rhizon-gateway".to_owned(), "80"),
        (format!("rhizon-gateway.{EAST}.svc.cluster.local"), "80"),
    ];
    let closed = [
        (address_of_pod(west, "rhizon.dev/agent=permits").await, "9090"),
        (address_of_pod(west, "rhizon.dev/agent=permits").await, "9091"),
        (address_of_pod(west, "rhizon.dev/agent=ledger").await, "9090"),
        (address_of_pod(west, "app.kubernetes.io/component=gateway").await, "8080"),
        (address_of_service(west, "rhizon-gateway").await, "80"),
        (address_of_pod(east, "rhizon.dev/agent=ledger").await, "9090"),
        (address_of_pod(east, "rhizon.dev/agent=ledger").await, "9091"),
        ("kubernetes.default.svc.cluster.local".to_owned(), "443"),
        (node.clone(), "6443"),
        (node.clone(), "10250"),
        (node, "22"),
    ];
    for (address, port) in &open {
        until(&format!("east's agent to {address}:{port}"), Duration::from_secs(20), async || {
            let outcome = probe(east, address, port).await;
            holds(outcome == "open", outcome)
        })
        .await;
    }
    for (address, port) in &closed {
        assert_eq!(probe(east, address, port).await, "blocked", "east's agent to {address}:{port}");
    }
    // The same doors are open to whom they are for.
    for (address, port) in &closed[3..5] {
        assert_eq!(probe(west, address, port).await, "open", "west's agent to {address}:{port}");
    }
}

async fn probe(workspace: &Workspace, address: &str, port: &str) -> String {
    let command = ["python3", "-c", PROBE, address, port];
    let answer = pods::exec(&workspace.pods(), "agent-permits-0", "agent", &command).await;
    answer.unwrap_or_else(|why| panic!("the probe of {address}:{port} failed: {why}"))
}

async fn address_of_pod(workspace: &Workspace, selector: &str) -> String {
    let pod = workspace.cluster.pods(workspace.name, selector).await.remove(0);
    pod.status.and_then(|status| status.pod_ip).unwrap_or_else(|| panic!("{selector} has no address"))
}

async fn address_of_service(workspace: &Workspace, name: &str) -> String {
    let service = workspace.cluster.within::<Service>(workspace.name).get(name).await.expect("a service");
    service.spec.and_then(|spec| spec.cluster_ip).expect("a service with an address")
}

async fn address_of_node(cluster: &Cluster) -> String {
    let nodes = cluster.all::<Node>().list(&ListParams::default()).await.expect("listing nodes");
    let addresses = nodes.items.into_iter().filter_map(|node| node.status?.addresses).flatten();
    let internal = addresses.into_iter().find(|address| address.type_ == "InternalIP");
    internal.expect("a node with an address").address
}

/// A token for east is worth nothing at west's gateway.
async fn tokens_are_for_one_workspace(east: &Workspace, west: &Workspace) {
    let account = format!("{EAST}/clerk");
    let answer = west.rhizon().try_call(&["state", "permits", "--service-account", &account]).await;
    assert_eq!(answer.code, Some(3), "east's clerk reads west: {}{}", answer.stdout, answer.stderr);
    let token = crate::support::installation::run(crate::support::installation::kubectl().args([
        "create",
        "token",
        "clerk",
        "-n",
        EAST,
        "--audience",
        &format!("rhizon/{EAST}"),
    ]));
    let foreign = west.rhizon().try_call(&["state", "permits", "--token", token.trim()]).await;
    assert_eq!(foreign.code, Some(3), "a token for east opens west: {}{}", foreign.stdout, foreign.stderr);
    let own = east.rhizon().try_call(&["state", "permits", "--token", token.trim()]).await;
    assert_eq!(own.code, Some(0), "{}", own.stderr);
}
