//! How the agents answer: a pure function of the event and the entity's state, so that a model can say what must come
//! out. What differs from try to try (slowness, a first failure) must not be seen in the end.

use rhizon_kernel::egress::{Draft, Reaction, StateChange};
use rhizon_kernel::ingress::Reason;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use crate::executor::wall_clock;
use crate::plan::{Moods, Plan};
use crate::rng::mix;

/// What an event does to its agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Kills,
    Hangs,
    HangsOnce,
    Fails,
    FailsOnce,
    Refused,
    Wrong,
    Deletes,
    Works,
}

/// What an agent is told about an event, and may use.
pub(crate) struct Asked<'a> {
    pub agent: usize,
    /// The event's key, in hexadecimal digits.
    pub key: &'a str,
    pub seed: &'a str,
    pub subject: &'a str,
    pub logical_time: String,
    pub version: u64,
    pub state: Option<&'a RawValue>,
}

pub(crate) fn mood(plan: &Plan, agent: usize, key: &str) -> Mood {
    let Moods { kills, hangs, hangs_once, fails, fails_once, refused, wrong, deletes } = plan.moods;
    let mut dice = draw(plan, agent, key, 0) % 1000;
    let table = [
        (kills, Mood::Kills),
        (hangs, Mood::Hangs),
        (hangs_once, Mood::HangsOnce),
        (fails, Mood::Fails),
        (fails_once, Mood::FailsOnce),
        (refused, Mood::Refused),
        (wrong, Mood::Wrong),
        (deletes, Mood::Deletes),
    ];
    for (rate, mood) in table {
        if dice < u64::from(rate) {
            return mood;
        }
        dice -= u64::from(rate);
    }
    Mood::Works
}

/// The reaction of an agent that works, or that answers wrongly, or that deletes the entity.
pub(crate) fn react(plan: &Plan, asked: &Asked<'_>) -> Reaction {
    let mood = mood(plan, asked.agent, asked.key);
    let before: Value = asked.state.map_or(Value::Null, |state| serde_json::from_str(state.get()).unwrap_or_default());
    let sum = before["sum"].as_u64().unwrap_or(0) ^ draw(plan, asked.agent, asked.key, 1) >> 12;
    let state = serde_json::json!({
        "handled": before["handled"].as_u64().unwrap_or(0) + 1,
        "sum": sum,
        "at": asked.logical_time,
        "seed": asked.seed,
        "version": asked.version,
    });
    let is_aside = draw(plan, asked.agent, asked.key, 3).is_multiple_of(4);
    let event_type = match (mood, asked.agent) {
        (Mood::Wrong, _) => Some("evt.job.forged"),
        (_, 0) => Some(if is_aside { "evt.job.aside" } else { "evt.job.taken" }),
        (_, 1) => Some("evt.job.sorted"),
        _ => None,
    };
    let fan = [1, 1, 0, 2, 1, 3, 1, 0][usize::try_from(draw(plan, asked.agent, asked.key, 2) % 8).unwrap_or(0)];
    let count = if mood == Mood::Wrong { 1 } else { fan };
    let output = |index: u64, event_type: &str| Draft {
        event_type: event_type.to_owned(),
        subject: (index > 0).then(|| entity(plan, draw(plan, asked.agent, asked.key, 10 + index))),
        target: None,
        deliver_at: later(plan, draw(plan, asked.agent, asked.key, 30 + index)),
        data: Some(raw(&serde_json::json!({ "of": asked.subject, "sum": sum, "place": index }))),
    };
    Reaction {
        outputs: event_type.into_iter().flat_map(|t| (0..count).map(move |index| output(index, t))).collect(),
        state: if mood == Mood::Deletes { StateChange::Delete } else { StateChange::Set(raw(&state)) },
    }
}

/// Some outputs are to be delivered later.
fn later(plan: &Plan, dice: u64) -> Option<String> {
    let is_later = dice % 1000 < u64::from(plan.timers);
    is_later.then(|| wall_clock(dice / 1000 % (2 * plan.trouble_us)).to_string())
}

/// One of the entities of this plan; the last has a key that no subject could hold.
pub(crate) fn entity(plan: &Plan, dice: u64) -> String {
    match usize::try_from(dice).unwrap_or(0) % plan.entities {
        0 if plan.entities > 1 => "Büro 7/ä".to_owned(),
        n => format!("job-{n}"),
    }
}

pub(crate) fn failure() -> Reason {
    Reason::new("agent_failed", "this one never works")
}

pub(crate) fn refusal() -> Reason {
    Reason::new("agent_rejected", "this one is not wanted")
}

/// The words of the driver for an agent that went away, which it decides on.
pub(crate) fn gone() -> Reason {
    Reason::new("agent_lost", "the agent went away or gave no answer in time")
}

fn draw(plan: &Plan, agent: usize, key: &str, what: u64) -> u64 {
    let start = plan.salt ^ mix(agent as u64 + 1) ^ mix(what.wrapping_mul(77));
    mix(key.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3).rotate_left(5)))
}

fn raw(value: &Value) -> Box<RawValue> {
    to_raw_value(value).expect("a value is JSON")
}
