//! Where things are kept: the repository, the cache of built tools, the state of the cluster.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// The repository's root.
pub(crate) fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").components().fold(PathBuf::new(), |mut path, part| {
        match part {
            std::path::Component::ParentDir => drop(path.pop()),
            part => path.push(part),
        }
        path
    })
}

/// Built tools, root file systems: kept by `down`, keyed by what they are built from.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        _ => PathBuf::from(env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?).join(".cache"),
    };
    Ok(base.join("rhizon"))
}

/// What the running cluster is made of: pids, certificates, etcd's data, volumes. `down` removes it.
pub(crate) fn state() -> Result<PathBuf> {
    match env::var_os("RHIZON_STATE") {
        Some(dir) if !dir.is_empty() => Ok(std::path::absolute(dir)?),
        _ => Ok(cache()?.join("cluster")),
    }
}
