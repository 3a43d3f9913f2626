//! The permits example: its rules, its log, and what it must give.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(crate) mod events;

use events::{WORKSPACE, admitted};
use rhizon_kernel::{Config, Envelope, Limits};
use rhizon_runtime::bus::Outgoing;
use serde_json::{Value, json};

pub(crate) fn config(agent: &str, subscribes: &str, publishes: &[&str]) -> Config {
    Config {
        workspace: WORKSPACE.into(),
        agent: agent.into(),
        subscribes: vec![subscribes.parse().unwrap()],
        publishes: publishes.iter().map(|t| t.parse().unwrap()).collect(),
        authorization: vec![],
        limits: Limits::default(),
        from: 0,
        earlier: Vec::new(),
    }
}

/// A log as the gateway would publish it.
pub(crate) fn log(path: &Path) -> Vec<Outgoing> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().map(|line| admitted(Envelope::parse(line.as_bytes(), &Limits::default()).unwrap())).collect()
}

pub(crate) fn example(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/permits").join(file)
}

/// What exactly-once processing gives: states of the two agents, by entity.
pub(crate) fn expected(path: &Path) -> [BTreeMap<String, Value>; 2] {
    let expected: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = expected["cases"].as_object().unwrap().clone().into_iter().collect();
    let officers = expected["resources"].as_object().unwrap().iter();
    [cases, officers.map(|(officer, handled)| (officer.clone(), json!({"handled": handled}))).collect()]
}
