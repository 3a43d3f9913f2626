//! `cargo test` with the real servers that tests start, and with its results counted.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cluster::Cluster;
use crate::{dirs, exec, tools, ui};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) passed: u64,
    pub(super) failed: u64,
}

/// Passes the lines on as they come, and adds up the closing lines of all test programs.
pub(super) fn run(arguments: &[&str], cluster: Option<&Cluster>, counts: &mut Counts) -> Result<()> {
    let mut command = exec::command("cargo", ["test", "--quiet"]);
    command.args(arguments).current_dir(dirs::repository());
    set_environment(&mut command, cluster)?;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start cargo test")?;
    let output = child.stdout.take().context("cargo test has no standard output")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{line}");
        if let Some(more) = parse_result(&line) {
            counts.passed += more.passed;
            counts.failed += more.failed;
        }
    }
    let status = child.wait()?;
    ui::check_interrupt()?;
    if !status.success() {
        bail!("cargo test failed ({status})");
    }
    Ok(())
}

/// Where the tests find the tools, the shared data and the cluster.
fn set_environment(command: &mut Command, cluster: Option<&Cluster>) -> Result<()> {
    for (variable, tool) in [
        ("RHIZON_NATS_SERVER", "nats-server"),
        ("RHIZON_NATS_CLI", "nats"),
        ("RHIZON_KUBECTL", "kubectl"),
        ("RHIZON_HELM", "helm"),
    ] {
        command.env(variable, tools::path(tool)?);
    }
    let data = dirs::repository().join("../shared/data");
    if data.exists() {
        command.env("RHIZON_DATA", data.canonicalize()?);
    }
    if let Some(cluster) = cluster {
        command.env("KUBECONFIG", cluster.kubeconfig()).env("RHIZON_STATE", &cluster.state);
        command.env("RHIZON_CLI", dirs::repository().join("target/release/rhizon"));
        if !cluster.kind {
            command.env("RHIZON_AUDIT_LOG", cluster.audit_log());
        }
    }
    Ok(())
}

/// Such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
fn parse_result(line: &str) -> Option<Counts> {
    let (_, rest) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
    let count = |word: &str| -> Option<u64> {
        rest.split(';').find_map(|part| part.trim().strip_suffix(word)).and_then(|number| number.trim().parse().ok())
    };
    Some(Counts { passed: count("passed")?, failed: count("failed")? })
}

#[cfg(test)]
mod tests {
    use super::{Counts, parse_result};

    #[test]
    fn closing_lines_are_read() {
        let line = "test result: FAILED. 31 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(parse_result(line), Some(Counts { passed: 31, failed: 2 }));
        assert_eq!(parse_result("test kernel::works ... ok"), None);
    }
}
