//! When a timer fires is an input, which the journal tells. All else about an event the log tells.

use std::collections::BTreeMap;

use rhizon_kernel::chain::Hash;
use rhizon_kernel::ingress::{self, Arrival, Body, CANCELLED};
use rhizon_kernel::record::{Decided, Line, Observed, Part};
use rhizon_runtime::store::Row;

use crate::broker::{Filter, Stored};
use crate::model::{Event, Model};
use crate::plan::Unit;
use crate::world::{World, agent_of};

/// What the journal says of the event with a place in the stream.
struct Told {
    observed: Observed,
    /// Which of its entity's records it is.
    number: usize,
    outcome: String,
    taken_back: bool,
}

/// The events of an agent's share by entity, each in its turn.
pub(crate) fn in_turn(
    world: &World,
    unit: Unit,
    log: &[Stored],
    rows: &[Row],
    model: &mut Model,
) -> Result<BTreeMap<String, Vec<Event>>, String> {
    let told = told(rows)?;
    let mut turns: BTreeMap<String, Vec<Event>> = BTreeMap::new();
    let mut timers: Vec<(usize, Event)> = Vec::new();
    let config = world.config(agent_of(unit));
    let filter = Filter::new(world, unit, config.subscribes_behind(0));
    for (stream, message) in (1..).zip(log).filter(|(_, message)| filter.lets_through(&message.subject)) {
        let arrival = ingress::decode(&config, &message.subject, &message.payload);
        if ingress::is_ignored(&config, stream, &arrival) {
            continue;
        }
        let known = model.claim(&arrival);
        let told = told.get(&stream);
        let taken_back = told.is_some_and(|told| told.taken_back);
        match due_ms(&arrival).filter(|_| known.is_none()) {
            Some(due_ms) => {
                fired_in_time(due_ms, stream, told)?;
                let number = told.map_or(usize::MAX, |told| told.number);
                timers.push((number, Event { stream, arrival, known, taken_back }));
            }
            None if known == Some(arrival.digest) => {}
            None => {
                turns.entry(arrival.entity.clone()).or_default().push(Event {
                    stream,
                    arrival,
                    known,
                    taken_back: false,
                });
            }
        }
    }
    timers.sort_by_key(|(number, _)| *number);
    for (number, event) in timers {
        let turns = turns.entry(event.arrival.entity.clone()).or_default();
        turns.insert(number.min(turns.len()), event);
    }
    Ok(turns)
}

fn told(rows: &[Row]) -> Result<BTreeMap<u64, Told>, String> {
    let mut told = BTreeMap::new();
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows {
        let line = Line::parse(&row.line).map_err(|e| e.to_string())?;
        let Part::Decided(bytes) = line.part else { continue };
        let decided = Decided::parse(bytes).map_err(|e| e.to_string())?;
        let observed = line.observed().map_err(|e| e.to_string())?;
        let number = numbers.entry(decided.entity.to_string()).or_default();
        let taken_back = decided.reason.as_ref().is_some_and(|reason| reason.code == CANCELLED);
        let outcome = decided.outcome.to_string();
        told.insert(observed.stream, Told { observed, number: *number, outcome, taken_back });
        *number += 1;
    }
    Ok(told)
}

fn due_ms(arrival: &Arrival) -> Option<i64> {
    match &arrival.body {
        Body::Event { envelope, .. } => Some(envelope.deliverat?.as_millisecond()),
        Body::Malformed { .. } => None,
    }
}

fn fired_in_time(due_ms: i64, stream: u64, told: Option<&Told>) -> Result<(), String> {
    let Some(told) = told.filter(|told| ["processed", "dead-lettered"].contains(&told.outcome.as_str())) else {
        return Ok(());
    };
    if told.observed.time.as_millisecond() < due_ms {
        return Err(format!("message {stream} was decided at {}, and is due at {due_ms} ms", told.observed.time));
    }
    Ok(())
}

/// Outputs of a record that were to wait when it was made, by their keys.
pub(crate) fn deferred(line: &[u8], owed: &[Hash]) -> Result<Vec<Hash>, String> {
    let line = Line::parse(line).map_err(|e| e.to_string())?;
    let Part::Decided(bytes) = line.part else { return Ok(Vec::new()) };
    let decided = Decided::parse(bytes).map_err(|e| e.to_string())?;
    let made_ms = line.observed().map_err(|e| e.to_string())?.time.as_millisecond();
    let is_later = |output: &serde_json::Value| {
        let due: Option<jiff::Timestamp> = output["deliverat"].as_str().and_then(|text| text.parse().ok());
        due.is_some_and(|due| due.as_millisecond() > made_ms)
    };
    let outputs = decided.outputs.iter().map(|raw| serde_json::from_str(raw.get()).unwrap_or_default());
    Ok(outputs.zip(owed).filter(|(output, _)| is_later(output)).map(|(_, key)| *key).collect())
}
