//! The permits example: its rules, and its log as it stands on the stream.

use std::path::Path;

pub(crate) mod events;

use events::{WORKSPACE, admitted};
use rhizon_kernel::{Config, Envelope, Limits};
use rhizon_runtime::bus::Outgoing;

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
