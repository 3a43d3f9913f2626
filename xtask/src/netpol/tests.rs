//! Policies in, exact rules out.

use serde_json::{Value, json};

use super::objects::{Namespace, Pod, Policy};
use super::plan::plan;
use super::{missing_jumps, outdated_chains, rules};

fn namespaces() -> Vec<Namespace> {
    let one = |name: &str, team: &str| json!({ "metadata": { "name": name, "labels": { "team": team } } });
    serde_json::from_value(json!([one("a", "red"), one("b", "blue")])).unwrap()
}

fn pod(namespace: &str, name: &str, address: &str) -> Value {
    json!({
        "metadata": { "namespace": namespace, "name": name, "uid": name, "labels": { "app": name } },
        "spec": { "containers": [{ "ports": [{ "name": "web", "containerPort": 8080 }] }],
            "initContainers": [{ "ports": [{ "name": "metrics", "containerPort": 9090 }] }] },
        "status": { "phase": "Running", "podIP": address },
    })
}

fn pods() -> Vec<Value> {
    vec![pod("a", "one", "10.0.0.1"), pod("a", "two", "10.0.0.2"), pod("b", "three", "10.0.0.3")]
}

fn policy(spec: &Value) -> Vec<Policy> {
    serde_json::from_value(json!([{ "metadata": { "name": "p", "namespace": "a" }, "spec": spec }])).unwrap()
}

/// `pod: peer port` for everything allowed, and `pod: nothing`.
fn decide(spec: &Value, pods: Vec<Value>) -> (Vec<String>, Vec<String>) {
    let pods: Vec<Pod> = serde_json::from_value(Value::Array(pods)).unwrap();
    let plan = plan(&policy(spec), &pods, &namespaces());
    let lines = |isolated: &[super::plan::Isolated]| {
        isolated
            .iter()
            .flat_map(|pod| {
                let allowed =
                    pod.allowed.iter().map(|allowed| format!("{}: {} {:?}", pod.uid, allowed.peer, allowed.port));
                let nothing = pod.allowed.is_empty().then(|| format!("{}: nothing", pod.uid));
                allowed.chain(nothing).collect::<Vec<_>>()
            })
            .collect()
    };
    (lines(&plan.ingress), lines(&plan.egress))
}

fn ingress(spec: &Value) -> Vec<String> {
    decide(spec, pods()).0
}

fn egress(spec: &Value) -> Vec<String> {
    decide(spec, pods()).1
}

#[test]
fn default_deny_isolates_the_namespace_and_no_other() {
    let (ingress, egress) = decide(&json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"] }), pods());
    assert_eq!(ingress, ["one: nothing", "two: nothing"]);
    assert_eq!(egress, ["one: nothing", "two: nothing"]);
}

#[test]
fn a_policy_type_that_is_not_named_stays_open() {
    let (ingress, egress) = decide(&json!({ "podSelector": {}, "policyTypes": ["Ingress"] }), pods());
    assert_eq!((ingress.len(), egress.len()), (2, 0));
}

#[test]
fn peers_are_pods_of_the_own_namespace_unless_another_is_named() {
    let select = |from: Value| json!({ "podSelector": { "matchLabels": { "app": "one" } }, "policyTypes": ["Ingress"], "ingress": [{ "from": [from] }] });
    assert_eq!(ingress(&select(json!({ "podSelector": {} }))), ["one: 10.0.0.1/32 Any", "one: 10.0.0.2/32 Any"]);
    let blue = json!({ "namespaceSelector": { "matchLabels": { "team": "blue" } } });
    assert_eq!(ingress(&select(blue)), ["one: 10.0.0.3/32 Any"]);
    let both = json!({ "namespaceSelector": {}, "podSelector": { "matchExpressions": [{ "key": "app", "operator": "NotIn", "values": ["one", "two"] }] } });
    assert_eq!(ingress(&select(both)), ["one: 10.0.0.3/32 Any"]);
}

#[test]
fn named_ports_are_those_of_the_pod_that_listens() {
    let one = json!({ "matchLabels": { "app": "one" } });
    let rule = json!({ "ports": [{ "port": "metrics" }, { "port": "unknown" }], "from": [{ "namespaceSelector": { "matchLabels": { "team": "blue" } } }] });
    assert_eq!(
        ingress(&json!({ "podSelector": one, "policyTypes": ["Ingress"], "ingress": [rule] })),
        ["one: 10.0.0.3/32 Range(Tcp, 9090, 9090)"]
    );
    let mut other = pods();
    other[2]["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(81);
    let spec = json!({ "podSelector": one, "policyTypes": ["Egress"], "egress": [{ "ports": [{ "port": "web" }] }] });
    assert_eq!(
        decide(&spec, other).1,
        [
            "one: 10.0.0.1/32 Range(Tcp, 8080, 8080)",
            "one: 10.0.0.2/32 Range(Tcp, 8080, 8080)",
            "one: 10.0.0.3/32 Range(Tcp, 81, 81)"
        ]
    );
}

#[test]
fn ranges_protocols_and_blocks() {
    let spec = json!({ "podSelector": { "matchLabels": { "app": "one" } }, "policyTypes": ["Egress"], "egress": [{
        "to": [{ "ipBlock": { "cidr": "10.0.0.0/30", "except": ["10.0.0.2/32"] } }],
        "ports": [{ "protocol": "UDP", "port": 53 }, { "port": 100, "endPort": 200 }, { "protocol": "SCTP" }] }] });
    assert_eq!(
        egress(&spec),
        [
            "one: 10.0.0.0/31 AnyOf(Sctp)",
            "one: 10.0.0.0/31 Range(Tcp, 100, 200)",
            "one: 10.0.0.0/31 Range(Udp, 53, 53)",
            "one: 10.0.0.3/32 AnyOf(Sctp)",
            "one: 10.0.0.3/32 Range(Tcp, 100, 200)",
            "one: 10.0.0.3/32 Range(Udp, 53, 53)",
        ]
    );
}

#[test]
fn an_empty_rule_allows_everything() {
    let spec = json!({ "podSelector": { "matchLabels": { "app": "two" } }, "policyTypes": ["Egress"], "egress": [{}] });
    assert!(egress(&spec).contains(&"two: 0.0.0.0/0 Any".to_owned()));
}

#[test]
fn pods_of_the_host_and_ended_pods_are_no_subjects() {
    let mut all = pods();
    all[0]["spec"]["hostNetwork"] = json!(true);
    all[1]["status"]["phase"] = json!("Succeeded");
    let (ingress, _) = decide(
        &json!({ "podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{ "from": [{ "podSelector": {} }] }] }),
        all,
    );
    assert_eq!(ingress, Vec::<String>::new());
}

#[test]
fn rules_as_iptables_reads_them() {
    let pods: Vec<Pod> = serde_json::from_value(json!([pod("a", "one", "10.0.0.1")])).unwrap();
    let spec = json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": [{ "to": [{ "ipBlock": { "cidr": "10.9.0.0/16" } }], "ports": [{ "port": 443 }] }] });
    let text = rules::render(&plan(&policy(&spec), &pods, &namespaces()));
    let expected = "\
:RHIZON-FORWARD - [0:0]
:RHIZON-INPUT - [0:0]
:RZE-7692c3ad3540bb80 - [0:0]
-A RHIZON-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN
-A RHIZON-INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN
-A RZE-7692c3ad3540bb80 -d 10.0.0.1/32 -j RETURN
-A RZE-7692c3ad3540bb80 -d 10.9.0.0/16 -p tcp -m tcp --dport 443:443 -j RETURN
-A RZE-7692c3ad3540bb80 -j REJECT --reject-with icmp-admin-prohibited
-A RHIZON-FORWARD -s 10.0.0.1/32 -j RZE-7692c3ad3540bb80
-A RHIZON-INPUT -s 10.0.0.1/32 -j RZE-7692c3ad3540bb80
";
    assert_eq!(text, expected);
}

#[test]
fn jumps_are_put_first_and_only_once() {
    let first = "-A FORWARD -j RHIZON-FORWARD\n-A INPUT -j RHIZON-INPUT\n";
    assert_eq!(missing_jumps(first), "");
    let behind = "-A FORWARD -j KUBE-FORWARD\n-A FORWARD -j RHIZON-FORWARD\n-A INPUT -j RHIZON-INPUT\n";
    assert_eq!(missing_jumps(behind), "-D FORWARD -j RHIZON-FORWARD\n-I FORWARD 1 -j RHIZON-FORWARD\n");
}

#[test]
fn chains_of_gone_pods_are_deleted() {
    let present = "-N KUBE-FORWARD\n-N RZE-old\n-N RZE-new\n";
    assert_eq!(outdated_chains(present, ":RZE-new - [0:0]\n"), "-F RZE-old\n-X RZE-old\n");
}
