//! CoreDNS as a pod with the labels that policies on any cluster select it by.

use std::time::Duration;

use anyhow::Result;

use super::network::DNS_SERVICE_IP;
use super::{Cluster, control_plane};
use crate::{exec, images, ui};

pub(super) fn ensure(cluster: &Cluster) -> Result<()> {
    let manifest = include_str!("manifests/coredns.yaml")
        .replace("COREDNS_IMAGE", &images::coredns()?.name)
        .replace("DNS_SERVICE_IP", DNS_SERVICE_IP);
    control_plane::apply(cluster, &manifest)
}

pub(super) fn wait_ready(cluster: &Cluster, limit: Duration) -> Result<()> {
    ui::wait_for("CoreDNS", limit, || {
        for name in ["kube-controller-manager", "kube-scheduler", "kube-proxy"] {
            cluster.daemons().check(name)?;
        }
        let args = ["get", "deployment", "coredns", "-n", "kube-system", "-o", "jsonpath={.status.readyReplicas}"];
        Ok((exec::output(&mut cluster.kubectl(args)?)? == "1").then_some(()))
    })
}
