//! The workspace's HTTP door.

use crate::{cluster::Manifest, pod, settings::Settings, workspace::validate::GatewayAccess};
use rhizon_api::{RhizonWorkspace, labels, settings, settings::paths};
use rhizon_kernel::Limits;
use serde_json::{Value, json};

pub const NAME: &str = "rhizon-gateway";

/// All but the Deployment, and the Secret, which holds credentials.
pub fn parts(
    workspace: &RhizonWorkspace,
    access: &GatewayAccess,
    agents: &[settings::Agent],
    settings: &Settings,
) -> Vec<Manifest> {
    let namespace = workspace.namespace_name();
    [
        service_account(namespace),
        config_map(namespace, &gateway_settings(workspace, access, agents, settings)),
        service(namespace),
    ]
    .into_iter()
    .map(|manifest| label(manifest, workspace))
    .collect()
}

fn label(manifest: Manifest, workspace: &RhizonWorkspace) -> Manifest {
    super::label(manifest, workspace).labelled(&[(labels::COMPONENT, "gateway")])
}

fn gateway_settings(
    workspace: &RhizonWorkspace,
    access: &GatewayAccess,
    agents: &[settings::Agent],
    settings: &Settings,
) -> settings::Gateway {
    let GatewayAccess { issuers, access } = access.clone();
    settings::Gateway {
        workspace: workspace.metadata.name.clone().unwrap_or_default(),
        listen: format!("0.0.0.0:{}", paths::GATEWAY_PORT),
        health_listen: format!("0.0.0.0:{}", paths::HEALTH_PORT),
        nats: settings::Nats { url: settings.nats_url.clone(), ..settings::Nats::in_cluster("gateway") },
        issuers,
        access,
        limits: Limits::default(),
        agents: agents.to_vec(),
    }
}

fn service_account(namespace: &str) -> Manifest {
    Manifest::new(json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": NAME, "namespace": namespace},
        "automountServiceAccountToken": false,
    }))
}

fn config_map(namespace: &str, settings: &settings::Gateway) -> Manifest {
    Manifest::new(json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": namespace},
        "data": {"settings.json": serde_json::to_string_pretty(settings).unwrap_or_default()},
    }))
}

/// The gateway re-reads its settings, so their change is no reason for new pods.
pub fn deployment(workspace: &RhizonWorkspace, settings: &Settings) -> Manifest {
    let name = workspace.metadata.name.as_deref().unwrap_or_default();
    let selector = json!({labels::COMPONENT: "gateway", labels::WORKSPACE: name});
    let manifest = Manifest::new(json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": workspace.namespace_name()},
        "spec": {
            "replicas": workspace.spec.gateway.replicas,
            "selector": {"matchLabels": selector},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": {"labels": selector},
                "spec": {
                    "serviceAccountName": NAME,
                    "automountServiceAccountToken": false,
                    "enableServiceLinks": false,
                    "securityContext": pod::security(),
                    "terminationGracePeriodSeconds": 20,
                    "containers": [container(settings)],
                    "volumes": [pod::settings_volume(NAME, NAME, None)],
                },
            },
        },
    }));
    label(manifest, workspace)
}

fn container(settings: &Settings) -> Value {
    json!({
        "name": "gateway",
        "image": settings.runtime_image,
        "imagePullPolicy": settings.runtime_pull_policy,
        "command": ["/usr/local/bin/rhizon-runtime"],
        "args": ["gateway", "--settings", paths::SETTINGS],
        "env": pod::environment(settings.otlp_endpoint.as_deref()),
        "ports": [
            {"name": "http", "containerPort": paths::GATEWAY_PORT, "protocol": "TCP"},
            {"name": "metrics", "containerPort": paths::HEALTH_PORT, "protocol": "TCP"},
        ],
        "readinessProbe": pod::probe("/readyz", 5, 2),
        "livenessProbe": pod::probe("/healthz", 10, 6),
        "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": pod::container_security(),
        "volumeMounts": [pod::settings_mount()],
    })
}

fn service(namespace: &str) -> Manifest {
    Manifest::new(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME, "namespace": namespace},
        "spec": {
            "selector": {labels::COMPONENT: "gateway"},
            "ports": [{"name": "http", "port": 80, "targetPort": paths::GATEWAY_PORT, "protocol": "TCP"}],
        },
    }))
}
