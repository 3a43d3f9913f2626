//! The tools this project needs and does not ship: built from pinned Go modules into the user's cache.
//!
//! Each folder in `xtask/tools` holds a `go.mod` and `go.sum`; they say the versions, and their hash is the key of what is built from
//! them. A binary is built beside its place and renamed into it, so an interrupted build leaves nothing half done.

use std::fmt::Write;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::{dirs, exec, ui};

struct Tool {
    /// The binary's name, and what the rest of xtask asks for.
    name: &'static str,
    /// Folder in `xtask/tools` that pins it.
    folder: &'static str,
    package: &'static str,
    /// Module whose version is the tool's.
    module: &'static str,
    /// Linker variables to set to the version.
    version_variables: &'static [&'static str],
}

const KUBERNETES: &str = "k8s.io/kubernetes";
const KUBERNETES_VERSION: &[&str] =
    &["k8s.io/component-base/version.gitVersion", "k8s.io/client-go/pkg/version.gitVersion"];

const fn kubernetes(name: &'static str, package: &'static str) -> Tool {
    Tool { name, folder: "kubernetes", package, module: KUBERNETES, version_variables: KUBERNETES_VERSION }
}

const fn plain(name: &'static str, folder: &'static str, package: &'static str, module: &'static str) -> Tool {
    Tool { name, folder, package, module, version_variables: &[] }
}

/// In the order in which somebody waits for them.
const TOOLS: &[Tool] = &[
    plain("nats-server", "nats-server", "github.com/nats-io/nats-server/v2", "github.com/nats-io/nats-server/v2"),
    Tool {
        name: "helm",
        folder: "helm",
        package: "helm.sh/helm/v4/cmd/helm",
        module: "helm.sh/helm/v4",
        version_variables: &["helm.sh/helm/v4/internal/version.version"],
    },
    kubernetes("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    plain("nats", "natscli", "github.com/nats-io/natscli/nats", "github.com/nats-io/natscli"),
    plain("kubeconform", "kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform", "github.com/yannh/kubeconform"),
    plain("etcd", "etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3"),
    kubernetes("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    kubernetes("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    kubernetes("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    kubernetes("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    kubernetes("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
    plain("coredns", "coredns", "github.com/coredns/coredns", "github.com/coredns/coredns"),
    plain("pause", "pause", "rhizon.dev/tools/pause", "rhizon.dev/tools/pause"),
];

/// The path of a tool's binary, built first if it is not in the cache.
pub(crate) fn path(name: &str) -> Result<PathBuf> {
    let tool = find(name)?;
    let place = place(tool)?;
    if !place.is_file() {
        let lock = lock()?;
        if !place.is_file() {
            build(tool, &place)?;
        }
        drop(lock);
    }
    Ok(place)
}

/// The version that a tool is pinned to, without a leading `v`.
pub(crate) fn version(name: &str) -> Result<String> {
    let tool = find(name)?;
    pinned_version(&fs::read_to_string(folder(tool).join("go.mod"))?, tool.module)
        .with_context(|| format!("xtask/tools/{}/go.mod does not require {}", tool.folder, tool.module))
}

/// `cargo xtask tools`: builds what is missing and prints where everything is.
pub(crate) fn build_all() -> Result<()> {
    for tool in TOOLS {
        println!("{:24}{}", tool.name, path(tool.name)?.display());
    }
    Ok(())
}

fn find(name: &str) -> Result<&'static Tool> {
    TOOLS.iter().find(|tool| tool.name == name).with_context(|| format!("no tool is called {name}"))
}

fn folder(tool: &Tool) -> PathBuf {
    dirs::repository().join("xtask/tools").join(tool.folder)
}

fn place(tool: &Tool) -> Result<PathBuf> {
    Ok(dirs::cache()?.join("tools").join(format!("{}-{}", tool.folder, key(&folder(tool)))).join(tool.name))
}

/// A hash of the pins and of the tool's own sources, if it has any.
fn key(folder: &Path) -> String {
    let mut hash = Sha256::new();
    for file in ["go.mod", "go.sum", "main.go"] {
        hash.update(fs::read(folder.join(file)).unwrap_or_default());
        hash.update([0]);
    }
    hex(&hash.finalize())[..12].to_owned()
}

/// Held while something is built: two builds at once would only take each other's cores.
fn lock() -> Result<File> {
    let folder = dirs::cache()?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make the cache folder {}", folder.display()))?;
    let file = File::create(folder.join("tools.lock"))?;
    file.lock()?;
    Ok(file)
}

fn build(tool: &Tool, place: &Path) -> Result<()> {
    if !exec::exists("go") {
        bail!("Go is needed to build {}: install Go 1.26 or newer and put `go` on the PATH", tool.name);
    }
    let version = version(tool.name).unwrap_or_default();
    ui::note(&format!("building {} {version}", tool.name));
    let start = Instant::now();
    fs::create_dir_all(place.parent().context("a tool's place has a parent")?)?;
    let unfinished = place.with_extension("unfinished");
    let args = ["build", "-trimpath", "-ldflags", &linker_flags(tool, &version), "-o"];
    let mut go = exec::command("go", args);
    go.arg(&unfinished)
        .arg(tool.package)
        .current_dir(folder(tool))
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-buildvcs=false");
    exec::run(&mut go).with_context(|| format!("cannot build {}", tool.name))?;
    fs::rename(&unfinished, place)?;
    ui::note(&format!("built {} in {}", tool.name, ui::seconds(start.elapsed())));
    Ok(())
}

fn linker_flags(tool: &Tool, version: &str) -> String {
    let mut flags = "-s -w".to_owned();
    for variable in tool.version_variables {
        let _ = write!(flags, " -X {variable}=v{version}");
    }
    if tool.module == KUBERNETES {
        let mut numbers = version.split('.');
        for part in ["gitMajor", "gitMinor"] {
            let number = numbers.next().unwrap_or_default();
            let _ = write!(flags, " -X k8s.io/component-base/version.{part}={number}");
        }
    }
    flags
}

fn pinned_version(go_mod: &str, module: &str) -> Option<String> {
    go_mod.lines().find_map(|line| {
        let mut words = line.trim().trim_start_matches("require ").split_whitespace();
        (words.next() == Some(module)).then(|| words.next())?.and_then(|word| word.strip_prefix('v')).map(str::to_owned)
    })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_go_mod() {
        let go_mod =
            "module x\nrequire example.org/one v1.2.3\nrequire (\n\texample.org/two/v2 v2.0.1 // indirect\n)\n";
        assert_eq!(pinned_version(go_mod, "example.org/one").as_deref(), Some("1.2.3"));
        assert_eq!(pinned_version(go_mod, "example.org/two/v2").as_deref(), Some("2.0.1"));
        assert_eq!(pinned_version(go_mod, "example.org/two"), None);
    }

    #[test]
    fn every_tool_is_pinned() {
        for tool in TOOLS.iter().filter(|tool| tool.name != "pause") {
            assert!(version(tool.name).is_ok(), "{}", tool.name);
        }
    }
}
