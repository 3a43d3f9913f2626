//! Event logs with known results.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::installation::repository;

pub(crate) struct Log {
    pub(crate) events: PathBuf,
    pub(crate) expected: PathBuf,
    /// Parts of the log as files, while the value lives.
    dir: TempDir,
}

/// Every entity's state, by agent.
pub(crate) type States = [BTreeMap<String, Value>; 2];

impl Log {
    /// The example's own small log.
    pub(crate) fn sample() -> Self {
        let example = repository().join("examples/permits");
        Self::of(example.join("events.ndjson"), example.join("expected.json"))
    }

    /// The real log of `RHIZON_DATA` where it is at hand, and the sample elsewhere.
    pub(crate) fn real() -> Self {
        let Some(data) = env::var_os("RHIZON_DATA").map(PathBuf::from) else { return Self::sample() };
        Self::of(data.join("permits.ndjson"), data.join("permits.expected.json"))
    }

    fn of(events: PathBuf, expected: PathBuf) -> Self {
        Self { events, expected, dir: tempfile::tempdir().expect("a temporary directory") }
    }

    pub(crate) fn total(&self) -> u64 {
        self.lines().len() as u64
    }

    fn lines(&self) -> Vec<String> {
        read(&self.events).lines().map(str::to_owned).collect()
    }

    /// The log as so many files, in order.
    pub(crate) fn parts(&self, count: usize) -> Vec<PathBuf> {
        let lines = self.lines();
        let parts = lines.chunks(lines.len().div_ceil(count));
        let write = |(index, part): (usize, &[String])| {
            let file = self.dir.path().join(format!("part-{index}.ndjson"));
            fs::write(&file, part.join("\n") + "\n").expect("writing a part of the log");
            file
        };
        parts.enumerate().map(write).collect()
    }

    /// What agents `permits` and `ledger` must have in the end.
    pub(crate) fn states(&self) -> States {
        let expected: Value = serde_json::from_str(&read(&self.expected)).expect("the expected result is JSON");
        let map = |field: &str, state: fn(&Value) -> Value| {
            let all = expected[field].as_object().expect("the expected result has both parts");
            all.iter().map(|(entity, value)| (entity.clone(), state(value))).collect()
        };
        [map("cases", Value::clone), map("resources", |count| json!({"handled": count}))]
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}
