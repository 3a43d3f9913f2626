//! Brings images into the containerd of the cluster, and pods to use them.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Image, archive};
use crate::cluster::{Cluster, node};
use crate::{exec, ui};

/// What was loaded before: name to digest.
type Loaded = BTreeMap<String, String>;

/// Loads those that are new or changed, in one archive, and gives their names.
pub(crate) fn load(cluster: &Cluster, images: &[Image]) -> Result<Vec<String>> {
    let folder = cluster.state.join("images");
    fs::create_dir_all(&folder)?;
    let packed = images.iter().map(|image| archive::pack(image, &folder)).collect::<Result<Vec<_>>>()?;
    let record = cluster.state.join("images.json");
    let mut loaded: Loaded =
        fs::read(&record).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let present = exec::output(&mut node::ctr(["images", "ls", "--quiet"]))?;
    let has = |name: &str| present.lines().any(|line| line == name);
    let changed: Vec<_> =
        packed.iter().filter(|image| !has(&image.name) || loaded.get(&image.name) != Some(&image.digest)).collect();
    if !changed.is_empty() {
        let tar = folder.join("all.tar");
        archive::write(&changed, &tar)?;
        let tar = tar.to_str().context("the state folder's path is not UTF-8")?;
        exec::run(&mut node::ctr(["images", "import", "--no-unpack", tar]))?;
    }
    loaded.extend(changed.iter().map(|image| (image.name.clone(), image.digest.clone())));
    fs::write(&record, serde_json::to_string_pretty(&loaded)?)?;
    fs::remove_dir_all(&folder)?;
    let names: Vec<String> = changed.iter().map(|image| image.name.clone()).collect();
    match names.as_slice() {
        [] => ui::note("the cluster has them all"),
        names => ui::note(&format!("loaded {}", names.join(", "))),
    }
    Ok(names)
}

/// A pod keeps the image it started with, so pods of changed images are deleted; their controllers make them anew.
pub(super) fn restart_pods(cluster: &Cluster, images: &[String]) -> Result<()> {
    let pods: Value = serde_json::from_str(&exec::output(&mut cluster.kubectl(["get", "pods", "-A", "-o", "json"])?)?)?;
    for pod in pods["items"].as_array().into_iter().flatten() {
        let containers =
            ["containers", "initContainers"].iter().filter_map(|kind| pod["spec"][kind].as_array()).flatten();
        let uses = |container: &Value| images.iter().any(|image| container["image"] == image.as_str());
        if containers.into_iter().any(uses) && !pod["metadata"]["ownerReferences"].is_null() {
            let of = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
            let (namespace, name) = (of("namespace"), of("name"));
            ui::note(&format!("restarting {namespace}/{name} with its new image"));
            exec::run(&mut cluster.kubectl([
                "delete",
                "pod",
                "-n",
                &namespace,
                &name,
                "--wait=false",
                "--ignore-not-found",
            ])?)?;
        }
    }
    Ok(())
}
