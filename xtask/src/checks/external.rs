//! Checks by programs of others: cargo-deny, Helm, kubeconform, openspec. Each is pinned and installed into the cache.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::schemas;
use crate::{dirs, exec, tools, ui};

const CARGO_DENY_VERSION: &str = "0.20.2";

pub(super) fn cargo_deny() -> Result<()> {
    let root = dirs::cache()?.join("tools").join(format!("cargo-deny-{CARGO_DENY_VERSION}"));
    let binary = root.join("bin/cargo-deny");
    if !binary.exists() {
        ui::note(&format!("installing cargo-deny {CARGO_DENY_VERSION}"));
        let args = ["install", "cargo-deny", "--quiet", "--locked", "--version", CARGO_DENY_VERSION, "--root"];
        exec::run(exec::command("cargo", args).arg(&root)).context("cannot install cargo-deny")?;
    }
    let args = ["check", "--hide-inclusion-graph", "licenses", "bans", "sources"];
    exec::run(exec::command(binary, args).current_dir(dirs::repository()))
}

/// The chart as it is, and what it renders to, against the schemas of the Kubernetes version that we run.
pub(super) fn chart() -> Result<()> {
    let chart = dirs::repository().join("charts/rhizon");
    let helm = tools::path("helm")?;
    exec::run(exec::command(&helm, ["lint", "--strict", "--quiet"]).arg(&chart))?;
    let args = ["template", "rhizon", "--namespace", "rhizon-system", "--include-crds"];
    let rendered = exec::output(exec::command(&helm, args).arg(&chart))?;
    let location = format!("{}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json", schemas::folder()?.display());
    let args = ["-strict", "-summary", "-schema-location", &location];
    let summary = exec::output_with_input(&mut exec::command(tools::path("kubeconform")?, args), &rendered)?;
    ui::note(summary.trim());
    Ok(())
}

pub(super) fn openspec() -> Result<()> {
    let mut command = exec::command(openspec_binary()?, ["validate", "--all", "--strict", "--no-interactive"]);
    exec::run(command.current_dir(dirs::repository()).env("OPENSPEC_TELEMETRY", "0").env("DO_NOT_TRACK", "1"))
}

fn openspec_binary() -> Result<PathBuf> {
    let pins = dirs::repository().join("xtask/tools/openspec");
    let lock = fs::read(pins.join("package-lock.json"))?;
    let folder = dirs::cache()?.join("tools").join(format!("openspec-{}", &tools::hex(&Sha256::digest(lock))[..12]));
    let binary = folder.join("node_modules/.bin/openspec");
    if binary.exists() {
        return Ok(binary);
    }
    if !exec::exists("npm") {
        bail!("npm is needed to check the specifications: install Node.js 20 or newer");
    }
    ui::note("installing openspec");
    let unfinished = folder.with_extension("unfinished");
    fs::create_dir_all(&unfinished)?;
    for file in ["package.json", "package-lock.json"] {
        fs::copy(pins.join(file), unfinished.join(file))?;
    }
    let args = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
    exec::run(exec::command("npm", args).current_dir(&unfinished)).context("cannot install openspec")?;
    fs::rename(&unfinished, &folder)?;
    Ok(binary)
}
