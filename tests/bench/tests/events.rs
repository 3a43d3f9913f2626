//! `--events` with the sample log, in a few of its ways on each store, and with a result that is not so.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::path::Path;
use std::process::{Command, Output};

use rhizon_tests::permits::Log;
use serde_json::{Value, json};

fn bench(arguments: &[&str]) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_rhizon-bench"));
    let runtime = program.with_file_name("rhizon-runtime");
    for needed in [&runtime, &program.with_file_name("ledger")] {
        let path = needed.display();
        assert!(
            needed.exists(),
            "{path} is missing: run `cargo xtask test`, or `cargo build -p rhizon-runtime -p ledger`"
        );
    }
    let mut command = Command::new(program);
    command.args(["run", "--runtime"]).arg(&runtime).arg("--events").arg(Log::sample().events);
    command.args(["--batch=7", "--concurrency=16", "--ordering=stream"]).args(arguments).output().unwrap()
}

#[test]
fn states_and_roots_are_as_promised_on_each_store() {
    let output = bench(&["--shards=1,4", "--replicas=1,2", "--all", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let runs = report["runs"].as_array().unwrap();
    let ways: Vec<Value> = runs.iter().map(|run| json!([run["store"], run["shards"], run["replicas"]])).collect();
    let shared = |store| [json!([store, 1, 1]), json!([store, 4, 1]), json!([store, 4, 2])];
    assert_eq!(ways, [vec![json!(["SQLite", 1, 1])], shared("Postgres").into(), shared("JetStream").into()].concat());
    assert!(runs.iter().all(|run| run["states"] == "equal"), "{report}");
    let roots: Vec<Value> = report["roots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|verdict| json!([verdict["agent"], verdict["promised"], verdict["equal"]]))
        .collect();
    assert_eq!(roots, [json!(["permits", 7, 7]), json!(["ledger", 3, 3])]);
}

#[test]
fn a_state_that_is_not_so_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let expect = dir.path().join("expected.json");
    let right = std::fs::read_to_string(Log::sample().expected).unwrap();
    let mut wrong: Value = serde_json::from_str(&right).unwrap();
    wrong["resources"]["front-desk"] = json!(1);
    std::fs::write(&expect, wrong.to_string()).unwrap();
    let output = bench(&["--store=sqlite", "--shards=1", "--replicas=1", "--expect", expect.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("run 1: agent ledger, entity front-desk: "), "{error}");
}
