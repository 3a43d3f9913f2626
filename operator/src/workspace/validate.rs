//! Does a workspace make sense, in itself and in this cluster? Pure.

use super::{build::ownership, dereference::Inputs};
use crate::cluster;
use k8s_openapi::api::core::v1::Namespace;
use rhizon_api::{
    RhizonWorkspace,
    settings::{self, Access, Issuer},
    workspace::Isolation,
};
use std::net::IpAddr;

/// Why a resource cannot be brought about, for its condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub reason: &'static str,
    pub message: String,
}

impl Problem {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What the API server does not take.
impl From<cluster::Error> for Problem {
    fn from(error: cluster::Error) -> Self {
        Self::new("ApplyRefused", error.to_string())
    }
}

/// What the gateway is told about callers.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayAccess {
    pub issuers: Vec<Issuer>,
    pub access: Vec<Access>,
}

/// The first problem, or what was worked out on the way.
pub fn validate(
    workspace: &RhizonWorkspace,
    inputs: &Inputs,
    operator_namespace: &str,
) -> Result<GatewayAccess, Problem> {
    if workspace.spec.isolation == Isolation::Dedicated {
        let message = "spec.isolation: Dedicated is not supported by this version; use Account";
        return Err(Problem::new("IsolationNotSupported", message));
    }
    namespace(workspace, inputs, operator_namespace)?;
    network(workspace)?;
    gateway(workspace, &inputs.issuer)
}

fn namespace(workspace: &RhizonWorkspace, inputs: &Inputs, operator_namespace: &str) -> Result<(), Problem> {
    let name = workspace.namespace_name();
    if name == operator_namespace || name == "default" || name.starts_with("kube-") {
        let message = format!("namespace {name} is the cluster's own; set spec.namespace to another name");
        return Err(Problem::new("NamespaceReserved", message));
    }
    if let Some(rival) = &inputs.rival {
        let message = format!("namespace {name} belongs to workspace {rival}; set spec.namespace to another name");
        return Err(Problem::new("NamespaceTaken", message));
    }
    match &inputs.namespace {
        None => Ok(()),
        Some(live) if live.metadata.deletion_timestamp.is_some() => {
            let message = format!("namespace {name} is being deleted; a new one follows when it is gone");
            Err(Problem::new("NamespaceTerminating", message))
        }
        Some(live) if is_ours(workspace, live) || workspace.spec.adopt_namespace => Ok(()),
        Some(_) => {
            let message = format!(
                "namespace {name} exists already and was not made for this workspace; set spec.namespace to another \
                 name, or spec.adoptNamespace to true to take it over"
            );
            Err(Problem::new("NamespaceTaken", message))
        }
    }
}

fn is_ours(workspace: &RhizonWorkspace, live: &Namespace) -> bool {
    ownership::owner(live) == workspace.metadata.uid.as_deref()
}

fn network(workspace: &RhizonWorkspace) -> Result<(), Problem> {
    for (index, egress) in workspace.spec.network.egress.iter().enumerate() {
        let prefix = egress.cidr.split_once('/').and_then(|(address, bits)| {
            let address: IpAddr = address.parse().ok()?;
            let bits: u8 = bits.parse().ok()?;
            (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some(bits)
        });
        if prefix.is_none() {
            let message = format!(
                "spec.network.egress[{index}].cidr: {:?} is no address range; write one such as 203.0.113.0/24",
                egress.cidr
            );
            return Err(Problem::new("InvalidNetwork", message));
        }
    }
    Ok(())
}

fn gateway(workspace: &RhizonWorkspace, kubernetes: &Issuer) -> Result<GatewayAccess, Problem> {
    let gateway = &workspace.spec.gateway;
    let mut issuers = vec![kubernetes.clone()];
    for (index, issuer) in gateway.issuers.iter().enumerate() {
        let jwks = serde_json::from_str(&issuer.jwks).map_err(|error| {
            Problem::new("InvalidIssuer", format!("spec.gateway.issuers[{index}].jwks is no JSON: {error}"))
        })?;
        issuers.push(Issuer { issuer: issuer.issuer.clone(), jwks });
    }
    let mut access = Vec::new();
    for (index, rule) in gateway.access.iter().enumerate() {
        let field = format!("spec.gateway.access[{index}]");
        let issuer = if rule.issuer == "kubernetes" { &kubernetes.issuer } else { &rule.issuer };
        if !issuers.iter().any(|known| &known.issuer == issuer) {
            let message = format!("{field}.issuer: {issuer} is neither kubernetes nor one of spec.gateway.issuers");
            return Err(Problem::new("InvalidIssuer", message));
        }
        let send = settings::parse_types(&format!("{field}.send"), &rule.send)
            .map_err(|error| Problem::new(error.reason(), error.to_string()))?;
        access.push(Access {
            issuer: issuer.clone(),
            subject: rule.subject.clone(),
            roles: rule.roles.clone(),
            send,
            sources: rule.sources.clone(),
            read: rule.read,
        });
    }
    Ok(GatewayAccess { issuers, access })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn workspace(spec: &Value) -> RhizonWorkspace {
        serde_json::from_value(json!({
            "apiVersion": "rhizon.dev/v1alpha1", "kind": "RhizonWorkspace",
            "metadata": {"name": "permits", "uid": "u1"}, "spec": spec,
        }))
        .unwrap()
    }

    fn inputs() -> Inputs {
        let issuer = Issuer { issuer: "https://cluster".to_owned(), jwks: json!({"keys": []}) };
        Inputs { namespace: None, rival: None, agents: Vec::new(), consumers: Vec::new(), issuer, gateway_secret: None }
    }

    fn reason(spec: &Value, inputs: &Inputs) -> &'static str {
        validate(&workspace(spec), inputs, "rhizon-system").unwrap_err().reason
    }

    #[test]
    fn kubernetes_stands_for_the_clusters_issuer() {
        let spec = json!({"gateway": {"access": [{"subject": "s", "send": ["cmd.permit.*"]}]}});
        let found = validate(&workspace(&spec), &inputs(), "rhizon-system").unwrap();
        assert_eq!(found.access[0].issuer, "https://cluster");
    }

    #[test]
    fn a_namespace_that_is_not_ours_is_refused_unless_it_is_to_be_adopted() {
        let taken = Inputs {
            namespace: Some(serde_json::from_value(json!({"metadata": {"name": "permits", "uid": "x"}})).unwrap()),
            ..inputs()
        };
        assert_eq!(reason(&json!({}), &taken), "NamespaceTaken");
        assert!(validate(&workspace(&json!({"adoptNamespace": true})), &taken, "rhizon-system").is_ok());
        let ours = json!({"metadata": {"name": "permits", "annotations": {"rhizon.dev/workspace-uid": "u1"}}});
        let ours = Inputs { namespace: Some(serde_json::from_value(ours).unwrap()), ..inputs() };
        assert!(validate(&workspace(&json!({})), &ours, "rhizon-system").is_ok());
    }

    #[test]
    fn each_kind_of_nonsense_has_its_reason() {
        assert_eq!(reason(&json!({"isolation": "Dedicated"}), &inputs()), "IsolationNotSupported");
        assert_eq!(reason(&json!({"namespace": "kube-system"}), &inputs()), "NamespaceReserved");
        assert_eq!(reason(&json!({"network": {"egress": [{"cidr": "10.0.0.0/64"}]}}), &inputs()), "InvalidNetwork");
        let access = json!({"gateway": {"access": [{"issuer": "https://other", "subject": "s"}]}});
        assert_eq!(reason(&access, &inputs()), "InvalidIssuer");
        let access = json!({"gateway": {"access": [{"subject": "s", "send": ["nonsense"]}]}});
        assert_eq!(reason(&access, &inputs()), "InvalidType");
        let rival = Inputs { rival: Some("elder".to_owned()), ..inputs() };
        assert_eq!(reason(&json!({}), &rival), "NamespaceTaken");
    }
}
