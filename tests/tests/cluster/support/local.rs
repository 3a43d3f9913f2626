//! The same YAML and the same events without any cluster: what `rhizon dev` makes of them.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use super::log::Log;
use super::rhizon::{command, root};
use super::{example, installation::repository};

/// Roots of the agents `permits` and `ledger`.
pub(crate) type Roots = [String; 2];

/// Runs a log through the example in local mode, where its result is checked too.
pub(crate) async fn roots(workspace: &str, log: &Log) -> Roots {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let manifest = repository().join("Cargo.toml");
    for (file, text) in example::files(workspace) {
        // Agents start in the YAML's folder, which is another one here.
        let text = text
            .replace("agents/permits.py", repository().join("examples/permits/agents/permits.py").to_str().unwrap())
            .replace(r#""--quiet","#, &format!(r#""--quiet", "--manifest-path", "{}","#, manifest.display()));
        fs::write(dir.path().join(file), text).expect("writing the example");
    }
    let mut dev = command();
    dev.arg("dev").arg(dir.path()).arg("--events").arg(&log.events).arg("--expect").arg(&log.expected);
    let output = dev.args(["--once", "-o", "json"]).output().await.expect("running `rhizon dev`");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`rhizon dev` failed: {said}");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let reports: BTreeMap<String, &str> = printed.lines().filter_map(|line| Some((journal(line)?, line))).collect();
    ["permits", "ledger"]
        .map(|agent| root(reports.get(agent).unwrap_or_else(|| panic!("no report of {agent}: {said}"))))
}

fn journal(line: &str) -> Option<String> {
    let report: Value = serde_json::from_str(line).ok()?;
    Some(report["journal"].as_str()?.to_owned())
}
