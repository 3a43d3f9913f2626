//! Logs of the permits example, and what exactly-once processing must have given in the end.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

/// Names the folder of the real log; `cargo xtask test` sets it.
pub const DATA: &str = "RHIZON_DATA";

/// An agent's entities and their states.
pub type States = BTreeMap<String, Value>;

/// A log, and the result that stands beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub events: PathBuf,
    pub expected: PathBuf,
}

impl Log {
    /// The example's own small log.
    pub fn sample() -> Self {
        Self { events: example().join("events.ndjson"), expected: example().join("expected.json") }
    }

    /// The real log where it is at hand, and the sample elsewhere.
    pub fn at_hand() -> Self {
        let shared = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
        let data = env::var_os(DATA).map_or_else(shared, PathBuf::from);
        let real = Self { events: data.join("permits.ndjson"), expected: data.join("permits.expected.json") };
        if real.events.exists() { real } else { Self::sample() }
    }
}

/// The folder of the example.
pub fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/permits")
}

/// What the two agents must keep in the end.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Per application: how many steps, and a digest over them in order.
    pub permits: States,
    /// Per officer how many steps.
    pub ledger: States,
}

impl Expected {
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        Self::parse(&text).map_err(|error| format!("{} is no expected result: {error}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let all: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let part = |name: &str, state: fn(&Value) -> Value| {
            let entities = all[name].as_object().ok_or_else(|| format!("it has no '{name}'"))?;
            Ok::<_, String>(entities.iter().map(|(entity, value)| (entity.clone(), state(value))).collect())
        };
        Ok(Self {
            permits: part("cases", Value::clone)?,
            ledger: part("resources", |count| json!({"handled": count}))?,
        })
    }

    /// The first difference, in words. Entities that nobody expects are of earlier events and do not count.
    pub fn compare(&self, permits: &States, ledger: &States) -> Result<(), String> {
        missing("permits", &self.permits, permits)?;
        missing("ledger", &self.ledger, ledger)
    }

    /// The same after this log alone: nothing else may be there.
    pub fn compare_all(&self, permits: &States, ledger: &States) -> Result<(), String> {
        self.compare(permits, ledger)?;
        surplus("permits", &self.permits, permits)?;
        surplus("ledger", &self.ledger, ledger)
    }
}

fn missing(agent: &str, expected: &States, states: &States) -> Result<(), String> {
    for (entity, expected) in expected {
        let state = states.get(entity).ok_or_else(|| format!("agent {agent} has no state for {entity}"))?;
        if state != expected {
            return Err(format!("agent {agent}, entity {entity}: {state}, expected {expected}"));
        }
    }
    Ok(())
}

fn surplus(agent: &str, expected: &States, states: &States) -> Result<(), String> {
    match states.iter().find(|(entity, _)| !expected.contains_key(*entity)) {
        Some((entity, state)) => Err(format!("agent {agent}, entity {entity}: {state}, expected nothing")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(value: Value) -> States {
        serde_json::from_value(value).expect("states")
    }

    #[test]
    fn the_first_difference_is_named() {
        let text = r#"{"events": 2, "cases": {"c": {"steps": 2, "digest": "d"}}, "resources": {"o": 2}}"#;
        let expected = Expected::parse(text).expect("an expected result");
        let permits = states(json!({"c": {"steps": 2, "digest": "d"}, "x": {}}));
        let ledger = states(json!({"o": {"handled": 2}}));
        assert_eq!(expected.compare(&permits, &ledger), Ok(()));
        let error = expected.compare_all(&permits, &ledger).expect_err("x is not expected");
        assert_eq!(error, "agent permits, entity x: {}, expected nothing");
        assert_eq!(expected.compare(&permits, &States::new()), Err("agent ledger has no state for o".to_owned()));
        let error = expected.compare(&permits, &states(json!({"o": {"handled": 3}}))).expect_err("one too many");
        assert_eq!(error, r#"agent ledger, entity o: {"handled":3}, expected {"handled":2}"#);
    }

    #[test]
    fn the_samples_result_is_read() {
        let expected = Expected::read(&Log::sample().expected).expect("the sample");
        assert_eq!((expected.permits.len(), expected.ledger.len()), (36, 7));
    }
}
