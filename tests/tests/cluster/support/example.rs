//! The repository's example `permits`, as a workspace of any name.

use std::fs;

use serde::Deserialize as _;
use serde_json::{Value, json};

use super::installation::repository;

const FILES: [&str; 3] = ["workspace.yaml", "access.yaml", "agents.yaml"];

/// File names and contents, with the workspace's name put in.
pub(crate) fn files(workspace: &str) -> Vec<(&'static str, String)> {
    FILES.into_iter().map(|file| (file, rename(file, workspace))).collect()
}

fn rename(file: &str, workspace: &str) -> String {
    let text = fs::read_to_string(repository().join("examples/permits").join(file)).expect("reading the example");
    let places: &[(&str, &str)] = match file {
        "workspace.yaml" => &[("name: permits\n", "name: "), ("serviceaccount:permits:", "serviceaccount:")],
        _ => &[("namespace: permits\n", "namespace: ")],
    };
    places.iter().fold(text, |text, (old, keep)| {
        assert!(text.contains(old), "{file} no longer has {old:?}");
        let end = &old[old.len() - 1..];
        text.replace(old, &format!("{keep}{workspace}{end}"))
    })
}

/// The workspace, which leaves nothing when it is deleted.
pub(crate) fn workspace(name: &str) -> Value {
    let mut manifest = documents(&rename("workspace.yaml", name)).remove(0);
    manifest["spec"]["deletionPolicy"] = json!("Delete");
    manifest
}

/// The caller's account and the agents.
pub(crate) fn inhabitants(workspace: &str) -> Vec<Value> {
    FILES[1..].iter().flat_map(|file| documents(&rename(file, workspace))).collect()
}

/// A PostgreSQL in a namespace of its own, and the workspace's Secret that leads there.
pub(crate) fn postgres(workspace: &str, databases: &str) -> Vec<Value> {
    let read = |file: &str| fs::read_to_string(repository().join("examples/postgres").join(file)).expect("the example");
    let server = read("server.yaml").replace("databases\n", &format!("{databases}\n"));
    let secret = read("secret.yaml").replace("postgres.databases.svc", &format!("postgres.{databases}.svc"));
    let both = format!("{server}---\n{secret}").replace("permits", workspace);
    documents(&both)
}

fn documents(yaml: &str) -> Vec<Value> {
    serde_norway::Deserializer::from_str(yaml)
        .map(|document| Value::deserialize(document).expect("the example is YAML"))
        .collect()
}
