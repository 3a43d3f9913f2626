//! `--expect`: waits until what the agents keep is what an independent program says it must be.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::manifest::{Expect, Manifest};
use crate::args::Output;
use crate::client::Client;
use crate::failure::Failure;
use crate::{show, verify};

const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// So long without a new record means that nothing more will come.
const STALLED: Duration = Duration::from_secs(10);

pub(super) async fn check(
    client: &mut Client,
    manifest: &Manifest,
    file: &Path,
    begun: Instant,
    output: Output,
) -> Result<(), Failure> {
    let expected = read(file)?;
    let checks: Vec<(&str, &Expect)> =
        manifest.agents.iter().filter_map(|agent| Some((agent.name.as_str(), agent.expect.as_ref()?))).collect();
    let (mut records, mut changed) = (0, Instant::now());
    let took = loop {
        let looked = begun.elapsed();
        let difference = differ(client, &expected, &checks).await?;
        let now = show::agents(client).await?.iter().map(|agent| agent.records).sum();
        if records != now {
            (records, changed) = (now, Instant::now());
        } else if difference.is_none() {
            // Right, and nothing has come since: an effect too many would have been seen by now.
            break looked;
        }
        match difference {
            Some(difference) if changed.elapsed() > STALLED => return Err(Failure::NotSo(difference)),
            _ => tokio::time::sleep(LOOK_AGAIN).await,
        }
    };
    for agent in &manifest.agents {
        verify::agent(client, &agent.name, output).await?;
    }
    let entities: usize =
        checks.iter().map(|(_, expect)| expected[&expect.from].as_object().map_or(0, serde_json::Map::len)).sum();
    eprintln!("all {entities} entities are as expected, {:.1} s after publishing began", took.as_secs_f64());
    Ok(())
}

fn read(file: &Path) -> Result<Value, Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::Usage(format!("{}: {error}", file.display()));
    let text = std::fs::read(file).map_err(|error| wrong(&error))?;
    serde_json::from_slice(&text).map_err(|error| wrong(&error))
}

/// The first difference, in words.
async fn differ(client: &mut Client, expected: &Value, checks: &[(&str, &Expect)]) -> Result<Option<String>, Failure> {
    if checks.is_empty() {
        return Err(Failure::Usage("no agent has the annotation rhizon.dev/dev-expect: nothing to compare".to_owned()));
    }
    for (agent, expect) in checks {
        let states = show::states(client, agent).await?;
        if let Some(difference) = difference(agent, expect, expected, &states)? {
            return Ok(Some(difference));
        }
    }
    Ok(None)
}

/// Entities that nobody expects are of earlier events, and do not count.
fn difference(
    agent: &str,
    expect: &Expect,
    expected: &Value,
    states: &BTreeMap<String, Value>,
) -> Result<Option<String>, Failure> {
    let all = expected[&expect.from].as_object();
    let all = all.ok_or_else(|| Failure::Usage(format!("the expected result has no member '{}'", expect.from)))?;
    for (entity, expected) in all {
        let state = states.get(entity);
        let got = match &expect.field {
            Some(field) => state.and_then(|state| state.get(field)),
            None => state,
        };
        if got != Some(expected) {
            let got = got.map_or_else(|| "nothing".to_owned(), Value::to_string);
            return Ok(Some(format!("agent {agent}, entity {entity}: expected {expected}, got {got}")));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_difference_is_named() {
        let expected = json!({"cases": {"a": {"steps": 1}}, "resources": {"o": 2}});
        let states = |value: Value| serde_json::from_value::<BTreeMap<String, Value>>(value).unwrap();
        let whole = Expect { from: "cases".into(), field: None };
        let field = Expect { from: "resources".into(), field: Some("handled".into()) };
        let of = |expect, value| difference("x", expect, &expected, &states(value)).unwrap();
        assert_eq!(of(&whole, json!({"a": {"steps": 1}, "other": 1})), None);
        assert_eq!(of(&field, json!({"o": {"handled": 2}})), None);
        let wrong = of(&field, json!({"o": {"handled": 3}}));
        assert_eq!(wrong.as_deref(), Some("agent x, entity o: expected 2, got 3"));
        let missing = of(&whole, json!({}));
        assert_eq!(missing.as_deref(), Some(r#"agent x, entity a: expected {"steps":1}, got nothing"#));
        let unknown = Expect { from: "none".into(), field: None };
        assert_eq!(difference("x", &unknown, &expected, &states(json!({}))).unwrap_err().code(), 2);
    }
}
