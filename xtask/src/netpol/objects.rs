//! The parts of pods, namespaces and network policies that decide who may talk to whom.

use std::collections::BTreeMap;

use serde::Deserialize;

pub(super) type Labels = BTreeMap<String, String>;

#[derive(Deserialize)]
pub(super) struct List<T> {
    pub items: Vec<T>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Metadata {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub labels: Labels,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Namespace {
    pub metadata: Metadata,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pod {
    pub metadata: Metadata,
    pub spec: PodSpec,
    pub status: PodStatus,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodSpec {
    pub host_network: bool,
    pub containers: Vec<Container>,
    pub init_containers: Vec<Container>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Container {
    pub ports: Vec<ContainerPort>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ContainerPort {
    #[serde(default)]
    pub name: String,
    #[serde(rename = "containerPort")]
    pub number: u16,
    #[serde(default)]
    pub protocol: Protocol,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodStatus {
    pub phase: String,
    #[serde(rename = "podIP")]
    pub pod_ip: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Policy {
    pub metadata: Metadata,
    pub spec: PolicySpec,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PolicySpec {
    pub pod_selector: Selector,
    pub policy_types: Vec<Direction>,
    pub ingress: Vec<Rule>,
    pub egress: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Direction {
    Ingress,
    Egress,
}

/// One `ingress` or `egress` entry: `from` and `to` mean the same to us, the other end.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Rule {
    #[serde(alias = "from", alias = "to")]
    pub peers: Vec<Peer>,
    pub ports: Vec<PolicyPort>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Peer {
    pub pod_selector: Option<Selector>,
    pub namespace_selector: Option<Selector>,
    pub ip_block: Option<IpBlock>,
}

#[derive(Clone, Deserialize)]
pub(super) struct IpBlock {
    pub cidr: String,
    #[serde(default)]
    pub except: Vec<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PolicyPort {
    pub protocol: Protocol,
    pub port: Option<PortName>,
    pub end_port: Option<u16>,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum PortName {
    Number(u16),
    Name(String),
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Selector {
    pub match_labels: Labels,
    pub match_expressions: Vec<Expression>,
}

#[derive(Clone, Deserialize)]
pub(super) struct Expression {
    pub key: String,
    pub operator: Operator,
    #[serde(default)]
    pub values: Vec<String>,
}

#[derive(Clone, Copy, Deserialize)]
pub(super) enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl Selector {
    /// An empty selector selects everything.
    pub(super) fn matches(&self, labels: &Labels) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|expression| expression.matches(labels))
    }
}

impl Expression {
    fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            Operator::In => value.is_some_and(|value| self.values.contains(value)),
            Operator::NotIn => value.is_none_or(|value| !self.values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

impl PolicySpec {
    pub(super) fn applies_to(&self, direction: Direction) -> bool {
        match (self.policy_types.is_empty(), direction) {
            (false, _) => self.policy_types.contains(&direction),
            (true, Direction::Ingress) => true,
            (true, Direction::Egress) => !self.egress.is_empty(),
        }
    }

    pub(super) fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

impl Pod {
    /// Policies speak about pods with an address of their own. An ended pod's address may already be another's.
    pub(super) fn is_subject(&self) -> bool {
        !self.spec.host_network
            && !self.status.pod_ip.is_empty()
            && self.status.phase != "Succeeded"
            && self.status.phase != "Failed"
    }

    /// The number behind a port's name. A native sidecar is an init container and has ports too.
    pub(super) fn port_number(&self, name: &str, protocol: Protocol) -> Option<u16> {
        let containers = self.spec.containers.iter().chain(&self.spec.init_containers);
        let mut ports = containers.flat_map(|container| &container.ports);
        ports.find(|port| port.name == name && port.protocol == protocol).map(|port| port.number)
    }
}
