//! What must be true once everything has come to rest, whatever the seed did.

use std::collections::{BTreeMap, BTreeSet};

use rhizon_kernel::chain::Hash;
use rhizon_kernel::egress::Output;
use rhizon_kernel::ingress;
use rhizon_kernel::record::{Decided, Line, Part};
use rhizon_kernel::replay::Replay;
use rhizon_kernel::subject::{GATEWAY, Subject};
use rhizon_runtime::driver::Ordering;
use rhizon_runtime::store::{EventStore as _, Row};

use crate::behaviour::{self, Mood};
use crate::broker::{Broker, Filter, Stored};
use crate::executor::wall_clock;
use crate::ledger::owed;
use crate::letters;
use crate::model::{Event, Model};
use crate::plan::{AGENTS, Unit};
use crate::store::{SimStore, now};
use crate::timers;
use crate::world::{NAMES, World, agent_of};

type Checked<T = ()> = Result<T, String>;

/// Checks everything; an error says which agent broke which promise, and where.
pub(crate) fn check(world: &World, broker: &Broker, stores: &[SimStore]) -> Checked {
    let (log, dead) = (broker.log(), broker.dead_letters());
    for (unit, store) in stores.iter().enumerate() {
        let agent = agent_of(unit);
        let promise = |e: String| format!("{} ({unit}): {e}", NAMES[agent]);
        let rows = now(store.inside().journal(0, usize::MAX)).map_err(|e| promise(e.to_string()))?;
        replays(store, &rows).map_err(promise)?;
        let commits = agrees_with_the_model(world, unit, store, &log, &rows).map_err(promise)?;
        publishes_what_it_owes(world, store, &rows, &log, &dead).map_err(promise)?;
        knows_its_dead_letters(store, &rows).map_err(promise)?;
        charges_nobody_for_others(world, store, &rows).map_err(promise)?;
        world.sim.note("root", unit as u64, commits);
    }
    if world.plan.timers == 0
        && !world.plan.is_sharded
        && world.plan.agents.iter().all(|driving| driving.ordering == Ordering::Stream)
    {
        the_chain_agrees_with_the_model(world, &log, stores)?;
    }
    Ok(())
}

/// Both chains verify, and what is folded is what the store says.
fn replays(store: &SimStore, rows: &[Row]) -> Checked {
    let mut replay = Replay::default();
    for row in rows {
        replay.push(&row.line).map_err(|mismatch| format!("its journal does not verify: {mismatch}"))?;
    }
    let live = now(store.inside().entities(String::new(), usize::MAX, usize::MAX)).map_err(|e| e.to_string())?;
    let folded: Vec<String> = replay.heads().iter().map(|(entity, head)| format!("{entity} {head:?}")).collect();
    let live: Vec<String> = live.iter().map(|(entity, head)| format!("{entity} {head:?}")).collect();
    if folded != live {
        return Err(format!("replay gives {folded:?}, and the store says {live:?}"));
    }
    let mark = now(store.inside().mark()).map_err(|e| e.to_string())?;
    if mark.tail != replay.tail() {
        return Err(format!("its journal ends with {:?}, and the store says {:?}", replay.tail(), mark.tail));
    }
    Ok(())
}

fn decided(rows: &[Row]) -> Vec<&[u8]> {
    let lines = rows.iter().filter_map(|row| Line::parse(&row.line).ok());
    lines.filter_map(|line| if let Part::Decided(bytes) = line.part { Some(bytes) } else { None }).collect()
}

/// The model for what an agent's processes lived through.
fn model(store: &SimStore, rows: &[Row]) -> Checked<Model> {
    let mut model = Model::default();
    for bytes in decided(rows).into_iter().filter(|_| store.ledger.is_disturbed()) {
        let decided = Decided::parse(bytes).map_err(|e| e.to_string())?;
        if decided.reason.as_ref().is_some_and(|reason| reason.code == behaviour::gone().code) {
            model.taken_over.insert(decided.identity().map_err(|e| e.to_string())?.0);
        }
    }
    Ok(model)
}

/// Every event of the stream has one effect, in the order of its entity, and the root is the model's.
fn agrees_with_the_model(world: &World, unit: Unit, store: &SimStore, log: &[Stored], rows: &[Row]) -> Checked<u64> {
    let agent = agent_of(unit);
    let mut model = model(store, rows)?;
    let config = world.config(agent);
    let turns = timers::in_turn(world, unit, log, rows, &mut model)?;
    for event in turns.values().flatten() {
        model.push(&world.plan, &config, agent, event);
    }
    let mut want: BTreeMap<&str, Vec<&[u8]>> = BTreeMap::new();
    for commit in &model.commits {
        want.entry(&commit.entity).or_default().push(&commit.decided);
    }
    let mut got: BTreeMap<String, Vec<&[u8]>> = BTreeMap::new();
    for bytes in decided(rows) {
        let decided = Decided::parse(bytes).map_err(|e| e.to_string())?;
        got.entry(decided.entity.into_owned()).or_default().push(bytes);
    }
    for (entity, want) in &want {
        same(&format!("decisions about {entity}"), want, got.get(*entity).map_or(&[], Vec::as_slice))?;
    }
    if let Some(entity) = got.keys().find(|entity| !want.contains_key(entity.as_str())) {
        return Err(format!("it decided about {entity}, for which there was no event"));
    }
    Ok(model.commits.len() as u64)
}

/// A dead letter is open until somebody's command about it is decided.
fn knows_its_dead_letters(store: &SimStore, rows: &[Row]) -> Checked {
    let kept = now(store.inside().dead_letters(0, usize::MAX)).map_err(|e| e.to_string())?;
    let (kept, open) = (letters::open(decided(&kept).into_iter())?, letters::open(decided(rows).into_iter())?);
    if kept == open { Ok(()) } else { Err(format!("the dead letters {open:?} are open, and the store says {kept:?}")) }
}

/// As long as no process of its died, an event that its agent handles at once was tried once, whatever its neighbours did. With a
/// process dies what it knew of tries that were under way.
fn charges_nobody_for_others(world: &World, store: &SimStore, rows: &[Row]) -> Checked {
    if store.ledger.is_disturbed() {
        return Ok(());
    }
    let agent = store.ledger.agent;
    let config = world.config(agent);
    for row in rows {
        let line = Line::parse(&row.line).map_err(|e| e.to_string())?;
        let Part::Decided(bytes) = line.part else { continue };
        let decided = Decided::parse(bytes).map_err(|e| e.to_string())?;
        let Some(input) = decided.input else { continue };
        let arrival = ingress::decode(&config, &decided.subject, input.get().as_bytes());
        let mood = behaviour::mood(&world.plan, agent, &arrival.key.to_string());
        let attempts = line.observed().map_err(|e| e.to_string())?.attempts;
        if matches!(mood, Mood::Works | Mood::Deletes | Mood::Refused) && attempts > 1 {
            return Err(format!("record {} says {attempts} attempts, and the event did no harm", row.sequence));
        }
    }
    Ok(())
}

/// Its outputs are on the stream once each, repetitions under the same key apart, in the order of the journal.
fn publishes_what_it_owes(world: &World, store: &SimStore, rows: &[Row], log: &[Stored], dead: &[Stored]) -> Checked {
    let agent = store.ledger.agent;
    let publisher = format!("agent-{}", NAMES[agent]);
    // What one shard publishes and does not owe, no shard does: the ledger has seen to that.
    let of_share = |message: &&Stored| agent > 0 || !world.plan.is_sharded || store.ledger.owes(&message.key);
    let is_its = |message: &&Stored| {
        of_share(message) && Subject::parse(&message.subject).is_ok_and(|s| s.publisher == publisher)
    };
    let is_its_letter =
        |message: &&Stored| of_share(message) && message.subject.starts_with(&format!("dead.{}.", NAMES[agent]));
    let (mut want, mut want_letters, mut want_later) = (Vec::new(), Vec::new(), BTreeSet::new());
    for row in rows {
        let mut keys = owed(agent, &row.line).ok_or("a record's outputs can't be read")?;
        let later = timers::deferred(&row.line, &keys)?;
        let is_dead = String::from_utf8_lossy(&row.line).contains(r#","outcome":"dead-lettered","#);
        want_letters.extend(is_dead.then(|| keys.pop()).flatten());
        want.extend(keys.into_iter().filter(|key| !later.contains(key)));
        want_later.extend(later);
    }
    let mut seen = BTreeSet::new();
    let first: Vec<&Stored> = log.iter().filter(is_its).filter(|message| seen.insert(message.key)).collect();
    let (later, sent): (Vec<&Stored>, Vec<&Stored>) =
        first.into_iter().partition(|message| want_later.contains(&message.key));
    let letters = dead.iter().filter(is_its_letter).filter(|message| seen.insert(message.key));
    same("published outputs", &want, &sent.iter().map(|message| message.key).collect::<Vec<_>>())?;
    same("dead letters", &want_letters, &letters.map(|message| message.key).collect::<Vec<_>>())?;
    let fired: BTreeSet<Hash> = later.iter().map(|message| message.key).collect();
    if let Some(lost) = want_later.difference(&fired).next() {
        return Err(format!("the output {lost} was due and is not published"));
    }
    later.into_iter().try_for_each(is_not_early)
}

fn is_not_early(message: &Stored) -> Checked {
    let output: serde_json::Value = serde_json::from_slice(&message.payload).map_err(|e| e.to_string())?;
    let due: Option<jiff::Timestamp> = output["deliverat"].as_str().and_then(|text| text.parse().ok());
    match due.filter(|due| wall_clock(message.at_us).as_millisecond() < due.as_millisecond()) {
        Some(due) => Err(format!("an output that is due at {due} was published at {}", wall_clock(message.at_us))),
        None => Ok(()),
    }
}

/// With one upstream each and the stream's order kept, the whole chain is a function of what clients sent.
fn the_chain_agrees_with_the_model(world: &World, log: &[Stored], stores: &[SimStore]) -> Checked {
    // A copy of a message may come long after it, when other rules are in force.
    let mut places: BTreeMap<Hash, Vec<u64>> = BTreeMap::new();
    for (stream, message) in (1..).zip(log) {
        places.entry(message.key).or_default().push(stream);
    }
    let is_of_agent = |subject: &str| Subject::parse(subject).is_ok_and(|subject| subject.publisher != GATEWAY);
    let mut fed: Vec<(u64, String, Vec<u8>)> = Vec::new();
    for agent in 0..AGENTS {
        let rows = now(stores[agent].inside().journal(0, usize::MAX)).map_err(|e| e.to_string())?;
        let (config, mut model) = (world.config(agent), model(&stores[agent], &rows)?);
        let filter = Filter::new(world, agent, config.subscribes_behind(0));
        let clients = (1..).zip(log).filter(|(_, message)| !is_of_agent(&message.subject));
        fed.extend(clients.map(|(stream, message)| (stream, message.subject.clone(), message.payload.to_vec())));
        fed.sort();
        for (stream, subject, payload) in fed.iter().filter(|(_, subject, _)| filter.lets_through(subject)) {
            let arrival = ingress::decode(&config, subject, payload);
            if !ingress::is_ignored(&config, *stream, &arrival) {
                let known = model.claim(&arrival);
                let event = Event { stream: *stream, arrival, known, taken_back: false };
                model.push(&world.plan, &config, agent, &event);
            }
        }
        let mut replay = Replay::default();
        rows.iter().try_for_each(|row| replay.push(&row.line)).map_err(|mismatch| mismatch.to_string())?;
        if replay.root() != model.root() {
            return Err(format!(
                "the root of {} is {}, and the chain's model says {}",
                NAMES[agent],
                replay.root(),
                model.root()
            ));
        }
        let outputs = model.commits.iter().flat_map(|commit| &commit.outputs);
        let on_stream = |output: &Output| {
            let places = places.get(&output.key).cloned().unwrap_or_default();
            let (subject, payload) = (output.subject.clone(), output.json.bytes.clone());
            places.into_iter().map(move |stream| (stream, subject.clone(), payload.clone()))
        };
        fed = outputs.flat_map(on_stream).collect();
    }
    Ok(())
}

trait Shown {
    fn shown(&self) -> String;
}

impl Shown for &[u8] {
    fn shown(&self) -> String {
        String::from_utf8_lossy(self).into_owned()
    }
}

impl Shown for Hash {
    fn shown(&self) -> String {
        self.to_string()
    }
}

/// The first difference between two lists, in words.
fn same<T: Shown + PartialEq>(what: &str, want: &[T], got: &[T]) -> Checked {
    let at = want.iter().zip(got).take_while(|(want, got)| want == got).count();
    if at == want.len() && at == got.len() {
        return Ok(());
    }
    let show = |list: &[T]| list.get(at).map_or_else(|| "nothing".to_owned(), Shown::shown);
    let (want_shown, got_shown) = (show(want), show(got));
    let equal = want_shown.bytes().zip(got_shown.bytes()).take_while(|(want, got)| want == got).count();
    let around = |text: &str| {
        let from = text.floor_char_boundary(equal.saturating_sub(60));
        text[from..text.floor_char_boundary(equal + 120)].to_owned()
    };
    let (want_shown, got_shown) = (around(&want_shown), around(&got_shown));
    Err(format!(
        "{what}: number {at} of {} should be …{want_shown}…, and is …{got_shown}… (of {})",
        want.len(),
        got.len()
    ))
}
