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

const PARTS: &[&str] = &["operator", "runtime", "ledger", "permits", "nats", "tools", "postgres"];
/// The crates behind the images that hold a binary of ours.
const CRATES: &[(&str, &str)] = &[("operator", "rhizon-operator"), ("runtime", "rhizon-runtime"), ("ledger", "ledger")];

pub(crate) struct Image {
    pub name: String,
    base: Option<Base>,
    /// Where each file comes from, and where it lies in the image.
    files: Vec<(PathBuf, &'static str)>,
    entrypoint: Vec<&'static str>,
    user: &'static str,
}

/// `cargo xtask images`: builds, packs and loads; what the cluster has already is not loaded again.
pub(crate) fn images(parts: &[String]) -> Result<()> {
    let cluster = Cluster::locate()?;
    if !cluster.is_up() {
        bail!("no cluster is up to load images into: `cargo xtask up` brings one up");
    }
    build_and_load(&cluster, parts)
}

/// All images, or those of the named parts.
pub(crate) fn build_and_load(cluster: &Cluster, parts: &[String]) -> Result<()> {
    if let Some(unknown) = parts.iter().find(|part| !PARTS.contains(&part.as_str())) {
        bail!("there is no image {unknown}; there are {}", PARTS.join(", "));
    }
    let wanted: Vec<&str> =
        PARTS.iter().copied().filter(|part| parts.is_empty() || parts.iter().any(|p| p == part)).collect();
    if cluster.kind {
        return ui::step("images, built by Docker", || docker::build_and_load(&wanted, &version()?));
    }
    if CRATES.iter().any(|(part, _)| wanted.contains(part)) {
        build_binaries()?;
    }
    ui::step("images", || {
        let images = wanted.iter().map(|part| build_image(part)).collect::<Result<Vec<_>>>()?;
        let loaded = load::load(cluster, &images)?;
        load::restart_pods(cluster, &loaded)
    })
}

/// All in one call of cargo, the client too: with other packages chosen, cargo chooses other features and builds everything anew.
pub(crate) fn build_binaries() -> Result<()> {
    ui::step("release binaries", || {
        let crates = CRATES.iter().map(|(_, name)| *name).chain(["rhizon"]).flat_map(|name| ["--package", name]);
        let mut cargo = exec::command("cargo", ["build", "--release", "--quiet"]);
        exec::stream(cargo.args(crates).current_dir(dirs::repository()))
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

/// What goes into one image of the product or its tests.
fn build_image(part: &str) -> Result<Image> {
    let release = |binary: &str| dirs::repository().join("target/release").join(binary);
    let (base, file, place) = match part {
        "operator" => (Base::Plain, release("rhizon-operator"), "/usr/local/bin/rhizon-operator"),
        "runtime" => (Base::Plain, release("rhizon-runtime"), "/usr/local/bin/rhizon-runtime"),
        "ledger" => (Base::Plain, release("ledger"), "/usr/local/bin/ledger"),
        "nats" => (Base::Plain, tools::path("nats-server")?, "/usr/local/bin/nats-server"),
        "tools" => (Base::Python, tools::path("nats")?, "/usr/local/bin/nats"),
        "postgres" => (Base::Postgres, dirs::repository().join("images/postgres.sh"), "/usr/local/bin/postgres.sh"),
        _ => (Base::Python, dirs::repository().join("examples/permits/agents/permits.py"), "/app/permits.py"),
    };
    let entrypoint = match part {
        "permits" => vec!["python3", place],
        "tools" => vec!["python3"],
        "postgres" => vec!["sh", place],
        _ => vec![place],
    };
    let tag = if part == "nats" { tools::version("nats-server")? } else { version()? };
    let name = format!("localhost/rhizon/{part}:{tag}");
    Ok(Image { name, base: Some(base), files: vec![(file, place)], entrypoint, user: NONROOT })
}

/// The version of the workspace, which all crates and images share.
fn version() -> Result<String> {
    let manifest = std::fs::read_to_string(dirs::repository().join("Cargo.toml"))?;
    let section = manifest.split("[workspace.package]").nth(1).context("Cargo.toml has no [workspace.package]")?;
    let line = section.lines().find_map(|line| line.trim().strip_prefix("version = "));
    Ok(line.context("[workspace.package] has no version")?.trim_matches('"').to_owned())
}
