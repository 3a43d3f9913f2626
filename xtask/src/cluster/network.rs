//! The network namespace in which the whole node lives, and the one pair of interfaces that reaches it.
//!
//! ```text
//! host  rhizon0 10.89.0.1 ───── 10.89.0.2 eth0  node (namespace `rhizon`)  ── pods 10.244.0.0/16
//!       routes to pods and services ──▶                                    ── services 10.96.0.0/16
//! ```

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::exec;

pub(super) const NAMESPACE: &str = "rhizon";
pub(super) const NODE_IP: &str = "10.89.0.2";
pub(super) const POD_RANGE: &str = "10.244.0.0/16";
pub(super) const SERVICE_RANGE: &str = "10.96.0.0/16";
pub(super) const API_SERVICE_IP: &str = "10.96.0.1";
pub(super) const DNS_SERVICE_IP: &str = "10.96.0.10";

const HOST_IP: &str = "10.89.0.1";
const HOST_INTERFACE: &str = "rhizon0";

pub(super) fn namespace_path() -> PathBuf {
    Path::new("/run/netns").join(NAMESPACE)
}

pub(super) fn exists() -> bool {
    namespace_path().exists()
}

pub(super) fn ensure() -> Result<()> {
    if !exists() {
        ip(&format!("netns add {NAMESPACE}"))?;
    }
    if !Path::new("/sys/class/net").join(HOST_INTERFACE).exists() {
        ip(&format!("link add {HOST_INTERFACE} type veth peer name eth0 netns {NAMESPACE}"))?;
    }
    ip(&format!("address replace {HOST_IP}/30 dev {HOST_INTERFACE}"))?;
    ip(&format!("link set {HOST_INTERFACE} up"))?;
    ip(&format!("-n {NAMESPACE} link set lo up"))?;
    ip(&format!("-n {NAMESPACE} address replace {NODE_IP}/30 dev eth0"))?;
    ip(&format!("-n {NAMESPACE} link set eth0 up"))?;
    // Without a route the node could not address a service before kube-proxy's rules translate it. There is no default
    // route: whatever a pod sends to the world ends here.
    ip(&format!("-n {NAMESPACE} route replace {SERVICE_RANGE} dev eth0"))?;
    for range in [POD_RANGE, SERVICE_RANGE] {
        ip(&format!("route replace {range} via {NODE_IP} dev {HOST_INTERFACE}"))?;
    }
    inside(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
}

/// Runs a command in the node's namespace.
pub(super) fn inside(words: &[&str]) -> Result<()> {
    let namespace = format!("--net={}", namespace_path().display());
    exec::run(exec::command("nsenter", [namespace.as_str(), "--"]).args(words))
}

/// The pair's other end and the routes go with the namespace.
pub(super) fn remove() -> Result<()> {
    if Path::new("/sys/class/net").join(HOST_INTERFACE).exists() {
        ip(&format!("link delete {HOST_INTERFACE}"))?;
    }
    if exists() {
        ip(&format!("netns delete {NAMESPACE}"))?;
    }
    Ok(())
}

/// The processes that live in the namespace: whatever they are, `up` started them or their parents.
pub(super) fn processes() -> Result<Vec<u32>> {
    if !exists() {
        return Ok(Vec::new());
    }
    let pids = exec::output(&mut exec::command("ip", ["netns", "pids", NAMESPACE]))?;
    Ok(pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

fn ip(words: &str) -> Result<()> {
    exec::run(&mut exec::command("ip", words.split_whitespace()))
}
