//! The node under the pods: the only place from which a container's first process can be killed.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::cluster::Cluster;
use super::installation::{run, variable};
use super::pods;
use super::wait::until;

/// Kills everything in a pod's running container with SIGKILL.
pub(crate) async fn kill(cluster: &Cluster, namespace: &str, pod: &str, container: &str) {
    let api = cluster.within::<Pod>(namespace);
    let id = until(&format!("{container} of {namespace}/{pod} runs"), Duration::from_mins(1), async || {
        let pod = api.get(pod).await.map_err(|error| error.to_string())?;
        let status = pods::container(&pod, container).ok_or("it has no status")?;
        let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
        let id = status.container_id.as_deref().and_then(|id| id.split_once("://")).filter(|_| running);
        id.map(|(_, id)| id.to_owned()).ok_or_else(|| format!("{:?}", status.state))
    })
    .await;
    // A process's control groups name its container.
    let script = format!("kill -9 $(grep -sl {id} /proc/[0-9]*/cgroup | cut -d/ -f3)");
    run(&mut shell(&script));
}

/// A shell on the node: in Docker's container with kind, on this machine otherwise.
fn shell(script: &str) -> Command {
    if Path::new(&variable("RHIZON_STATE")).join("kind").exists() {
        let mut command = Command::new("docker");
        command.args(["exec", "rhizon-control-plane", "sh", "-c", script]);
        return command;
    }
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}
