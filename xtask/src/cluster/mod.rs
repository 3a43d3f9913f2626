//! A real cluster for demo and tests: kind where Docker works, otherwise the same parts as processes of this machine.

mod addons;
pub(crate) mod api;
mod certs;
mod cgroups;
mod control_plane;
mod daemon;
mod diagnose;
mod dns;
mod down;
mod kind;
mod network;
pub(crate) mod node;
mod packages;
mod volumes;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub(crate) use addons::run as run_addons;
pub(crate) use control_plane::apply;
pub(crate) use diagnose::diagnose;
pub(crate) use down::down;

use crate::{dirs, exec, images, tools, ui};
use daemon::Daemons;

/// Handle on the cluster whose files are in the state folder, be it up or not.
pub(crate) struct Cluster {
    pub state: PathBuf,
    pub kind: bool,
}

impl Cluster {
    pub(crate) fn locate() -> Result<Self> {
        let state = dirs::state()?;
        let kind = if state.exists() { state.join("kind").exists() } else { kind::usable() };
        Ok(Self { state, kind })
    }

    /// The file for `kubectl` and everything else outside.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.state.join("kubeconfig")
    }

    pub(crate) fn audit_log(&self) -> PathBuf {
        self.state.join("audit.log")
    }

    /// `kubectl` as the administrator of this cluster, whatever the caller's own kubeconfig says.
    pub(crate) fn kubectl<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Command> {
        let mut command = exec::command(tools::path("kubectl")?, args);
        command.env("KUBECONFIG", self.kubeconfig());
        Ok(command)
    }

    /// It answers and its node is ready.
    pub(crate) fn is_up(&self) -> bool {
        let probe = || -> Result<bool> {
            if !self.kubeconfig().exists() || (!self.kind && !self.all_alive()) {
                return Ok(false);
            }
            let path = r#"jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}"#;
            let mut nodes = self.kubectl(["get", "nodes", "--request-timeout=5s", "-o", path])?;
            Ok(exec::output(&mut nodes)?.split_whitespace().next() == Some("True"))
        };
        probe().unwrap_or(false)
    }

    fn daemons(&self) -> Daemons {
        Daemons::new(&self.state)
    }

    fn all_alive(&self) -> bool {
        let daemons = self.daemons();
        network::exists() && DAEMONS.iter().all(|name| daemons.is_alive(name))
    }

    /// Starts a process in the node's network namespace unless it runs.
    fn start(&self, name: &str, command: &mut Command) -> Result<()> {
        self.daemons().ensure(name, Some(&network::namespace_path()), command)
    }

    fn certificates(&self) -> PathBuf {
        self.state.join("certificates")
    }

    fn client_config(&self, client: &str) -> PathBuf {
        self.state.join(format!("{client}.kubeconfig"))
    }

    fn pod_logs(&self) -> PathBuf {
        self.state.join("pod-logs")
    }
}

/// In the order of their start.
const DAEMONS: &[&str] = &[
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "containerd",
    "kubelet",
    "kube-proxy",
    addons::PROXY,
    addons::NAME,
];

/// `cargo xtask up`: quick when everything is there, repairs what is not.
pub(crate) fn up() -> Result<Cluster> {
    let _lock = lock()?;
    let cluster = Cluster::locate()?;
    if cluster.is_up() {
        if !cluster.kind {
            addons::ensure(&cluster)?;
        }
        ui::note("the cluster is up");
    } else if cluster.kind {
        kind::up(&cluster)?;
    } else {
        start(&cluster)?;
    }
    Ok(cluster)
}

/// Only one command at a time changes the cluster.
fn lock() -> Result<File> {
    let folder = dirs::cache()?;
    fs::create_dir_all(&folder)?;
    let file = File::create(folder.join("cluster.lock"))?;
    file.lock().context("cannot lock the cluster")?;
    Ok(file)
}

fn start(cluster: &Cluster) -> Result<()> {
    check_possible()?;
    check_owner(cluster)?;
    // After a reboot, or half way through an earlier `up`, it is quicker to begin anew than to find out what is missing.
    let daemons = cluster.daemons();
    let something_left = cluster.state.exists() || network::exists();
    if something_left && !(network::exists() && daemons.is_alive("etcd") && daemons.is_alive("containerd")) {
        ui::step("clear what is left of an earlier cluster", || down::remove_all(cluster))?;
    }
    ui::step("tools of the cluster", || {
        packages::ensure()?;
        [
            "etcd",
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kubelet",
            "kube-proxy",
            "kubectl",
            "coredns",
        ]
        .iter()
        .try_for_each(|tool| tools::path(tool).map(drop))
    })?;
    ui::step("network namespace and containerd", || {
        fs::create_dir_all(&cluster.state)?;
        network::ensure()?;
        fs::create_dir_all(node::RUN)?;
        fs::write(owner_file(), cluster.state.display().to_string())?;
        node::ensure_containerd(cluster)?;
        images::load(cluster, &[images::pause()?, images::coredns()?]).map(drop)
    })?;
    ui::step("control plane", || control_plane::ensure(cluster))?;
    ui::step("node", || {
        node::ensure_kubelet(cluster)?;
        addons::ensure(cluster)?;
        node::wait_ready(cluster, Duration::from_secs(90))
    })?;
    ui::step("cluster DNS and storage", || {
        dns::ensure(cluster)?;
        apply(cluster, include_str!("manifests/storage.yaml"))?;
        dns::wait_ready(cluster, Duration::from_secs(90))
    })
}

/// The names and addresses of the network exist once per machine, so there is one cluster, whose state folder stands here.
fn owner_file() -> PathBuf {
    Path::new(node::RUN).join("state")
}

fn check_owner(cluster: &Cluster) -> Result<()> {
    let Ok(owner) = fs::read_to_string(owner_file()).map(PathBuf::from) else { return Ok(()) };
    if owner != cluster.state && owner.exists() {
        bail!("another cluster is up, with its state in {0}: use it by setting RHIZON_STATE to {0}", owner.display());
    }
    Ok(())
}

fn check_possible() -> Result<()> {
    if std::env::consts::OS != "linux" {
        bail!("without Docker a cluster can only run on Linux: install Docker and kind, or use `rhizon dev`");
    }
    if exec::output(&mut exec::command("id", ["-u"]))?.trim() != "0" {
        bail!("without Docker the cluster needs root: run this as root, install Docker and kind, or use `rhizon dev`");
    }
    Ok(())
}

/// `cargo xtask kubeconfig`: the line for the shell on standard output, the explanation beside it.
pub(crate) fn print_kubeconfig() -> Result<()> {
    let cluster = Cluster::locate()?;
    if !cluster.kubeconfig().exists() {
        bail!("no cluster is up: `cargo xtask up` brings one up");
    }
    println!("export KUBECONFIG={}", shell_quoted(&cluster.kubeconfig()));
    eprintln!("# In this shell: eval \"$(cargo xtask kubeconfig)\"");
    eprintln!("# kubectl is {}", tools::path("kubectl")?.display());
    Ok(())
}

fn shell_quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
