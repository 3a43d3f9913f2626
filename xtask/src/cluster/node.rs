//! The node: containerd, the kubelet and kube-proxy, all with their files in the state folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::network::{DNS_SERVICE_IP, NODE_IP, POD_RANGE};
use super::{Cluster, cgroups};
use crate::{exec, tools, ui};

pub(crate) const NAME: &str = "rhizon";
/// Sockets and mounts: paths of sockets must be short, and the state folder's may not be.
pub(crate) const RUN: &str = "/run/rhizon";
pub(crate) const PAUSE_IMAGE: &str = "localhost/rhizon/pause:1";

pub(crate) fn socket() -> PathBuf {
    Path::new(RUN).join("containerd.sock")
}

pub(crate) fn ensure_containerd(cluster: &Cluster) -> Result<()> {
    let cni = cluster.state.join("cni");
    fs::create_dir_all(&cni)?;
    fs::write(cni.join("10-rhizon.conflist"), serde_json::to_string_pretty(&cni_config(cluster))?)?;
    fs::write(cluster.state.join("containerd.toml"), containerd_config(cluster)?)?;
    let config = format!("--config={}", cluster.state.join("containerd.toml").display());
    cluster.start("containerd", &mut exec::command("containerd", [config]))?;
    ui::wait_for("containerd", Duration::from_secs(30), || {
        cluster.daemons().check("containerd")?;
        Ok(exec::succeeds(&mut ctr(["version"])).then_some(()))
    })
}

pub(crate) fn ensure_kubelet(cluster: &Cluster) -> Result<()> {
    cgroups::ensure()?;
    let config = cluster.state.join("kubelet.json");
    fs::write(&config, serde_json::to_string_pretty(&kubelet_config(cluster))?)?;
    fs::write(cluster.state.join("resolv.conf"), "")?;
    let mut command = exec::command(tools::path("kubelet")?, [format!("--config={}", config.display())]);
    command.arg(format!("--kubeconfig={}", cluster.client_config("kubelet").display()));
    command.arg(format!("--root-dir={}", cluster.state.join("kubelet").display()));
    command.arg(format!("--hostname-override={NAME}")).arg(format!("--node-ip={NODE_IP}"));
    cluster.start("kubelet", &mut command)?;
    cluster.start("kube-proxy", &mut kube_proxy(cluster)?)
}

pub(crate) fn wait_ready(cluster: &Cluster, limit: Duration) -> Result<()> {
    ui::wait_for("the node", limit, || {
        cluster.daemons().check("kubelet")?;
        cluster.daemons().check("containerd")?;
        let path = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
        let status = exec::output(&mut cluster.kubectl(["get", "node", NAME, "-o", path])?)?;
        Ok((status == "True").then_some(()))
    })
}

/// containerd's own client, in the namespace that the kubelet uses.
pub(crate) fn ctr<'a>(args: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = exec::command("ctr", ["--namespace=k8s.io", "--address"]);
    command.arg(socket()).args(args);
    command
}

fn containerd_config(cluster: &Cluster) -> Result<String> {
    let state = cluster.state.display();
    // An overlay cannot lie on an overlay, which is what the root of a container often is.
    let kind = exec::output(exec::command("stat", ["--file-system", "--format=%T"]).arg(&cluster.state))?;
    let snapshotter = if kind.trim() == "overlayfs" { "native" } else { "overlayfs" };
    // `restrict_oom_score_adj`: without CAP_SYS_RESOURCE runc dies when it lowers a container's score.
    Ok(format!(
        r#"version = 2
root = "{state}/containerd"
state = "{RUN}/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]
[grpc]
address = "{RUN}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{state}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{snapshotter}"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"#
    ))
}

/// One routed pair of interfaces per pod instead of a bridge: all traffic between pods then passes the node's FORWARD chain,
/// where network policies are enforced, whether or not the kernel shows bridged packets to iptables.
fn cni_config(cluster: &Cluster) -> Value {
    let ranges = json!([[{ "subnet": POD_RANGE.replace("/16", "/22") }]]);
    json!({
        "cniVersion": "0.4.0", "name": "rhizon",
        "plugins": [
            { "type": "ptp", "ipMasq": false, "ipam": {
                "type": "host-local", "ranges": ranges, "routes": [{ "dst": "0.0.0.0/0" }],
                "dataDir": cluster.state.join("cni-addresses") } },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}

fn kubelet_config(cluster: &Cluster) -> Value {
    let certificates = cluster.certificates();
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": format!("unix://{}", socket().display()),
        "authentication": { "anonymous": { "enabled": false }, "webhook": { "enabled": true },
            "x509": { "clientCAFile": certificates.join("ca.crt") } },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": certificates.join("kubelet-server.crt"),
        "tlsPrivateKeyFile": certificates.join("kubelet-server.key"),
        "clusterDNS": [DNS_SERVICE_IP], "clusterDomain": "cluster.local",
        "resolvConf": cluster.state.join("resolv.conf"),
        "cgroupDriver": "cgroupfs", "cgroupRoot": cgroups::ROOT, "failCgroupV1": false, "failSwapOn": false,
        "podLogsDir": cluster.pod_logs(), "volumePluginDir": cluster.state.join("volume-plugins"),
        "maxPods": 500, "serializeImagePulls": true,
        // Nothing here may be cleaned up for want of space: images cannot be pulled again.
        "imageGCHighThresholdPercent": 100, "imageMinimumGCAge": "24h",
        "evictionHard": { "memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%" },
        "registerNode": true,
    })
}

fn kube_proxy(cluster: &Cluster) -> Result<Command> {
    let config = cluster.client_config("kube-proxy");
    let mut command = exec::command(tools::path("kube-proxy")?, [format!("--kubeconfig={}", config.display())]);
    command.arg(format!("--hostname-override={NAME}")).arg(format!("--cluster-cidr={POD_RANGE}"));
    command.args([
        "--proxy-mode=iptables",
        "--bind-address=0.0.0.0",
        "--conntrack-max-per-core=0",
        "--conntrack-min=0",
    ]);
    Ok(command)
}

/// The kubelet leaves links to its pods' logs in a folder that cannot be configured.
pub(crate) fn remove_log_links(pod_logs: &Path) -> Result<()> {
    for entry in fs::read_dir("/var/log/containers").into_iter().flatten().flatten() {
        if fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(pod_logs)) {
            fs::remove_file(entry.path()).context("cannot remove a link to a pod's log")?;
        }
    }
    Ok(())
}
