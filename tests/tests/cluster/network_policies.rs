//! The cluster enforces network policies: without that, no test of isolation says anything.

use crate::kubectl::{Namespace, apply, eventually, kubectl};

const SERVER: &str = "test-policies-server";
const CLIENT: &str = "test-policies-client";

/// Prints `open` or `blocked`. A policy may answer or stay silent; a port that is let through where nothing listens is neither.
const PROBE: &str = "
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 2).close()
    print('open')
except ConnectionRefusedError:
    print('refused')
except OSError:
    print('blocked')
";

fn run_pod(namespace: &str, name: &str, program: &str) {
    apply(&format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}", "namespace": "{namespace}", "labels": {{"app": "{name}"}}}},
        "spec": {{"terminationGracePeriodSeconds": 0, "containers": [{{"name": "main", "image": "localhost/rhizon/tools:0.1.0",
            "imagePullPolicy": "IfNotPresent", "command": ["python3", "-c", "{program}"], "ports": [{{"name": "web", "containerPort": 8080}}]}}]}}}}"#
    ));
}

fn address(namespace: &str, pod: &str) -> String {
    kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "-n", namespace, &format!("pod/{pod}")]);
    kubectl(&["get", "pod", pod, "-n", namespace, "-o", "jsonpath={.status.podIP}"])
}

fn probe(pod: &str, address: &str, port: &str) -> String {
    kubectl(&["exec", "-n", CLIENT, pod, "--", "python3", "-c", PROBE, address, port])
}

fn expect(outcome: &str, pod: &str, address: &str, port: &str) {
    eventually(&format!("{pod} to {address}:{port}"), &outcome.to_owned(), || probe(pod, address, port));
}

fn policy(namespace: &str, name: &str, spec: &str) {
    apply(&format!(
        r#"{{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {{"name": "{name}", "namespace": "{namespace}"}}, "spec": {spec}}}"#
    ));
}

#[test]
fn a_policy_blocks_and_allows() {
    let (server, client) = (Namespace::create(SERVER), Namespace::create(CLIENT));
    run_pod(server.0, "web", "import http.server; http.server.test(port=8080)");
    for pod in ["friend", "stranger"] {
        run_pod(client.0, pod, "import signal; signal.pause()");
        address(client.0, pod);
    }
    let web = address(server.0, "web");
    let node =
        kubectl(&["get", "nodes", "-o", r#"jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}"#]);

    expect("open", "friend", &web, "8080");
    expect("open", "stranger", &web, "8080");
    expect("open", "stranger", &node, "6443");
    expect("open", "stranger", "kubernetes.default.svc.cluster.local", "443");

    ingress_follows_its_policies(&web);
    egress_follows_its_policies(&web, &node);
}

fn ingress_follows_its_policies(web: &str) {
    policy(SERVER, "deny", r#"{"podSelector": {}, "policyTypes": ["Ingress"]}"#);
    expect("blocked", "friend", web, "8080");
    expect("blocked", "stranger", web, "8080");

    let friends = r#"{"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"], "ingress": [{
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "test-policies-client"}},
            "podSelector": {"matchLabels": {"app": "friend"}}}],
        "ports": [{"port": "web"}]}]}"#;
    policy(SERVER, "friends", friends);
    expect("open", "friend", web, "8080");
    expect("blocked", "friend", web, "8081");
    expect("blocked", "stranger", web, "8080");
}

/// Also towards the API server, through its service and at the node's own address.
fn egress_follows_its_policies(web: &str, node: &str) {
    let only_dns = r#"{"podSelector": {}, "policyTypes": ["Egress"], "egress": [{
        "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}],
        "ports": [{"protocol": "UDP", "port": 53}]}]}"#;
    policy(CLIENT, "only-dns", only_dns);
    expect("blocked", "friend", web, "8080");
    expect("blocked", "friend", node, "6443");
    expect("blocked", "friend", node, "10250");
    let lookup = "import socket; print(socket.gethostbyname('kubernetes.default.svc.cluster.local'))";
    let service = kubectl(&["exec", "-n", CLIENT, "friend", "--", "python3", "-c", lookup]);
    expect("blocked", "friend", &service, "443");

    kubectl(&["delete", "networkpolicy", "only-dns", "-n", CLIENT]);
    expect("open", "friend", web, "8080");
    expect("open", "stranger", node, "6443");
}
