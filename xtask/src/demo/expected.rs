//! What exactly-once processing must have given, and the comparison with what it gave.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

/// An agent's entities and their states.
pub(super) type States = BTreeMap<String, Value>;

#[derive(Deserialize)]
pub(super) struct Expected {
    /// Per application what agent `permits` keeps: how many steps, and a digest over them in order.
    pub(super) cases: BTreeMap<String, Value>,
    /// Per officer how many steps agent `ledger` counted.
    pub(super) resources: BTreeMap<String, u64>,
}

impl Expected {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no expected result", path.display()))
    }

    /// Entities that nobody expects are of earlier events and do not count.
    pub(super) fn compare(&self, permits: &States, ledger: &States) -> Result<()> {
        for (entity, fields) in &self.cases {
            for (field, expected) in fields.as_object().context("a case is no object")? {
                check("permits", entity, field, expected, permits)?;
            }
        }
        for (entity, handled) in &self.resources {
            check("ledger", entity, "handled", &Value::from(*handled), ledger)?;
        }
        Ok(())
    }
}

fn check(agent: &str, entity: &str, field: &str, expected: &Value, states: &States) -> Result<()> {
    let state = states.get(entity).with_context(|| format!("agent {agent} has no state for {entity}"))?;
    if state[field] != *expected {
        bail!("agent {agent}, entity {entity}: {field} is {}, expected {expected}", state[field]);
    }
    Ok(())
}

/// Reads what `rhizon state AGENT -o json` prints.
pub(super) fn read_states(answer: &str) -> Result<States> {
    let answer: Value = serde_json::from_str(answer).context("`rhizon state -o json` printed no JSON")?;
    let items = answer["items"].as_array().context("`rhizon state -o json` printed no items")?;
    let entity = |item: &Value| Some((item["entity"].as_str()?.to_owned(), item["state"].clone()));
    items.iter().map(|item| entity(item).context("an item has no entity")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected() -> Expected {
        serde_json::from_str(r#"{"events": 2, "cases": {"c": {"steps": 2, "digest": "d"}}, "resources": {"o": 2}}"#)
            .unwrap()
    }

    fn states(items: &str) -> States {
        read_states(&format!(r#"{{"items": [{items}]}}"#)).unwrap()
    }

    #[test]
    fn equal_states_pass_and_others_do_not_count() {
        let permits = states(
            r#"{"entity": "c", "version": 2, "state": {"steps": 2, "digest": "d"}}, {"entity": "x", "state": {}}"#,
        );
        let ledger = states(r#"{"entity": "o", "state": {"handled": 2}}"#);
        expected().compare(&permits, &ledger).unwrap();
    }

    #[test]
    fn the_first_difference_is_named() {
        let permits = states(r#"{"entity": "c", "state": {"steps": 2, "digest": "e"}}"#);
        let error = expected().compare(&permits, &States::new()).unwrap_err();
        assert_eq!(error.to_string(), r#"agent permits, entity c: digest is "e", expected "d""#);
        let permits = states(r#"{"entity": "c", "state": {"steps": 2, "digest": "d"}}"#);
        let error = expected().compare(&permits, &States::new()).unwrap_err();
        assert_eq!(error.to_string(), "agent ledger has no state for o");
    }
}
