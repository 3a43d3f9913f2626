//! A control group of our own above all pods, in both versions of the hierarchy: what is in it, `up` started.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub(super) const ROOT: &str = "/rhizon";
const MOUNT: &str = "/sys/fs/cgroup";

pub(super) fn ensure() -> Result<()> {
    for hierarchy in hierarchies() {
        let group = hierarchy.join(ROOT.trim_start_matches('/'));
        fs::create_dir_all(&group).with_context(|| format!("cannot make the control group {}", group.display()))?;
        // A fresh cpuset is empty, and nothing can run in it.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = fs::read_to_string(hierarchy.join(file)) {
                fs::write(group.join(file), value.trim())?;
            }
        }
        if let Ok(controllers) = fs::read_to_string(hierarchy.join("cgroup.controllers")) {
            for controller in controllers.split_whitespace() {
                for parent in [&hierarchy, &group] {
                    // A controller that a version 1 hierarchy holds cannot be had here, which is fine.
                    let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
                }
            }
        }
    }
    Ok(())
}

/// Every process in a pod, whichever cluster state it was started from.
pub(super) fn processes() -> Vec<u32> {
    let mut pids: Vec<u32> = groups()
        .iter()
        .filter_map(|group| fs::read_to_string(group.join("cgroup.procs")).ok())
        .flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>())
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Removes what is empty, children first. A group goes only when its processes are gone.
pub(super) fn remove() -> bool {
    let mut groups = groups();
    groups.sort_by_key(|group| std::cmp::Reverse(group.components().count()));
    groups.iter().all(|group| fs::remove_dir(group).is_ok() || !group.exists())
}

fn hierarchies() -> Vec<PathBuf> {
    if Path::new(MOUNT).join("cgroup.controllers").exists() {
        return vec![PathBuf::from(MOUNT)];
    }
    let entries = fs::read_dir(MOUNT).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir() && path.join("cgroup.procs").exists()).collect()
}

/// Our group and all below it, in every hierarchy.
fn groups() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> =
        hierarchies().iter().map(|hierarchy| hierarchy.join(ROOT.trim_start_matches('/'))).collect();
    while let Some(group) = open.pop() {
        if !group.is_dir() {
            continue;
        }
        let children = fs::read_dir(&group).into_iter().flatten().flatten().map(|entry| entry.path());
        open.extend(children.filter(|path| path.is_dir() && !path.is_symlink()));
        found.push(group);
    }
    found
}
