//! How far the events are: the last agent of the chain counts them per officer, so its counts are the progress.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rhizon_tests::permits::States;
use serde_json::Value;

use crate::ui;

const LIMIT: Duration = Duration::from_mins(5);

pub(super) struct Workload {
    /// Different events in the file: one that stands there twice is one.
    pub(super) events: u64,
    officers: BTreeMap<String, u64>,
}

impl Workload {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is no event log of this example", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let (mut seen, mut officers) = (BTreeSet::new(), BTreeMap::new());
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let event: Value = serde_json::from_str(line).with_context(|| format!("line {} is no JSON", index + 1))?;
            let officer = event["data"]["resource"]
                .as_str()
                .with_context(|| format!("line {} has no data.resource", index + 1))?;
            if seen.insert((event["source"].to_string(), event["id"].to_string())) {
                *officers.entry(officer.to_owned()).or_default() += 1;
            }
        }
        Ok(Self { events: seen.len() as u64, officers })
    }

    /// How many of these events have had their last effect.
    fn done(&self, ledger: &States) -> u64 {
        let handled =
            |officer: &String| ledger.get(officer).and_then(|state| state["handled"].as_u64()).unwrap_or_default();
        self.officers.iter().map(|(officer, count)| handled(officer).min(*count)).sum()
    }
}

pub(super) fn wait(workload: &Workload, mut ledger: impl FnMut() -> Result<States>) -> Result<()> {
    let bar = ui::bar(workload.events, "effects");
    let mut noted = 0;
    let result = ui::wait_for("all effects", LIMIT, || {
        let done = workload.done(&ledger()?);
        bar.set_position(done);
        // Without a terminal there is no bar, but a line for each quarter.
        let quarter = done * 4 / workload.events.max(1);
        if bar.is_hidden() && quarter > noted {
            ui::note(&format!("{done} of {}", workload.events));
            noted = quarter;
        }
        Ok((done == workload.events).then_some(()))
    });
    let done = bar.position();
    bar.finish_and_clear();
    result.with_context(|| format!("{done} of {} events had their last effect", workload.events))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"
        {"source": "/s", "id": "1", "data": {"resource": "a"}}
        {"source": "/s", "id": "2", "data": {"resource": "b"}}
        {"source": "/s", "id": "1", "data": {"resource": "a"}}
        {"source": "/t", "id": "1", "data": {"resource": "a"}}"#;

    #[test]
    fn a_repeated_event_counts_once() {
        let workload = Workload::parse(LOG).unwrap();
        assert_eq!((workload.events, workload.officers["a"], workload.officers["b"]), (3, 2, 1));
    }

    #[test]
    fn counts_of_earlier_events_do_not_hide_missing_ones() {
        let workload = Workload::parse(LOG).unwrap();
        let states = |a: u64| {
            States::from([("a".to_owned(), serde_json::json!({ "handled": a })), ("z".to_owned(), Value::Null)])
        };
        assert_eq!(workload.done(&states(1)), 1);
        assert_eq!(workload.done(&states(9)), 2);
    }
}
