//! The log that is run, and what it must lead to.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Error};
use rhizon_tests::permits::{Expected, Log};
use serde::Deserialize;

pub(crate) struct Workload {
    pub path: PathBuf,
    pub lines: Vec<String>,
    /// Different events: one that stands there twice is one.
    pub events: u64,
    /// Absent when nobody has said what is right.
    pub expected: Option<Expected>,
}

#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Identity {
    source: String,
    id: String,
}

impl Workload {
    /// Without a file, the log at hand; the result, if none is named, is the one beside the log.
    pub(crate) fn read(events: Option<&Path>, expect: Option<&Path>) -> anyhow::Result<Self> {
        let log = Log::at_hand();
        let path = events.unwrap_or(&log.events).to_owned();
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let lines: Vec<String> = text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
        let identities = lines.iter().map(|line| serde_json::from_str(line)).collect::<Result<BTreeSet<Identity>, _>>();
        let events = identities.with_context(|| format!("{} is no log of events", path.display()))?.len() as u64;
        let expect = expect.map(Path::to_owned).or_else(|| beside(&path));
        let expected = expect.map(|path| Expected::read(&path)).transpose().map_err(Error::msg)?;
        Ok(Self { path, lines, events, expected })
    }
}

/// `permits.expected.json` of `permits.ndjson`, or `expected.json` of the folder.
fn beside(events: &Path) -> Option<PathBuf> {
    [events.with_extension("expected.json"), events.with_file_name("expected.json")]
        .into_iter()
        .find(|path| path.exists())
}
