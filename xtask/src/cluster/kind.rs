//! The cluster in Docker, where Docker works and kind is installed. Its network plugin enforces policies by itself.

use std::fs;

use anyhow::Result;

use super::Cluster;
use crate::{dirs, exec, ui};

pub(super) const CLUSTER: &str = "rhizon";

pub(super) fn usable() -> bool {
    exec::exists("kind") && exec::succeeds(&mut exec::command("docker", ["info"]))
}

pub(super) fn up(cluster: &Cluster) -> Result<()> {
    ui::step("kind cluster", || {
        fs::create_dir_all(&cluster.state)?;
        fs::write(cluster.state.join("kind"), CLUSTER)?;
        delete()?;
        let mut create = exec::command("kind", ["create", "cluster", "--name", CLUSTER, "--wait", "180s", "--config"]);
        create.arg(dirs::repository().join("kind-config.yaml")).arg("--kubeconfig").arg(cluster.kubeconfig());
        exec::run(&mut create)
    })
}

pub(super) fn delete() -> Result<()> {
    exec::run(&mut exec::command("kind", ["delete", "cluster", "--name", CLUSTER]))
}
