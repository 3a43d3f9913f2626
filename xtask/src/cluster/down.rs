//! Taking the cluster away: processes, mounts, control groups, interfaces and files, in the order in which they hold each other.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Cluster, DAEMONS, cgroups, daemon, kind, network, node};
use crate::{exec, ui};

/// `cargo xtask down`. Built tools stay in the cache.
pub(crate) fn down() -> Result<()> {
    let _lock = super::lock()?;
    let cluster = Cluster::locate()?;
    super::check_owner(&cluster)?;
    if !cluster.state.exists() && (cluster.kind || !network::exists()) {
        ui::note("no cluster is up");
        return Ok(());
    }
    ui::step("remove the cluster", || {
        if !cluster.kind {
            return remove_all(&cluster);
        }
        kind::delete()?;
        fs::remove_dir_all(&cluster.state).context("cannot remove the state folder")
    })
}

/// Every part may be gone already; what is there goes.
pub(super) fn remove_all(cluster: &Cluster) -> Result<()> {
    stop_daemons(cluster)?;
    end_pods()?;
    unmount_below(&[&cluster.state, Path::new(node::RUN)])?;
    network::remove()?;
    node::remove_log_links(&cluster.pod_logs())?;
    remove_cni_results()?;
    for folder in [cluster.state.as_path(), Path::new(node::RUN)] {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        }
    }
    Ok(())
}

/// The kubelet first, so that it restarts nothing; then the rest against the order of the start.
fn stop_daemons(cluster: &Cluster) -> Result<()> {
    let daemons = cluster.daemons();
    daemons.stop("kubelet")?;
    for name in DAEMONS.iter().rev() {
        daemons.stop(name)?;
    }
    daemons.names().iter().try_for_each(|name| daemons.stop(name))
}

/// What is left: containers in our control group, and their shims, which live in the node's network namespace.
fn end_pods() -> Result<()> {
    let limit = Instant::now() + Duration::from_secs(20);
    loop {
        let mut pids = cgroups::processes();
        pids.extend(network::processes()?);
        if pids.is_empty() && cgroups::remove() {
            return Ok(());
        }
        if !pids.is_empty() {
            daemon::send_signal("KILL", &pids)?;
        }
        if Instant::now() > limit {
            bail!("these processes of the cluster do not end: {pids:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Projected volumes, containers' overlays and shared memory; the innermost first.
fn unmount_below(folders: &[&Path]) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot list the mounts")?;
    let mut points: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .filter(|point| folders.iter().any(|folder| point.starts_with(folder)))
        .collect();
    points.sort();
    for point in points.iter().rev() {
        exec::run(exec::command("umount", ["--lazy"]).arg(point))?;
    }
    Ok(())
}

/// The CNI library keeps a result per pod in a fixed folder: `<network>-<pod>-<interface>`, and one for its loopback.
fn remove_cni_results() -> Result<()> {
    let results = Path::new("/var/lib/cni/results");
    let names: Vec<String> = fs::read_dir(results)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let ours = names.iter().filter_map(|name| name.strip_prefix("rhizon-")?.split('-').next());
    for pod in ours {
        for name in names.iter().filter(|name| name.contains(pod)) {
            daemon::remove_file(&results.join(name))?;
        }
    }
    Ok(())
}
