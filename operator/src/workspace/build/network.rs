//! Who may talk to whom: nobody, but for the name service, the broker, the gateway and metrics.

use crate::{cluster::Manifest, settings::Settings};
use rhizon_api::{RhizonWorkspace, labels, settings::paths};
use serde_json::{Value, json};

const NATS_PORT: u16 = 4222;
const OTLP_PORT: u16 = 4318;

pub fn manifests(workspace: &RhizonWorkspace, settings: &Settings) -> Vec<Manifest> {
    let network = &workspace.spec.network;
    let everybody = json!({});
    let gateway = json!({"matchLabels": {labels::COMPONENT: "gateway"}});
    let agents = json!({"matchLabels": {labels::COMPONENT: "agent"}});
    let ours = json!({"matchExpressions": [
        {"key": labels::COMPONENT, "operator": "In", "values": ["agent", "gateway"]},
    ]});

    let mut metrics_from = vec![namespace_peer(&settings.namespace)];
    metrics_from.extend(network.metrics_from.iter().map(|name| namespace_peer(name)));
    let mut gateway_from = vec![json!({"podSelector": {}})];
    gateway_from.extend(network.gateway_from.iter().map(|name| namespace_peer(name)));

    let policy = |name: &str, pods: &Value, rules: Value| build(workspace.namespace_name(), name, pods, rules);
    vec![
        policy("rhizon-default-deny", &everybody, json!({"ingress": [], "egress": []})),
        policy(
            "rhizon-dns",
            &everybody,
            json!({"egress": [{
                "to": [namespace_peer("kube-system")],
                "ports": [port("UDP", 53), port("TCP", 53)],
            }]}),
        ),
        policy("rhizon-broker", &ours, json!({"egress": broker(settings)})),
        policy(
            "rhizon-gateway",
            &gateway,
            json!({"ingress": [{
                "from": gateway_from,
                "ports": [port("TCP", paths::GATEWAY_PORT)],
            }]}),
        ),
        policy(
            "rhizon-to-gateway",
            &everybody,
            json!({"egress": [{
                "to": [{"podSelector": gateway}],
                "ports": [port("TCP", paths::GATEWAY_PORT)],
            }]}),
        ),
        policy(
            "rhizon-metrics",
            &ours,
            json!({"ingress": [{
                "from": metrics_from,
                "ports": [port("TCP", paths::HEALTH_PORT)],
            }]}),
        ),
        policy("rhizon-egress", &agents, json!({"egress": outside(workspace)})),
    ]
}

/// The chart's broker by its pods; somebody else's by its port alone, since nothing more is known of it.
fn broker(settings: &Settings) -> Value {
    let mut rules = vec![match &settings.nats_service {
        Some(service) => json!({
            "to": [{
                "namespaceSelector": namespace_selector(&settings.namespace),
                "podSelector": {"matchLabels": {"app.kubernetes.io/name": service}},
            }],
            "ports": [port("TCP", NATS_PORT)],
        }),
        None => json!({"ports": [port("TCP", NATS_PORT)]}),
    }];
    if settings.otlp_endpoint.is_some() {
        rules.push(json!({"ports": [port("TCP", OTLP_PORT)]}));
    }
    json!(rules)
}

fn outside(workspace: &RhizonWorkspace) -> Value {
    let rules = workspace.spec.network.egress.iter().map(|egress| {
        let ports: Vec<Value> = egress.ports.iter().map(|number| port("TCP", *number)).collect();
        json!({"to": [{"ipBlock": {"cidr": egress.cidr}}], "ports": ports})
    });
    json!(rules.collect::<Vec<_>>())
}

fn build(namespace: &str, name: &str, pods: &Value, rules: Value) -> Manifest {
    let types: Vec<&str> = [("ingress", "Ingress"), ("egress", "Egress")]
        .iter()
        .filter(|(k, _)| rules.get(k).is_some())
        .map(|t| t.1)
        .collect();
    let mut spec = rules;
    spec["podSelector"] = pods.clone();
    spec["policyTypes"] = json!(types);
    Manifest::new(json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }))
}

fn namespace_selector(name: &str) -> Value {
    json!({"matchLabels": {"kubernetes.io/metadata.name": name}})
}

fn namespace_peer(name: &str) -> Value {
    json!({"namespaceSelector": namespace_selector(name)})
}

fn port(protocol: &str, number: u16) -> Value {
    json!({"protocol": protocol, "port": number})
}
