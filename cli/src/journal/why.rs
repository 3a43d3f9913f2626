//! `rhizon why`: which record last set a field of an entity, and who and what was behind it.

use std::collections::BTreeMap;

use rhizon_kernel::chain::Hash;
use serde::Serialize;
use serde_json::Value;

use super::{Change, Record, Records, value};
use crate::args::Output;
use crate::client::{Client, segment};
use crate::failure::Failure;
use crate::output::table;
use crate::show;

/// The record that gave a field its value, or took it away.
#[derive(Clone, Debug, Serialize)]
struct Setter {
    /// A JSON pointer (RFC 6901); empty for a state that is no object.
    field: String,
    /// Absent when the field was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
    sequence: u64,
    time: String,
    version: u64,
    r#type: String,
    source: String,
    id: String,
    actor: String,
    /// Id of the event's cause.
    cause: String,
    revision: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<Hash>,
}

impl Setter {
    fn new(field: &str, value: Option<&Value>, record: &Record) -> Self {
        let of =
            |get: fn(&rhizon_kernel::Envelope) -> &str| record.event.as_ref().map(get).unwrap_or_default().to_owned();
        Self {
            field: field.to_owned(),
            value: value.cloned(),
            sequence: record.observed.sequence,
            time: record.observed.time.to_string(),
            version: record.version,
            r#type: record.event_type(),
            source: of(|event| &event.source),
            id: of(|event| &event.id),
            actor: record.actor(),
            cause: of(|event| event.causationid.as_deref().unwrap_or_default()),
            revision: record.observed.revision.clone(),
            config: record.observed.config,
        }
    }
}

/// The setters of one field, or of all at the top, as far as the records have been taken in.
struct Setters {
    /// A JSON pointer.
    asked: Option<String>,
    state: Value,
    last: BTreeMap<String, Setter>,
}

impl Setters {
    fn take(&mut self, record: &Record) {
        let after = match &record.change {
            Change::Unchanged => return,
            Change::Set(state) => value(state),
            Change::Deleted => Value::Null,
        };
        let fields = match &self.asked {
            Some(field) => vec![field.clone()],
            None => fields(&self.state).chain(fields(&after)).collect(),
        };
        for field in fields {
            let (before, after) = (self.state.pointer(&field), after.pointer(&field));
            if before != after {
                self.last.insert(field.clone(), Setter::new(&field, after, record));
            }
        }
        self.state = after;
    }

    /// In the order of the fields; without those that are gone, unless one was asked for.
    fn finish(self) -> Vec<Setter> {
        let asked = self.asked.is_some();
        self.last.into_values().filter(|setter| asked || setter.value.as_ref().is_some_and(|v| !v.is_null())).collect()
    }
}

/// Pointers to the members of an object, or to the whole of another value.
fn fields(state: &Value) -> impl Iterator<Item = String> {
    let names: Vec<String> = match state {
        Value::Null => Vec::new(),
        Value::Object(members) => members.keys().map(|name| format!("/{}", escaped(name))).collect(),
        _ => vec![String::new()],
    };
    names.into_iter()
}

fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// A JSON pointer as it is, a dotted path as one.
fn pointer(field: &str) -> String {
    if field.is_empty() || field.starts_with('/') {
        return field.to_owned();
    }
    format!("/{}", field.split('.').map(escaped).collect::<Vec<_>>().join("/"))
}

pub(crate) async fn run(
    client: &mut Client,
    agent: &str,
    entity: &str,
    field: Option<&str>,
    output: Output,
) -> Result<(), Failure> {
    let path = format!("/v1/agents/{}/entities/{}/history", segment(agent), segment(entity));
    let mut records = Records::of(client.get(&path).await?);
    let mut setters = Setters { asked: field.map(pointer), state: Value::Null, last: BTreeMap::new() };
    while let Some(line) = records.next().await? {
        if let Some(record) = Record::read(&line)? {
            setters.take(&record);
        }
    }
    let setters = setters.finish();
    if setters.is_empty() {
        let what = field.map_or_else(|| "a state".to_owned(), |field| format!("a field {}", pointer(field)));
        return Err(Failure::NotSo(format!("entity '{entity}' of agent '{agent}' has never had {what}")));
    }
    if output == Output::Json {
        return show::print(&serde_json::json!({"agent": agent, "entity": entity, "fields": setters}));
    }
    let row = |setter: Setter| {
        let value = setter.value.map_or_else(|| "(removed)".to_owned(), |value| value.to_string());
        let Setter { field, sequence, time, r#type, id, actor, cause, .. } = setter;
        [field, value, sequence.to_string(), time, r#type, id, actor, cause]
    };
    let header = ["field", "value", "sequence", "time", "type", "event", "actor", "cause"];
    println!("{}", table(header, setters.into_iter().map(row)).trim_fmt());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use serde_json::value::to_raw_value;

    fn record(sequence: u64, change: Change) -> Record {
        Record { version: sequence, change, ..super::super::tests::record(sequence) }
    }

    /// Field, and the sequence of its last setter.
    fn last(asked: Option<&str>, states: &[Option<Value>]) -> Vec<(String, u64)> {
        let mut setters = Setters { asked: asked.map(pointer), state: Value::Null, last: BTreeMap::new() };
        for (sequence, state) in (1..).zip(states) {
            let change = state.as_ref().map_or(Change::Deleted, |state| Change::Set(to_raw_value(state).unwrap()));
            setters.take(&record(sequence, change));
            setters.take(&record(100, Change::Unchanged));
        }
        setters.finish().into_iter().map(|setter| (setter.field, setter.sequence)).collect()
    }

    #[test]
    fn the_last_change_of_a_field_counts() {
        let states = [
            json!({"a": 1, "b": {"c": [1, 2]}}),
            json!({"a": 2, "b": {"c": [1, 2]}, "d~/": true}),
            json!({"a": 2, "b": {"c": [1, 3]}, "d~/": true}),
        ]
        .map(Some);
        let all = [("/a", 2), ("/b", 3), ("/d~0~1", 2)].map(|(field, sequence)| (field.to_owned(), sequence));
        assert_eq!(last(None, &states), all);
        assert_eq!(last(Some("b.c.0"), &states), [("/b/c/0".to_owned(), 1)]);
        assert_eq!(last(Some("/b/c/1"), &states), [("/b/c/1".to_owned(), 3)]);
        assert!(last(Some("x"), &states).is_empty());
    }

    #[test]
    fn what_is_gone_has_a_setter_for_who_asks() {
        let states = [Some(json!({"a": 1, "b": 2})), Some(json!({"a": 1})), None, Some(json!(7))];
        assert_eq!(last(Some("b"), &states), [("/b".to_owned(), 2)]);
        assert_eq!(last(Some("a"), &states), [("/a".to_owned(), 3)]);
        assert_eq!(last(None, &states), [(String::new(), 4)]);
    }
}
