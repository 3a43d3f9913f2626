//! `rhizon trace`: the tree of causes and effects that an event belongs to, across all agents.

mod print;

use std::collections::HashMap;

use rhizon_kernel::Envelope;

use super::{Output, Record, Records};
use crate::args;
use crate::client::{Client, segment};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::show;

/// An event, who handled it, and what came of it. Places are those in [`Events`].
#[derive(Debug, Default)]
struct Event {
    kind: String,
    source: String,
    id: String,
    subject: String,
    actor: String,
    /// Id of the cause, as the event names it.
    names_cause: Option<String>,
    cause: Option<usize>,
    effects: Vec<usize>,
    handled: Vec<Handled>,
}

/// What an agent made of it.
#[derive(Debug, serde::Serialize)]
struct Handled {
    agent: String,
    entity: String,
    outcome: String,
    version: u64,
    sequence: u64,
    time: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
}

/// All events of the journals, without their contents.
#[derive(Debug, Default)]
struct Events {
    all: Vec<Event>,
    places: HashMap<(String, String), usize>,
}

impl Events {
    fn place(&mut self, source: &str, id: &str) -> usize {
        let next = self.all.len();
        let place = *self.places.entry((source.to_owned(), id.to_owned())).or_insert(next);
        if place == next {
            self.all.push(Event { source: source.to_owned(), id: id.to_owned(), ..Event::default() });
        }
        place
    }

    fn take(&mut self, agent: &str, record: Record) {
        let reason = record.why();
        let Some(input) = record.event else { return };
        let Envelope { source, id, event_type, subject, actor, causationid, .. } = input;
        let place = self.place(&source, &id);
        let event = &mut self.all[place];
        (event.kind, event.subject) = (event_type.into(), subject);
        (event.actor, event.names_cause) = (actor.unwrap_or_default(), causationid);
        event.handled.push(Handled {
            agent: agent.to_owned(),
            entity: record.entity,
            outcome: record.outcome,
            version: record.version,
            sequence: record.observed.sequence,
            time: record.observed.time.to_string(),
            reason,
        });
        for Output { event_type, source, id, subject, actor } in record.outputs {
            let output = self.place(&source, &id);
            self.link(place, output);
            let output = &mut self.all[output];
            (output.kind, output.subject, output.actor) = (event_type, subject, actor.unwrap_or_default());
        }
    }

    /// A record proves it, so it counts more than what an event says of its cause.
    fn link(&mut self, cause: usize, effect: usize) {
        if self.all[effect].cause.is_none() {
            self.all[effect].cause = Some(cause);
            self.all[cause].effects.push(effect);
        }
    }

    /// Links events of clients, and those that were sent again, to the causes that they name.
    fn link_named(&mut self) {
        let mut by_id: HashMap<&str, usize> = HashMap::new();
        for (place, event) in self.all.iter().enumerate() {
            by_id.entry(&event.id).or_insert(place);
        }
        let found = |(effect, event): (usize, &Event)| {
            let cause = *by_id.get(event.names_cause.as_deref()?)?;
            (event.cause.is_none() && cause != effect).then_some((cause, effect))
        };
        let links: Vec<(usize, usize)> = self.all.iter().enumerate().filter_map(found).collect();
        for (cause, effect) in links {
            self.link(cause, effect);
        }
    }

    fn find(&self, id: &str, source: Option<&str>) -> Result<usize, Failure> {
        let fits = |event: &&Event| event.id == id && source.is_none_or(|source| event.source == source);
        let found: Vec<&Event> = self.all.iter().filter(fits).collect();
        match found.as_slice() {
            [] => Err(Failure::NotSo(format!("no journal of this workspace has an event with the id '{id}'"))),
            [only] => Ok(self.places[&(only.source.clone(), only.id.clone())]),
            many => {
                let sources: Vec<&str> = many.iter().map(|event| event.source.as_str()).collect();
                Err(Failure::Usage(format!(
                    "several events have this id; give --source, one of: {}",
                    sources.join(", ")
                )))
            }
        }
    }

    /// The first cause that is known. Clients name causes freely, so a circle is possible, and left where it closes.
    fn root(&self, event: usize) -> usize {
        let (mut root, mut steps) = (event, 0);
        while let Some(cause) = self.all[root].cause.filter(|_| steps < self.all.len()) {
            (root, steps) = (cause, steps + 1);
        }
        root
    }
}

pub(crate) async fn run(
    client: &mut Client,
    id: &str,
    source: Option<&str>,
    output: args::Output,
) -> Result<(), Failure> {
    let agents = show::agents(client).await?;
    let total = agents.iter().map(|agent| agent.records).sum();
    let progress = Progress::start("records", Some(total), 0);
    let mut events = Events::default();
    let shards = agents.into_iter().flat_map(|agent| (0..agent.shards).map(move |shard| (agent.name.clone(), shard)));
    for (name, shard) in shards {
        let path = format!("/v1/agents/{}/journal?shard={shard}", segment(&name));
        let mut records = Records::of(client.get(&path).await?);
        while let Some(line) = records.next().await? {
            if let Some(record) = Record::read(&line)? {
                events.take(&name, record);
            }
            progress.step();
        }
    }
    progress.finish();
    events.link_named();
    let asked = events.find(id, source)?;
    let root = events.root(asked);
    match output {
        args::Output::Json => show::print(&print::json(&events, root, asked)),
        args::Output::Table => show::print_line(print::tree(&events, root, asked).as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(sequence: u64, event: &serde_json::Value, outputs: &serde_json::Value) -> Record {
        Record {
            event: Some(Envelope::parse(event.to_string().as_bytes(), &rhizon_kernel::Limits::default()).unwrap()),
            outputs: serde_json::from_value(outputs.clone()).unwrap(),
            ..super::super::tests::record(sequence)
        }
    }

    fn event(source: &str, id: &str, cause: Option<&str>) -> serde_json::Value {
        let mut event =
            json!({"specversion": "1.0", "id": id, "source": source, "type": "cmd.a.b", "subject": "e", "actor": "me"});
        if let Some(cause) = cause {
            event["causationid"] = cause.into();
        }
        event
    }

    fn events() -> Events {
        let output = json!([{"type": "cmd.a.b", "source": "/x", "id": "2", "subject": "e", "actor": "me"}]);
        let mut events = Events::default();
        // The effect's journal may be read before that of its cause.
        events.take("two", record(1, &event("/x", "2", Some("1")), &json!([])));
        events.take("one", record(1, &event("/s", "1", None), &output));
        events.take("one", record(2, &event("/again", "3", Some("2")), &json!([])));
        events.take("one", record(3, &event("/other", "1", None), &json!([])));
        events.link_named();
        events
    }

    #[test]
    fn the_tree_has_causes_and_effects() {
        let events = events();
        let asked = events.find("2", None).unwrap();
        let root = events.root(asked);
        let expected = "cmd.a.b 1 of /s for e by me
├─ one: processed e, version 1 (record 1)
└─ cmd.a.b 2 of /x for e by me  ◀
   ├─ two: processed e, version 1 (record 1)
   └─ cmd.a.b 3 of /again for e by me
      └─ one: processed e, version 1 (record 2)";
        assert_eq!(print::tree(&events, root, asked), expected);
        let json = serde_json::to_value(print::json(&events, root, asked)).unwrap();
        assert_eq!(json["effects"][0]["effects"][0]["source"], "/again");
        assert_eq!((&json["effects"][0]["asked"], &json["asked"]), (&json!(true), &json!(false)));
    }

    #[test]
    fn an_id_alone_may_not_be_enough() {
        let events = events();
        let failure = events.find("1", None).unwrap_err();
        assert!(failure.to_string().contains("/s, /other"), "{failure}");
        assert!(events.find("1", Some("/other")).is_ok());
        assert_eq!(events.find("9", None).unwrap_err().code(), 1);
    }

    #[test]
    fn a_circle_of_named_causes_ends() {
        let mut events = Events::default();
        events.take("one", record(1, &event("/s", "1", Some("2")), &json!([])));
        events.take("one", record(2, &event("/s", "2", Some("1")), &json!([])));
        events.link_named();
        let root = events.root(0);
        assert_eq!(print::tree(&events, root, 0).lines().count(), 4);
    }
}
