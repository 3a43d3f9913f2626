//! Decides, from policies, pods and namespaces, who may reach whom. Pure: the same objects give the same plan.

use std::collections::{BTreeMap, BTreeSet};

use super::cidr::Cidr;
use super::objects::{Direction, IpBlock, Labels, Namespace, Peer, Pod, Policy, PolicyPort, PortName, Protocol, Rule};

/// A pod that at least one policy isolates in one direction, and everything that policies allow it there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Isolated {
    pub uid: String,
    pub address: Cidr,
    pub allowed: BTreeSet<Allowed>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Allowed {
    /// The other end: the source for ingress, the destination for egress.
    pub peer: Cidr,
    pub port: Port,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Port {
    Any,
    AnyOf(Protocol),
    Range(Protocol, u16, u16),
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub ingress: Vec<Isolated>,
    pub egress: Vec<Isolated>,
}

struct World<'a> {
    pods: Vec<&'a Pod>,
    namespaces: BTreeMap<&'a str, &'a Labels>,
}

pub(super) fn plan(policies: &[Policy], pods: &[Pod], namespaces: &[Namespace]) -> Plan {
    let labels = namespaces.iter().map(|namespace| (namespace.metadata.name.as_str(), &namespace.metadata.labels));
    let world = World { pods: pods.iter().filter(|pod| pod.is_subject()).collect(), namespaces: labels.collect() };
    Plan {
        ingress: plan_direction(Direction::Ingress, policies, &world),
        egress: plan_direction(Direction::Egress, policies, &world),
    }
}

fn plan_direction(direction: Direction, policies: &[Policy], world: &World) -> Vec<Isolated> {
    let mut isolated: Vec<Isolated> =
        world.pods.iter().filter_map(|pod| isolate(direction, pod, policies, world)).collect();
    isolated.sort_by_key(|pod| pod.address);
    isolated
}

fn isolate(direction: Direction, pod: &Pod, policies: &[Policy], world: &World) -> Option<Isolated> {
    let address = Cidr::parse(&pod.status.pod_ip)?;
    let policies: Vec<&Policy> = policies
        .iter()
        .filter(|policy| policy.metadata.namespace == pod.metadata.namespace && policy.spec.applies_to(direction))
        .filter(|policy| policy.spec.pod_selector.matches(&pod.metadata.labels))
        .collect();
    if policies.is_empty() {
        return None;
    }
    let rules = policies.iter().flat_map(|policy| policy.spec.rules(direction));
    let allowed = rules.flat_map(|rule| allow(direction, pod, rule, world)).collect();
    Some(Isolated { uid: pod.metadata.uid.clone(), address, allowed })
}

/// One rule allows every combination of its peers and ports.
fn allow(direction: Direction, pod: &Pod, rule: &Rule, world: &World) -> Vec<Allowed> {
    let namespace = &pod.metadata.namespace;
    if rule.ports.is_empty() {
        let everyone = blocks(rule).chain(peers(rule, namespace, world).map(|(peer, _)| peer));
        return everyone.map(|peer| Allowed { peer, port: Port::Any }).collect();
    }
    let mut allowed = Vec::new();
    for port in &rule.ports {
        // A port's name is looked up in the pod that listens: the isolated one for ingress, the other one for egress.
        let own = resolve(port, (direction == Direction::Ingress).then_some(pod));
        allowed.extend(own.into_iter().flat_map(|port| blocks(rule).map(move |peer| Allowed { peer, port })));
        for (peer, other) in peers(rule, namespace, world) {
            let listener = if direction == Direction::Ingress { pod } else { other };
            allowed.extend(resolve(port, Some(listener)).map(|port| Allowed { peer, port }));
        }
    }
    allowed
}

/// The rule's peers that are blocks of addresses. A rule without peers means everybody.
fn blocks(rule: &Rule) -> impl Iterator<Item = Cidr> {
    let everybody = rule.peers.is_empty().then_some(Cidr::ALL);
    everybody.into_iter().chain(rule.peers.iter().filter_map(|peer| peer.ip_block.as_ref()).flat_map(addresses))
}

fn addresses(block: &IpBlock) -> Vec<Cidr> {
    let except: Vec<Cidr> = block.except.iter().filter_map(|except| Cidr::parse(except)).collect();
    Cidr::parse(&block.cidr).map(|cidr| cidr.without(&except)).unwrap_or_default()
}

/// The rule's peers that are pods. Where a rule means everybody they count too: a port's name may need them.
fn peers<'a>(rule: &'a Rule, namespace: &'a str, world: &'a World) -> impl Iterator<Item = (Cidr, &'a Pod)> {
    let selected =
        move |pod: &Pod| rule.peers.is_empty() || rule.peers.iter().any(|peer| selects(peer, pod, namespace, world));
    let pods = world.pods.iter().copied().filter(move |pod| selected(pod));
    pods.filter_map(|pod| Some((Cidr::parse(&pod.status.pod_ip)?, pod)))
}

fn selects(peer: &Peer, pod: &Pod, namespace: &str, world: &World) -> bool {
    if peer.ip_block.is_some() || (peer.pod_selector.is_none() && peer.namespace_selector.is_none()) {
        return false;
    }
    let in_namespace = match &peer.namespace_selector {
        None => pod.metadata.namespace == namespace,
        Some(selector) => {
            world.namespaces.get(pod.metadata.namespace.as_str()).is_some_and(|labels| selector.matches(labels))
        }
    };
    in_namespace && peer.pod_selector.as_ref().is_none_or(|selector| selector.matches(&pod.metadata.labels))
}

/// Nothing when a name means no port of the pod that listens, or when that is no pod.
fn resolve(port: &PolicyPort, listener: Option<&Pod>) -> Option<Port> {
    let first = match &port.port {
        None => return Some(Port::AnyOf(port.protocol)),
        Some(PortName::Number(number)) => *number,
        Some(PortName::Name(name)) => listener?.port_number(name, port.protocol)?,
    };
    Some(Port::Range(port.protocol, first, port.end_port.unwrap_or(first)))
}
