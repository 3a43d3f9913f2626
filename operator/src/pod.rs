//! What all pods of a workspace have in common.

use rhizon_api::settings::paths;
use serde_json::{Value, json};

/// User and group of every container.
const USER: u32 = 65532;

/// A pod under Pod Security `restricted`.
pub fn security() -> Value {
    json!({
        "runAsNonRoot": true,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// A container under Pod Security `restricted`, and without a writable image.
pub fn container_security() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
    })
}

/// Settings and credentials in one volume, for the directory `/etc/rhizon`. It follows changes of both.
/// `store` names the Secret with a store's connection string, and perhaps the certificates to check its server by.
pub fn settings_volume(config_map: &str, secret: &str, store: Option<&str>) -> Value {
    let nats = |file: &str| json!({"key": file, "path": format!("nats/{file}")});
    let mut sources = vec![
        json!({"configMap": {"name": config_map, "items": [{"key": "settings.json", "path": "settings.json"}]}}),
        json!({"secret": {"name": secret, "items": [nats(paths::CREDENTIALS), nats(paths::MESSAGE_ID_KEY)]}}),
        json!({"secret": {"name": secret, "optional": true, "items": [nats(paths::CA)]}}),
    ];
    if let Some(name) = store {
        let item = |key: &str| json!([{"key": key, "path": format!("store/{key}")}]);
        sources.push(json!({"secret": {"name": name, "items": item("url")}}));
        sources.push(json!({"secret": {"name": name, "optional": true, "items": item(paths::STORE_CA)}}));
    }
    json!({"name": "settings", "projected": {"defaultMode": 0o440, "sources": sources}})
}

pub fn settings_mount() -> Value {
    json!({"name": "settings", "mountPath": "/etc/rhizon", "readOnly": true})
}

/// A probe on the health port.
pub fn probe(path: &str, period_s: u32, failures: u32) -> Value {
    json!({
        "httpGet": {"path": path, "port": paths::HEALTH_PORT},
        "periodSeconds": period_s,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    })
}

/// Environment of sidecars and gateways.
pub fn environment(otlp_endpoint: Option<&str>) -> Vec<Value> {
    let mut variables = vec![json!({"name": "RUST_LOG", "value": "info"})];
    if let Some(endpoint) = otlp_endpoint {
        variables.push(json!({"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": endpoint}));
    }
    variables
}
