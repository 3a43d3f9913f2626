//! Limits of the namespace, and what the tenant's people may do in it.

use crate::cluster::Manifest;
use rhizon_api::{RhizonWorkspace, workspace::Quota};
use serde_json::json;

pub fn manifests(workspace: &RhizonWorkspace) -> Vec<Manifest> {
    let namespace = workspace.namespace_name();
    vec![
        quota(namespace, &workspace.spec.quota),
        limit_range(namespace),
        default_service_account(namespace),
        tenant_role(namespace),
    ]
}

fn quota(namespace: &str, quota: &Quota) -> Manifest {
    let Quota { cpu, memory, storage, pods } = quota;
    Manifest::new(json!({
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "rhizon", "namespace": namespace},
        "spec": {"hard": {
            "requests.cpu": cpu,
            "limits.memory": memory,
            "requests.storage": storage,
            "pods": pods.to_string(),
        }},
    }))
}

/// What a container gets that asks for nothing; a quota refuses those without limits.
fn limit_range(namespace: &str) -> Manifest {
    Manifest::new(json!({
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": {"name": "rhizon", "namespace": namespace},
        "spec": {"limits": [{
            "type": "Container",
            "default": {"memory": "256Mi"},
            "defaultRequest": {"cpu": "50m", "memory": "64Mi"},
        }]},
    }))
}

/// Pods that name no account get no token.
fn default_service_account(namespace: &str) -> Manifest {
    Manifest::new(json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "default", "namespace": namespace},
        "automountServiceAccountToken": false,
    }))
}

/// Agents and their events, and nothing that holds credentials. The platform team binds it to the tenant's people.
fn tenant_role(namespace: &str) -> Manifest {
    Manifest::new(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "rhizon-tenant", "namespace": namespace},
        "rules": [
            {
                "apiGroups": ["rhizon.dev"],
                "resources": ["rhizonagents"],
                "verbs": ["get", "list", "watch", "create", "update", "patch", "delete"],
            },
            {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["get", "list", "watch"]},
        ],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenants_role_reaches_no_secrets_pods_or_workloads() {
        let role = tenant_role("permits");
        let resources: Vec<&str> = role.value()["rules"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|rule| rule["resources"].as_array().unwrap())
            .map(|resource| resource.as_str().unwrap())
            .collect();
        assert_eq!(resources, ["rhizonagents", "events"]);
    }
}
