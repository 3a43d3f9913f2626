//! What must hold for any history, not for the examples that came to mind.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use rhizon_kernel::chain::{self, Hash};
use rhizon_kernel::egress::{self, Draft, Outcome, Reaction, StateChange};
use rhizon_kernel::ingress::{self, Decision, Reason};
use rhizon_kernel::record::{Observed, Tail};
use rhizon_kernel::replay::{Mismatch, Replay};
use rhizon_kernel::subject::Subject;
use rhizon_kernel::{Config, Envelope, Head, Limits, Rule};
use serde_json::value::to_raw_value;

fn config() -> Config {
    Config {
        workspace: "w".into(),
        agent: "a".into(),
        subscribes: vec!["cmd.thing.*".parse().unwrap()],
        publishes: vec!["evt.thing.done".parse().unwrap()],
        authorization: vec![Rule { event_type: "cmd.thing.guarded".parse().unwrap(), roles: vec!["boss".into()] }],
        limits: Limits::default(),
        from: 0,
        earlier: Vec::new(),
    }
}

fn subscribing(event_type: &str) -> Config {
    Config { subscribes: vec![event_type.parse().unwrap()], ..config() }
}

/// One event as it arrives, and what an agent will say to it.
#[derive(Debug, Clone)]
struct Input {
    subject: String,
    payload: Vec<u8>,
    answer: Answer,
}

#[derive(Debug, Clone)]
enum Answer {
    Set(i64, Vec<i64>),
    Delete,
    Nothing,
    Refuse,
    Die,
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        4 => (any::<i64>(), prop::collection::vec(any::<i64>(), 0..3)).prop_map(|(state, outputs)| Answer::Set(state, outputs)),
        1 => Just(Answer::Delete),
        1 => Just(Answer::Nothing),
        1 => Just(Answer::Refuse),
        1 => Just(Answer::Die),
    ]
}

prop_compose! {
    fn input()(
        id in 0..12_u8,
        entity in "[a-c é/]",
        verb in prop::sample::select(vec!["do", "guarded"]),
        workspace in prop::sample::select(vec!["w", "w", "w", "w", "other"]),
        roles in prop::sample::select(vec!["", "boss", "boss,clerk"]),
        second in prop::option::of(0..60_i64),
        expected in prop::option::weighted(0.2, 0..3_u64),
        data in any::<i32>(),
        garbage in prop::option::weighted(0.05, prop::collection::vec(any::<u8>(), 0..20)),
        lie in prop::bool::weighted(0.05),
        answer in answer(),
    ) -> Input {
        let mut event = Envelope::new(id.to_string(), "/test".into(), format!("cmd.thing.{verb}").parse().unwrap(), entity.clone());
        event.workspace = Some(workspace.into());
        event.roles = rhizon_kernel::envelope::roles(roles);
        event.time = second.map(|s| jiff::Timestamp::from_second(1_700_000_000 + s).unwrap());
        event.expectedversion = expected;
        event.data = Some(to_raw_value(&data).unwrap());
        event.traceparent = Some(format!("00-{data}"));
        let entity = if lie { "somebody else".to_owned() } else { entity };
        let subject = Subject::new("gateway", &event.event_type, &entity, None).to_string();
        Input { subject, payload: garbage.unwrap_or_else(|| event.to_json()), answer }
    }
}

fn history() -> impl Strategy<Value = Vec<Input>> {
    prop::collection::vec(input(), 0..40)
}

/// The smallest engine: a map of heads, a map of known ids, and a journal.
#[derive(Default)]
struct Engine {
    heads: BTreeMap<String, Head>,
    known: BTreeMap<Hash, Hash>,
    tail: Tail,
    journal: Vec<Vec<u8>>,
    accepted: Vec<Vec<u8>>,
}

impl Engine {
    fn start(config: &Config) -> Self {
        let mut engine = Self::default();
        engine.configure(config);
        engine
    }

    fn configure(&mut self, config: &Config) {
        let line = self.tail.append_config(config, &observed(config, self.tail.sequence + 1, 0));
        self.journal.push(line);
    }

    fn feed(&mut self, config: &Config, stream: u64, input: &Input) {
        let arrival = ingress::decode(config, &input.subject, &input.payload);
        let head = self.heads.get(&arrival.entity).cloned().unwrap_or_default();
        let known = self.known.get(&arrival.key).copied();
        let by_agent = Reason::new("agent_said", "so");
        let commit = match ingress::decide(config, stream, &head, known.as_ref(), &arrival) {
            Decision::Duplicate | Decision::Ignore => return,
            Decision::Reject(reason) => egress::settle(&head, &arrival, Outcome::Rejected, &reason),
            Decision::Conflict(reason) => egress::settle(&head, &arrival, Outcome::Conflict, &reason),
            Decision::Note(_) => egress::note(&head, &arrival),
            Decision::Accept => {
                self.accepted.push(input.payload.clone());
                match reaction(&input.answer) {
                    Ok(reaction) => egress::react(config, &head, &arrival, reaction).unwrap(),
                    Err(outcome) => egress::settle(&head, &arrival, outcome, &by_agent),
                }
            }
        };
        let line = self.tail.append_commit(&commit, &observed(config, self.tail.sequence + 1, stream));
        self.journal.push(line);
        self.known.entry(commit.key).or_insert(commit.digest);
        self.heads.insert(commit.entity, commit.head);
    }

    fn root(&self) -> Hash {
        let leaves: Vec<Hash> =
            self.heads.iter().map(|(key, head)| chain::leaf(key, head.version, &head.hash)).collect();
        chain::root(&leaves)
    }
}

fn reaction(answer: &Answer) -> Result<Reaction, Outcome> {
    match answer {
        Answer::Set(state, outputs) => {
            let draft = |n: &i64| Draft {
                event_type: "evt.thing.done".into(),
                subject: Some(format!("thing {n}")),
                target: None,
                deliver_at: None,
                data: Some(to_raw_value(n).unwrap()),
            };
            Ok(Reaction {
                outputs: outputs.iter().map(draft).collect(),
                state: StateChange::Set(to_raw_value(state).unwrap()),
            })
        }
        Answer::Delete => Ok(Reaction { outputs: vec![], state: StateChange::Delete }),
        Answer::Nothing => Ok(Reaction::default()),
        Answer::Refuse => Err(Outcome::Rejected),
        Answer::Die => Err(Outcome::DeadLettered),
    }
}

fn observed(config: &Config, sequence: u64, stream: u64) -> Observed {
    Observed {
        sequence,
        stream,
        time: jiff::Timestamp::UNIX_EPOCH,
        attempts: 1,
        epoch: 1,
        revision: "test".into(),
        config: Some(config.hash()),
        traceparent: None,
        tracestate: None,
    }
}

fn run(inputs: &[Input]) -> Engine {
    let config = config();
    let mut engine = Engine::start(&config);
    for (stream, input) in (1..).zip(inputs) {
        engine.feed(&config, stream, input);
    }
    engine
}

/// One process with the old rules up to some place, then one with the new ones, to which the broker still hands out both.
fn run_with_a_change(inputs: &[Input], place: usize, restart: usize) -> Engine {
    let old = subscribing("cmd.thing.do");
    let new = subscribing("cmd.thing.guarded").following(&old, place as u64 + 1, 0);
    let mut engine = Engine::start(&old);
    for (index, input) in inputs.iter().enumerate() {
        if index == restart {
            engine.configure(&new);
        }
        let (config, is_handed_out) =
            if index < restart { (&old, input.subject.contains(".thing.do.")) } else { (&new, true) };
        if is_handed_out {
            engine.feed(config, index as u64 + 1, input);
        }
    }
    engine
}

fn replay(journal: &[Vec<u8>]) -> Result<Replay, Mismatch> {
    let mut replay = Replay::default();
    journal.iter().try_for_each(|line| replay.push(line))?;
    Ok(replay)
}

proptest! {
    #[test]
    fn replay_of_any_history_gives_the_same_heads_and_root(inputs in history()) {
        let engine = run(&inputs);
        let replay = replay(&engine.journal).unwrap();
        prop_assert_eq!(replay.root(), engine.root());
        prop_assert_eq!(replay.tail(), engine.tail);
        for (entity, head) in replay.heads() {
            let live = &engine.heads[entity];
            prop_assert_eq!((head.version, head.hash, head.time), (live.version, live.hash, live.time));
            prop_assert_eq!(head.state.as_ref().map(|s| s.get()), live.state.as_ref().map(|s| s.get()));
        }
    }

    #[test]
    fn a_change_counts_from_its_place_whenever_a_process_learns_of_it(
        inputs in history(), place in any::<prop::sample::Index>(), restart in any::<prop::sample::Index>(),
    ) {
        let place = place.index(inputs.len() + 1);
        let changed = run_with_a_change(&inputs, place, restart.index(place + 1));
        prop_assert_eq!(replay(&changed.journal).unwrap().root(), changed.root());
        prop_assert_eq!(changed.root(), run_with_a_change(&inputs, place, place).root());
        let of_its_time = |(index, input): &(usize, &Input)| {
            input.subject.contains(if *index < place { ".thing.do." } else { ".thing.guarded." })
        };
        let expected: Vec<Input> = inputs.iter().enumerate().filter(of_its_time).map(|(_, input)| input.clone()).collect();
        prop_assert_eq!(changed.root(), run(&expected).root());
    }

    #[test]
    fn a_record_that_names_another_config_is_found(inputs in history()) {
        let mut engine = run(&inputs);
        let other = observed(&subscribing("cmd.thing.do"), engine.tail.sequence + 1, 0);
        engine.journal.push(engine.tail.append_config(&config(), &other));
        let mismatch = replay(&engine.journal).unwrap_err();
        prop_assert_eq!((mismatch.sequence, mismatch.field.as_str()), (other.sequence, "observed.config"));
    }

    #[test]
    fn the_same_inputs_give_the_same_bytes(inputs in history()) {
        prop_assert_eq!(run(&inputs).journal, run(&inputs).journal);
    }

    #[test]
    fn feeding_each_input_twice_changes_nothing(inputs in history()) {
        let twice: Vec<Input> = inputs.iter().flat_map(|input| [input.clone(), input.clone()]).collect();
        let (once, twice) = (run(&inputs), run(&twice));
        // What reuses an id with other content is refused each time it comes, and that is journaled each time.
        if !once.journal.iter().any(|line| String::from_utf8_lossy(line).contains("id_reused")) {
            prop_assert_eq!((once.journal.len(), once.root()), (twice.journal.len(), twice.root()));
        }
        prop_assert_eq!(once.accepted, twice.accepted);
    }

    #[test]
    fn nothing_of_another_workspace_is_accepted(inputs in history()) {
        for payload in run(&inputs).accepted {
            let event = Envelope::parse(&payload, &Limits::default()).unwrap();
            prop_assert_eq!(event.workspace.as_deref(), Some("w"));
            prop_assert!(event.event_type.as_str() != "cmd.thing.guarded" || event.roles.contains(&"boss".to_owned()));
        }
    }

    #[test]
    fn order_between_entities_does_not_change_the_root(inputs in history(), pivot in "[a-c é/]") {
        // Ids are one name space: without reuse, entities are independent of each other.
        let mut seen = std::collections::BTreeSet::new();
        let config = config();
        let unique: Vec<Input> = inputs.into_iter().filter(|i| seen.insert(ingress::decode(&config, &i.subject, &i.payload).key)).collect();
        let entity = |input: &Input| ingress::decode(&config, &input.subject, &input.payload).entity;
        let (mut first, second): (Vec<Input>, Vec<Input>) = unique.iter().cloned().partition(|input| entity(input) == pivot);
        first.extend(second);
        prop_assert_eq!(run(&unique).root(), run(&first).root());
    }

    #[test]
    fn one_changed_byte_is_found_in_its_record(inputs in history(), record in any::<prop::sample::Index>(), byte in any::<prop::sample::Index>(), change in 1..=255_u8) {
        let mut journal = run(&inputs).journal;
        let at = record.index(journal.len());
        let line = &mut journal[at];
        let place = byte.index(line.len());
        line[place] ^= change;
        let mismatch = replay(&journal).unwrap_err();
        prop_assert_eq!(mismatch.sequence, at as u64 + 1);
    }

    #[test]
    fn a_record_left_out_is_found_where_it_was(inputs in history(), record in any::<prop::sample::Index>()) {
        let mut journal = run(&inputs).journal;
        let at = record.index(journal.len());
        let last = at + 1 == journal.len();
        journal.remove(at);
        match replay(&journal) {
            // The newest record can only be missed by somebody who knows that it was there.
            Ok(replay) => prop_assert!(last && replay.tail().sequence == at as u64),
            Err(mismatch) => prop_assert_eq!(mismatch.sequence, at as u64 + 1),
        }
    }
}

#[test]
fn the_kernel_depends_on_nothing_that_does_io() {
    let manifest = include_str!("../Cargo.toml");
    let (_, rest) = manifest.split_once("[dependencies]\n").unwrap();
    let names: Vec<&str> = rest
        .lines()
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', ' ']).next())
        .filter(|n| !n.is_empty())
        .collect();
    // jiff comes without `std`, so it has no clock; the workspace's manifest says so.
    assert_eq!(names, ["jiff", "serde", "serde_json", "sha2", "thiserror", "uuid"]);
    let workspace = include_str!("../../../Cargo.toml");
    assert!(
        workspace.contains(r#"jiff = { version = "0.2", default-features = false, features = ["alloc", "serde"] }"#)
    );
}
