//! What must be true once everything has come to rest, whatever the seed did.

use std::collections::{BTreeMap, BTreeSet};

use rhizon_kernel::chain::Hash;
use rhizon_kernel::ingress;
use rhizon_kernel::record::{Decided, Line, Part};
use rhizon_kernel::replay::Replay;
use rhizon_kernel::subject::Subject;
use rhizon_runtime::driver::Ordering;
use rhizon_runtime::store::{EventStore as _, Row};

use crate::behaviour::{self, Mood};
use crate::broker::{Broker, Stored, is_for};
use crate::executor::wall_clock;
use crate::ledger::owed;
use crate::model::{Event, Model};
use crate::plan::AGENTS;
use crate::store::{SimStore, now};
use crate::timers;
use crate::world::{NAMES, World};

type Checked<T = ()> = Result<T, String>;

/// Checks everything; an error says which agent broke which promise, and where.
pub(crate) fn check(world: &World, broker: &Broker, stores: &[SimStore]) -> Checked {
    let (log, dead) = (broker.log(), broker.dead_letters());
    for (agent, store) in stores.iter().enumerate() {
        let promise = |e: String| format!("{}: {e}", NAMES[agent]);
        let rows = now(store.inside().journal(0, usize::MAX)).map_err(|e| promise(e.to_string()))?;
        replays(store, &rows).map_err(promise)?;
        let commits = agrees_with_the_model(world, agent, &log, &rows).map_err(promise)?;
        publishes_what_it_owes(agent, &rows, &log, &dead).map_err(promise)?;
        charges_nobody_for_others(world, agent, &rows).map_err(promise)?;
        world.sim.note("root", agent as u64, commits);
    }
    if world.plan.timers == 0 && world.plan.agents.iter().all(|driving| driving.ordering == Ordering::Stream) {
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
    let live = now(store.inside().entities(String::new(), usize::MAX)).map_err(|e| e.to_string())?;
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

/// Every event of the stream has one effect, in the order of its entity, and the root is the model's.
fn agrees_with_the_model(world: &World, agent: usize, log: &[Stored], rows: &[Row]) -> Checked<u64> {
    let mut model = Model::default();
    let turns = timers::in_turn(world, agent, log, rows, &mut model)?;
    for event in turns.values().flatten() {
        model.push(&world.plan, &world.configs[agent], agent, event);
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

/// As long as no process died, an event that its agent handles at once was tried once, whatever its neighbours did. With a
/// process dies what it knew of tries that were under way.
fn charges_nobody_for_others(world: &World, agent: usize, rows: &[Row]) -> Checked {
    let counts = world.counts();
    if ["crash", "fuse", "second instance", "stop"].iter().any(|fault| counts.contains_key(fault)) {
        return Ok(());
    }
    for row in rows {
        let line = Line::parse(&row.line).map_err(|e| e.to_string())?;
        let Part::Decided(bytes) = line.part else { continue };
        let decided = Decided::parse(bytes).map_err(|e| e.to_string())?;
        let Some(input) = decided.input else { continue };
        let arrival = ingress::decode(&world.configs[agent], &decided.subject, input.get().as_bytes());
        let mood = behaviour::mood(&world.plan, agent, &arrival.key.to_string());
        let attempts = line.observed().map_err(|e| e.to_string())?.attempts;
        if matches!(mood, Mood::Works | Mood::Deletes | Mood::Refused) && attempts > 1 {
            return Err(format!("record {} says {attempts} attempts, and the event did no harm", row.sequence));
        }
    }
    Ok(())
}

/// Its outputs are on the stream once each, repetitions under the same key apart, in the order of the journal.
fn publishes_what_it_owes(agent: usize, rows: &[Row], log: &[Stored], dead: &[Stored]) -> Checked {
    let publisher = format!("agent-{}", NAMES[agent]);
    let is_its = |message: &&Stored| Subject::parse(&message.subject).is_ok_and(|s| s.publisher == publisher);
    let is_its_letter = |message: &&Stored| message.subject.starts_with(&format!("dead.{}.", NAMES[agent]));
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
    let mut feed: Vec<(String, Vec<u8>)> =
        log.iter().filter(|m| is_for(0, &m.subject)).map(|m| (m.subject.clone(), m.payload.to_vec())).collect();
    for agent in 0..AGENTS {
        let mut model = Model::default();
        for (subject, payload) in &feed {
            let arrival = ingress::decode(&world.configs[agent], subject, payload);
            let known = model.claim(&arrival);
            model.push(&world.plan, &world.configs[agent], agent, &Event { arrival, known, taken_back: false });
        }
        let rows = now(stores[agent].inside().journal(0, usize::MAX)).map_err(|e| e.to_string())?;
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
        feed = outputs.map(|output| (output.subject.clone(), output.envelope.to_json())).collect();
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
