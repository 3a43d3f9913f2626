//! etcd, the API server, the controller manager and the scheduler, as processes in the node's network namespace.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::network::{NODE_IP, SERVICE_RANGE};
use super::{Cluster, certs};
use crate::{exec, tools, ui};

/// Who wrote what, without contents. Reads are left out: nobody counts them, and they are most of the traffic.
const AUDIT_POLICY: &str = r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
"rules": [{"level": "None", "verbs": ["get", "list", "watch"]}, {"level": "Metadata"}]}"#;

pub(super) fn ensure(cluster: &Cluster) -> Result<()> {
    certs::ensure(&cluster.certificates())?;
    certs::write_kubeconfigs(&cluster.certificates(), &cluster.state)?;
    fs::copy(cluster.client_config("admin"), cluster.kubeconfig())?;
    fs::write(cluster.state.join("audit-policy.json"), AUDIT_POLICY)?;
    cluster.start("etcd", &mut etcd(cluster)?)?;
    cluster.start("kube-apiserver", &mut api_server(cluster)?)?;
    wait_ready(cluster, Duration::from_secs(90))?;
    // They give up when they start before the API server has made their roles.
    cluster.start("kube-controller-manager", &mut controller_manager(cluster)?)?;
    cluster.start("kube-scheduler", &mut scheduler(cluster)?)
}

/// The API server answers, and its own roles and namespaces are in place.
pub(super) fn wait_ready(cluster: &Cluster, limit: Duration) -> Result<()> {
    ui::wait_for("the API server", limit, || {
        cluster.daemons().check("etcd")?;
        cluster.daemons().check("kube-apiserver")?;
        Ok(exec::succeeds(cluster.kubectl(["get", "--raw", "/readyz", "--request-timeout=2s"])?.arg("-v=0"))
            .then_some(()))
    })
}

fn etcd(cluster: &Cluster) -> Result<Command> {
    let url = "http://127.0.0.1:2379";
    let mut command = exec::command(tools::path("etcd")?, ["--name=rhizon", "--unsafe-no-fsync", "--log-level=warn"]);
    command.arg(format!("--data-dir={}", cluster.state.join("etcd").display()));
    command.arg(format!("--listen-client-urls={url}")).arg(format!("--advertise-client-urls={url}"));
    command.args(["--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380"]);
    command.arg("--initial-cluster=rhizon=http://127.0.0.1:2380");
    Ok(command)
}

fn api_server(cluster: &Cluster) -> Result<Command> {
    let file = |name: &str| cluster.certificates().join(name).display().to_string();
    let issuer = "https://kubernetes.default.svc.cluster.local";
    let mut command = exec::command(
        tools::path("kube-apiserver")?,
        [
            "--etcd-servers=http://127.0.0.1:2379",
            "--bind-address=0.0.0.0",
            "--secure-port=6443",
            "--allow-privileged=true",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--kubelet-preferred-address-types=InternalIP",
            "--profiling=false",
            "--audit-log-maxsize=500",
            "--audit-log-maxbackup=1",
        ],
    );
    command.arg(format!("--advertise-address={NODE_IP}"));
    command.arg(format!("--service-cluster-ip-range={SERVICE_RANGE}"));
    command.arg(format!("--client-ca-file={}", file("ca.crt")));
    command.arg(format!("--tls-cert-file={}", file("apiserver.crt")));
    command.arg(format!("--tls-private-key-file={}", file("apiserver.key")));
    command.arg(format!("--kubelet-certificate-authority={}", file("ca.crt")));
    command.arg(format!("--kubelet-client-certificate={}", file("apiserver-kubelet-client.crt")));
    command.arg(format!("--kubelet-client-key={}", file("apiserver-kubelet-client.key")));
    command.arg(format!("--service-account-issuer={issuer}"));
    command.arg(format!("--service-account-jwks-uri={issuer}/openid/v1/jwks"));
    command.arg(format!("--service-account-key-file={}", file("service-accounts.key")));
    command.arg(format!("--service-account-signing-key-file={}", file("service-accounts.key")));
    command.arg(format!("--audit-policy-file={}", cluster.state.join("audit-policy.json").display()));
    command.arg(format!("--audit-log-path={}", cluster.audit_log().display()));
    Ok(command)
}

fn controller_manager(cluster: &Cluster) -> Result<Command> {
    let file = |name: &str| cluster.certificates().join(name).display().to_string();
    let config = cluster.client_config("kube-controller-manager");
    let mut command = exec::command(
        tools::path("kube-controller-manager")?,
        ["--leader-elect=false", "--use-service-account-credentials=true", "--bind-address=127.0.0.1"],
    );
    for flag in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
        command.arg(format!("--{flag}={}", config.display()));
    }
    command.arg(format!("--root-ca-file={}", file("ca.crt")));
    command.arg(format!("--cluster-signing-cert-file={}", file("ca.crt")));
    command.arg(format!("--cluster-signing-key-file={}", file("ca.key")));
    command.arg(format!("--service-account-private-key-file={}", file("service-accounts.key")));
    Ok(command)
}

fn scheduler(cluster: &Cluster) -> Result<Command> {
    let config = cluster.client_config("kube-scheduler");
    let mut command =
        exec::command(tools::path("kube-scheduler")?, ["--leader-elect=false", "--bind-address=127.0.0.1"]);
    for flag in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
        command.arg(format!("--{flag}={}", config.display()));
    }
    Ok(command)
}

/// Applies YAML or JSON as the cluster's administrator.
pub(crate) fn apply(cluster: &Cluster, manifest: &str) -> Result<()> {
    exec::output_with_input(&mut cluster.kubectl(["apply", "--server-side", "--force-conflicts", "-f", "-"])?, manifest)
        .map(drop)
        .context("cannot apply a manifest to the cluster")
}
