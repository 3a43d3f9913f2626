//! The agent's pod: the container that somebody wrote, and Rhizon's sidecar beside it.
//!
//! Only the sidecar mounts settings, credentials and the store. Kubernetes stops the agent's container before a native
//! sidecar, so the agent's `preStop` waits at the sidecar's drain endpoint until nothing is in flight.

use super::{Frame, digest};
use crate::{agent::store::Database, cluster::Manifest, pod, settings::Settings};
use rhizon_api::{
    RhizonAgentSpec,
    agent::{OperatingMode, StoreKind},
    container::{Container, EnvVar, Probe, Resources},
    labels,
    settings::paths,
    units::Size,
};
use serde_json::{Map, Value, json};

const SETTINGS_DIGEST: &str = "rhizon.dev/settings-digest";

/// In an annotation, the version of the Secret that the sidecar reads at its start.
const STORE_SECRET_VERSION: &str = "rhizon.dev/store-secret-version";

/// How many pods an agent is to have.
pub fn replicas(spec: &RhizonAgentSpec) -> i32 {
    if spec.operating_mode == OperatingMode::Suspended { 0 } else { spec.replicas }
}

pub fn build(
    frame: &Frame<'_>,
    replicas: i32,
    settings_json: &str,
    database: Option<&Database>,
    settings: &Settings,
) -> Manifest {
    let spec = &frame.agent.spec;
    let selector = json!({labels::AGENT: frame.name, labels::COMPONENT: "agent"});
    let pod_labels = json!({
        labels::AGENT: frame.name,
        labels::COMPONENT: "agent",
        labels::WORKSPACE: frame.workspace,
        labels::MANAGED_BY: "rhizon",
    });
    let mut annotations = json!({SETTINGS_DIGEST: digest(settings_json)});
    if let Some(database) = database {
        annotations[STORE_SECRET_VERSION] = json!(database.version);
    }
    frame.finish(Manifest::new(json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": frame.object, "namespace": frame.namespace},
        "spec": {
            "serviceName": frame.object,
            "replicas": replicas,
            // A pod with a broken image must not hold up the one that replaces it.
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": selector},
            "template": {
                "metadata": {"labels": pod_labels, "annotations": annotations},
                "spec": {
                    "serviceAccountName": frame.object,
                    "automountServiceAccountToken": false,
                    "enableServiceLinks": false,
                    "securityContext": pod::security(),
                    "terminationGracePeriodSeconds": 30,
                    "initContainers": [sidecar(spec.store.kind, settings)],
                    "containers": [agent(&spec.container)],
                    "volumes": volumes(frame, database),
                },
            },
            "volumeClaimTemplates": claims(frame),
        },
    })))
}

/// `restartPolicy: Always` makes an init container a sidecar: it starts before the agent and ends after it.
fn sidecar(store: StoreKind, settings: &Settings) -> Value {
    let mut env = pod::environment(settings.otlp_endpoint.as_deref());
    // Its ordinal says which shards are its own.
    env.push(json!({"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}));
    let mut mounts = vec![pod::settings_mount()];
    if store != StoreKind::Postgres {
        mounts.push(json!({"name": "store", "mountPath": paths::STORE_DIR}));
    }
    json!({
        "name": "rhizon",
        "image": settings.runtime_image,
        "imagePullPolicy": settings.runtime_pull_policy,
        "restartPolicy": "Always",
        "command": ["/usr/local/bin/rhizon-runtime"],
        "args": ["sidecar", "--settings", paths::SETTINGS],
        "env": env,
        "ports": [{"name": "metrics", "containerPort": paths::HEALTH_PORT, "protocol": "TCP"}],
        "startupProbe": pod::probe("/healthz", 1, 120),
        "readinessProbe": pod::probe("/readyz", 2, 2),
        "livenessProbe": pod::probe("/healthz", 10, 6),
        "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": pod::container_security(),
        "volumeMounts": mounts,
    })
}

fn agent(container: &Container) -> Value {
    let mut value = json!({
        "name": "agent",
        "image": container.image,
        "imagePullPolicy": container.image_pull_policy,
        "env": environment(&container.env),
        "lifecycle": {"preStop": {"httpGet": {"path": "/drain", "port": paths::DRAIN_PORT}}},
        "resources": resources(&container.resources),
        "securityContext": pod::container_security(),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    });
    for (field, words) in [("command", &container.command), ("args", &container.args)] {
        if !words.is_empty() {
            value[field] = json!(words);
        }
    }
    let probes = &container.probes;
    for (field, wanted) in
        [("readinessProbe", &probes.readiness), ("livenessProbe", &probes.liveness), ("startupProbe", &probes.startup)]
    {
        if let Some(wanted) = wanted {
            value[field] = probe(wanted);
        }
    }
    value
}

fn environment(variables: &[EnvVar]) -> Value {
    let own = json!({"name": "RHIZON_LISTEN", "value": paths::AGENT_LISTEN});
    let theirs = variables.iter().map(|EnvVar { name, value, value_from }| match value_from {
        None => json!({"name": name, "value": value}),
        Some(source) => {
            let (secret, key) = (&source.secret_key_ref.name, &source.secret_key_ref.key);
            json!({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
        }
    });
    json!(std::iter::once(own).chain(theirs).collect::<Vec<_>>())
}

/// What is asked for, with what a quota needs every container to say.
fn resources(wanted: &Resources) -> Value {
    let Resources { requests, limits } = wanted;
    let as_map = |map: &std::collections::BTreeMap<String, _>| -> Map<String, Value> {
        map.iter().map(|(name, quantity)| (name.clone(), json!(quantity))).collect()
    };
    let (mut requests, mut limits) = (as_map(requests), as_map(limits));
    for (name, default) in [("cpu", "50m"), ("memory", "64Mi")] {
        // A limit alone is its own request.
        if !limits.contains_key(name) {
            requests.entry(name).or_insert_with(|| json!(default));
        }
    }
    let memory = requests.get("memory").filter(|_| wanted.requests.contains_key("memory")).cloned();
    limits.entry("memory").or_insert_with(|| memory.unwrap_or_else(|| json!("256Mi")));
    json!({"requests": requests, "limits": limits})
}

fn probe(wanted: &Probe) -> Value {
    let Probe { command, initial_delay_seconds, period_seconds, timeout_seconds, failure_threshold } = wanted;
    json!({
        "exec": {"command": command},
        "initialDelaySeconds": initial_delay_seconds,
        "periodSeconds": period_seconds,
        "timeoutSeconds": timeout_seconds,
        "failureThreshold": failure_threshold,
    })
}

/// A claim brings its own volume; a cache may be lost with its pod.
fn volumes(frame: &Frame<'_>, database: Option<&Database>) -> Vec<Value> {
    let store = &frame.agent.spec.store;
    let mut volumes = vec![
        pod::settings_volume(frame.object, frame.object, database.map(|database| database.secret.as_str())),
        json!({"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}),
    ];
    if store.kind == StoreKind::JetStream {
        volumes.push(json!({"name": "store", "emptyDir": {"sizeLimit": cache_limit(&store.size, frame.journals)}}));
    }
    volumes
}

/// A pod whose cache is larger is evicted, and its successor's would be as large again: it has room for every record that the
/// workspace may have, with its indexes.
fn cache_limit(size: &Size, journals: &Size) -> String {
    let needed_mib = journals.as_bytes().saturating_mul(2).div_ceil(1 << 20);
    match needed_mib {
        mib if mib << 20 <= size.as_bytes() => size.to_string(),
        mib if mib % 1024 == 0 => format!("{}Gi", mib / 1024),
        mib => format!("{mib}Mi"),
    }
}

fn claims(frame: &Frame<'_>) -> Value {
    let store = &frame.agent.spec.store;
    match store.kind {
        StoreKind::SQLite => json!([{
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {
                "name": "store",
                "labels": {labels::AGENT: frame.name, labels::WORKSPACE: frame.workspace},
            },
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": store.size}},
            },
        }]),
        StoreKind::Postgres | StoreKind::JetStream => json!([]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::store::Place;
    use clap::Parser as _;
    use rhizon_api::RhizonAgent;

    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        settings: Settings,
    }

    fn built(spec: &Value) -> Value {
        let agent: RhizonAgent = serde_json::from_value(json!({
            "apiVersion": "rhizon.dev/v1alpha1", "kind": "RhizonAgent",
            "metadata": {"name": "ledger", "namespace": "permits", "uid": "u"}, "spec": spec,
        }))
        .unwrap();
        let frame = Frame {
            agent: &agent,
            workspace: "permits",
            namespace: "permits",
            name: "ledger",
            object: "agent-ledger",
            journals: &"1Gi".parse().unwrap(),
        };
        let place = Place::Anywhere;
        let database = Database { secret: "db".to_owned(), version: "7".to_owned(), place, port: 5432 };
        let database = (agent.spec.store.kind == StoreKind::Postgres).then_some(&database);
        build(&frame, replicas(&agent.spec), "{}", database, &Flags::parse_from(["test"]).settings).value().clone()
    }

    fn with_store(store: &Value) -> Value {
        let mut spec = spec(json!({}));
        spec["store"] = store.clone();
        built(&spec)
    }

    fn spec(container: Value) -> Value {
        let mut container = container;
        container["image"] = json!("x:1");
        json!({"subscribes": ["evt.a.b"], "container": container})
    }

    #[test]
    fn only_the_sidecar_sees_credentials_and_store() {
        let set = built(&spec(json!({})));
        let pod = &set["spec"]["template"]["spec"];
        assert_eq!(mounts(&pod["initContainers"][0]), ["settings", "store"]);
        assert_eq!(mounts(&pod["containers"][0]), ["tmp"]);
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["containers"][0]["lifecycle"]["preStop"]["httpGet"]["port"], 9091);
    }

    #[test]
    fn only_sqlite_needs_a_disk_of_its_own() {
        let set = with_store(&json!({"kind": "JetStream", "size": "2Gi"}));
        let pod = &set["spec"]["template"]["spec"];
        assert_eq!(set["spec"]["volumeClaimTemplates"], json!([]));
        assert_eq!(pod["volumes"][2], json!({"name": "store", "emptyDir": {"sizeLimit": "2Gi"}}));
        assert_eq!(mounts(&pod["initContainers"][0]), ["settings", "store"]);

        let set = with_store(&json!({"kind": "Postgres", "secretRef": "db"}));
        let template = &set["spec"]["template"];
        assert_eq!(set["spec"]["volumeClaimTemplates"], json!([]));
        let sources = &template["spec"]["volumes"][0]["projected"]["sources"];
        let items = |key: &str| json!([{"key": key, "path": format!("store/{key}")}]);
        assert_eq!(sources[3], json!({"secret": {"name": "db", "items": items("url")}}));
        assert_eq!(sources[4], json!({"secret": {"name": "db", "optional": true, "items": items("ca.crt")}}));
        assert_eq!(mounts(&template["spec"]["initContainers"][0]), ["settings"]);
        assert_eq!(mounts(&template["spec"]["containers"][0]), ["tmp"]);
        assert_eq!(template["metadata"]["annotations"]["rhizon.dev/store-secret-version"], "7");
    }

    #[test]
    fn a_cache_has_room_for_all_journals_of_the_workspace() {
        let limit = |size: &str, journals: &str| cache_limit(&size.parse().unwrap(), &journals.parse().unwrap());
        assert_eq!(limit("1Gi", "1Gi"), "2Gi");
        assert_eq!(limit("4Gi", "1Gi"), "4Gi");
        assert_eq!(limit("1Gi", "700Mi"), "1400Mi");
        assert_eq!(limit("1Gi", "600000001"), "1145Mi");
    }

    fn mounts(container: &Value) -> Vec<String> {
        let mounts = container["volumeMounts"].as_array().unwrap();
        mounts.iter().map(|mount| mount["name"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_suspended_agent_has_no_pod_and_keeps_everything_else() {
        let mut suspended = spec(json!({}));
        suspended["operatingMode"] = json!("Suspended");
        let (mut on, off) = (built(&spec(json!({}))), built(&suspended));
        assert_eq!(off["spec"]["replicas"], 0);
        on["spec"]["replicas"] = json!(0);
        assert_eq!(on, off);
    }

    #[test]
    fn resources_always_satisfy_a_quota() {
        let of = |resources: Value| {
            built(&spec(json!({"resources": resources})))["spec"]["template"]["spec"]["containers"][0]["resources"]
                .clone()
        };
        assert_eq!(of(json!({})), json!({"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}));
        assert_eq!(
            of(json!({"limits": {"memory": "32Mi"}})),
            json!({"requests": {"cpu": "50m"}, "limits": {"memory": "32Mi"}})
        );
        assert_eq!(
            of(json!({"requests": {"memory": "1Gi"}})),
            json!({"requests": {"cpu": "50m", "memory": "1Gi"}, "limits": {"memory": "1Gi"}})
        );
    }
}
