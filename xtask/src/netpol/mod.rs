//! Enforces network policies on the one node of a cluster without Docker: reads policies, pods and namespaces, decides ([`plan`]),
//! writes iptables rules ([`rules`]) in one step.

mod cidr;
mod objects;
mod plan;
mod rules;
#[cfg(test)]
mod tests;

use std::fmt::Write;

use anyhow::{Context, Result};

use crate::cluster::api::Api;
use crate::exec;
use objects::{List, Namespace, Pod, Policy};
use rules::{FORWARD, INPUT};

/// Runs in the node's network namespace and remembers what it wrote, to write only changes.
#[derive(Default)]
pub(crate) struct Enforcer {
    written: String,
}

impl Enforcer {
    pub(crate) fn enforce(&mut self, api: &Api) -> Result<()> {
        let policies: List<Policy> = api.get("/apis/networking.k8s.io/v1/networkpolicies")?;
        let pods: List<Pod> = api.get("/api/v1/pods")?;
        let namespaces: List<Namespace> = api.get("/api/v1/namespaces")?;
        let wanted = rules::render(&plan::plan(&policies.items, &pods.items, &namespaces.items));
        let present = exec::output(&mut exec::command("iptables", ["-w", "5", "-S"]))?;
        let jumps = missing_jumps(&present);
        if wanted == self.written && jumps.is_empty() {
            return Ok(());
        }
        let input = format!("*filter\n{wanted}{jumps}{}COMMIT\n", outdated_chains(&present, &wanted));
        exec::output_with_input(&mut exec::command("iptables-restore", ["-w", "5", "--noflush"]), &input)
            .with_context(|| format!("cannot write these rules:\n{input}"))?;
        self.written = wanted;
        Ok(())
    }
}

/// Our chains come first: kube-proxy's accept what it translated.
fn missing_jumps(present: &str) -> String {
    let mut jumps = String::new();
    for (from, to) in [("FORWARD", FORWARD), ("INPUT", INPUT)] {
        let jump = format!("-A {from} -j {to}");
        let rules: Vec<&str> = present.lines().filter(|line| line.starts_with(&format!("-A {from} "))).collect();
        if rules.first() == Some(&jump.as_str()) {
            continue;
        }
        if rules.contains(&jump.as_str()) {
            let _ = writeln!(jumps, "-D {from} -j {to}");
        }
        let _ = writeln!(jumps, "-I {from} 1 -j {to}");
    }
    jumps
}

/// Chains of pods that are gone. They are emptied first, by declaring them; nothing jumps to them any more.
fn outdated_chains(present: &str, wanted: &str) -> String {
    let chains = present.lines().filter_map(|line| line.strip_prefix("-N "));
    let mut deletions = String::new();
    for chain in chains.filter(|chain| rules::is_pod_chain(chain) && !wanted.contains(&format!(":{chain} "))) {
        let _ = writeln!(deletions, "-F {chain}\n-X {chain}");
    }
    deletions
}
