//! A plan as input for `iptables-restore`.
//!
//! ```text
//! FORWARD ─▶ RHIZON-FORWARD ─▶ RZE-<pod>  from an isolated pod: returns if allowed, else rejects
//!                           └▶ RZI-<pod>  to an isolated pod: the same
//! INPUT ───▶ RHIZON-INPUT   ─▶ RZE-<pod>  from an isolated pod to the node (API server, kubelet, host ports)
//! ```
//!
//! Services are translated before these chains, so addresses and ports are those of the pod, or node, behind them. What the node itself
//! sends to pods (probes, hooks) passes neither chain.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::objects::Protocol;
use super::plan::{Isolated, Plan, Port};
use crate::tools::hex;

pub(super) const FORWARD: &str = "RHIZON-FORWARD";
pub(super) const INPUT: &str = "RHIZON-INPUT";
const EGRESS_PREFIX: &str = "RZE-";
const INGRESS_PREFIX: &str = "RZI-";

/// The content of our chains. Declaring a chain empties it, so the same text always gives the same rules.
pub(super) fn render(plan: &Plan) -> String {
    let mut text = format!(":{FORWARD} - [0:0]\n:{INPUT} - [0:0]\n");
    for (prefix, pods) in [(EGRESS_PREFIX, &plan.egress), (INGRESS_PREFIX, &plan.ingress)] {
        for pod in pods {
            let _ = writeln!(text, ":{} - [0:0]", chain(prefix, pod));
        }
    }
    for chain in [FORWARD, INPUT] {
        let _ = writeln!(text, "-A {chain} -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN");
    }
    for pod in &plan.egress {
        render_pod(&mut text, EGRESS_PREFIX, "-d", pod);
        for from in [FORWARD, INPUT] {
            let _ = writeln!(text, "-A {from} -s {} -j {}", pod.address, chain(EGRESS_PREFIX, pod));
        }
    }
    for pod in &plan.ingress {
        render_pod(&mut text, INGRESS_PREFIX, "-s", pod);
        let _ = writeln!(text, "-A {FORWARD} -d {} -j {}", pod.address, chain(INGRESS_PREFIX, pod));
    }
    text
}

/// Whether a chain of an earlier plan: those not declared again are deleted.
pub(super) fn is_pod_chain(name: &str) -> bool {
    name.starts_with(EGRESS_PREFIX) || name.starts_with(INGRESS_PREFIX)
}

fn render_pod(text: &mut String, prefix: &str, peer_flag: &str, pod: &Isolated) {
    let chain = chain(prefix, pod);
    // A pod always reaches itself.
    let _ = writeln!(text, "-A {chain} {peer_flag} {} -j RETURN", pod.address);
    for allowed in &pod.allowed {
        let port = match allowed.port {
            Port::Any => String::new(),
            Port::AnyOf(protocol) => format!(" -p {}", name(protocol)),
            Port::Range(protocol, first, last) => format!(" -p {0} -m {0} --dport {first}:{last}", name(protocol)),
        };
        let _ = writeln!(text, "-A {chain} {peer_flag} {}{port} -j RETURN", allowed.peer);
    }
    let _ = writeln!(text, "-A {chain} -j REJECT --reject-with icmp-admin-prohibited");
}

/// iptables allows 28 characters.
fn chain(prefix: &str, pod: &Isolated) -> String {
    format!("{prefix}{}", &hex(&Sha256::digest(pod.uid.as_bytes()))[..16])
}

fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}
