//! The images of this project: packed from release binaries and loaded into the cluster.

mod archive;
mod docker;
mod load;
mod rootfs;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::cluster::{Cluster, node};
use crate::{dirs, exec, tools, ui};
pub(crate) use load::load;
use rootfs::Base;

/// Nobody in particular: pods with the `restricted` profile may not run as root.
const NONROOT: &str = "65532:65532";

pub(crate) struct Image {
    pub name: String,
    base: Option<Base>,
    /// Where each file comes from, and where it lies in the image.
    files: Vec<(PathBuf, &'static str)>,
    entrypoint: Vec<&'static str>,
    user: &'static str,
}

/// `cargo xtask images`: builds, packs and loads; what the cluster has already is not loaded again.
pub(crate) fn images() -> Result<()> {
    let cluster = Cluster::locate()?;
    if !cluster.is_up() {
        bail!("no cluster is up to load images into: `cargo xtask up` brings one up");
    }
    build_and_load(&cluster)
}

pub(crate) fn build_and_load(cluster: &Cluster) -> Result<()> {
    if cluster.kind {
        return ui::step("images, built by Docker", || docker::build_and_load(&version()?));
    }
    ui::step("release binaries", || {
        let packages = ["-p", "rhizon-operator", "-p", "rhizon-runtime", "-p", "ledger"];
        exec::stream(
            exec::command("cargo", ["build", "--release", "--quiet"]).args(packages).current_dir(dirs::repository()),
        )
    })?;
    ui::step("images", || {
        let loaded = load::load(cluster, &all()?)?;
        load::restart_pods(cluster, &loaded)
    })
}

pub(crate) fn pause() -> Result<Image> {
    Ok(Image {
        name: node::PAUSE_IMAGE.to_owned(),
        base: None,
        files: vec![(tools::path("pause")?, "/pause")],
        entrypoint: vec!["/pause"],
        user: NONROOT,
    })
}

/// As root: a pod binds port 53 only so.
pub(crate) fn coredns() -> Result<Image> {
    Ok(Image {
        name: format!("localhost/rhizon/coredns:{}", tools::version("coredns")?),
        base: None,
        files: vec![(tools::path("coredns")?, "/coredns")],
        entrypoint: vec!["/coredns"],
        user: "0:0",
    })
}

fn all() -> Result<Vec<Image>> {
    let version = version()?;
    let name = |part: &str| format!("localhost/rhizon/{part}:{version}");
    let release = dirs::repository().join("target/release");
    let rust = |part: &str, binary: &str, place: &'static str| Image {
        name: name(part),
        base: Some(Base::Plain),
        files: vec![(release.join(binary), place)],
        entrypoint: vec![place],
        user: NONROOT,
    };
    let permits = dirs::repository().join("examples/permits/agents/permits.py");
    Ok(vec![
        rust("operator", "rhizon-operator", "/usr/local/bin/rhizon-operator"),
        rust("runtime", "rhizon-runtime", "/usr/local/bin/rhizon-runtime"),
        rust("ledger", "ledger", "/usr/local/bin/ledger"),
        Image {
            name: name("permits"),
            base: Some(Base::Python),
            files: vec![(permits, "/app/permits.py")],
            entrypoint: vec!["python3", "/app/permits.py"],
            user: NONROOT,
        },
        Image {
            name: format!("localhost/rhizon/nats:{}", tools::version("nats-server")?),
            base: Some(Base::Plain),
            files: vec![(tools::path("nats-server")?, "/usr/local/bin/nats-server")],
            entrypoint: vec!["/usr/local/bin/nats-server"],
            user: NONROOT,
        },
        Image {
            name: name("tools"),
            base: Some(Base::Python),
            files: vec![(tools::path("nats")?, "/usr/local/bin/nats")],
            entrypoint: vec!["python3"],
            user: NONROOT,
        },
    ])
}

/// The version of the workspace, which all crates and images share.
fn version() -> Result<String> {
    let manifest = std::fs::read_to_string(dirs::repository().join("Cargo.toml"))?;
    let section = manifest.split("[workspace.package]").nth(1).context("Cargo.toml has no [workspace.package]")?;
    let line = section.lines().find_map(|line| line.trim().strip_prefix("version = "));
    Ok(line.context("[workspace.package] has no version")?.trim_matches('"').to_owned())
}
