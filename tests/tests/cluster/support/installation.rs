//! Rhizon on the cluster, installed by its chart as a platform team would.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Where operator and broker are.
pub(crate) const NAMESPACE: &str = "rhizon-system";
pub(crate) const OPERATOR: &str = "app.kubernetes.io/name=rhizon-operator";
pub(crate) const BROKER: &str = "app.kubernetes.io/name=rhizon-nats";

/// Brings the installation to this repository's chart, once for all tests.
pub(crate) fn ensure() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        variable("KUBECONFIG");
        if succeeds(&mut helm(&["status", "rhizon"])) {
            // Helm installs definitions once and leaves them alone then.
            run(kubectl().args(["apply", "--server-side", "--force-conflicts", "-f", "crds/"]));
        }
        run(&mut helm(&[
            "upgrade",
            "--install",
            "rhizon",
            "charts/rhizon",
            "--create-namespace",
            "--wait",
            "--timeout",
            "180s",
        ]));
    });
}

/// A variable that `cargo xtask test` sets.
pub(crate) fn variable(name: &str) -> OsString {
    env::var_os(name).filter(|value| !value.is_empty()).unwrap_or_else(|| {
        panic!("{name} is not set: run these tests with `cargo xtask test`, or set what it sets (tests/README.md)")
    })
}

/// The repository's root.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate stands in the repository").to_owned()
}

pub(crate) fn kubectl() -> Command {
    let mut command = Command::new(variable("RHIZON_KUBECTL"));
    command.current_dir(repository()).stdin(Stdio::null());
    command
}

fn helm(args: &[&str]) -> Command {
    let mut command = Command::new(variable("RHIZON_HELM"));
    command.args(args).args(["--namespace", NAMESPACE]).current_dir(repository()).stdin(Stdio::null());
    command
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// Runs it, and panics with what it said when it fails.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
