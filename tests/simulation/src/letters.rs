//! Somebody deals with dead letters, as the gateway's commands do: each is sent again as a new event, or dropped.

use std::collections::BTreeSet;

use rhizon_kernel::Envelope;
use rhizon_kernel::chain::Hash;
use rhizon_kernel::identity::{control_id, dedup_key, redrive_id};
use rhizon_kernel::ingress::Control;
use rhizon_kernel::record::Decided;
use rhizon_kernel::subject::{GATEWAY, Subject};
use rhizon_runtime::bus::{Outgoing, Publisher as _};
use serde_json::value::RawValue;

use crate::broker::{Broker, Stored};
use crate::bus::SimBus;
use crate::world::World;

/// Looks for dead letters until all is calm, and then leaves those that come where they are.
pub(crate) async fn deal(world: World, broker: Broker, bus: SimBus) {
    let mut seen = 0;
    while !world.is_calm() {
        world.sim.sleep_us(world.sim.rng(|rng| rng.between(1_000, 400_000))).await;
        let dead = broker.dead_letters();
        for letter in &dead[seen..] {
            let redrive = world.sim.rng(|rng| rng.permille(600));
            let Some(messages) = answer(letter, redrive) else { continue };
            if !world.strikes("dealt with", |rates| rates.dealt_with) {
                continue;
            }
            for message in messages {
                while bus.publish(vec![message.clone()]).await.is_err() {
                    world.sim.sleep_us(50_000).await;
                }
            }
        }
        seen = dead.len();
    }
}

/// What the gateway publishes about a dead letter.
fn answer(letter: &Stored, redrive: bool) -> Option<Vec<Outgoing>> {
    let agent = letter.subject.split('.').nth(1)?;
    let (decided, _attempts) = std::str::from_utf8(&letter.payload).ok()?.rsplit_once(r#","attempts":"#)?;
    let decided = format!("{decided}}}");
    let decided = Decided::parse(decided.as_bytes()).ok()?;
    let (key, _) = decided.identity().ok()?;
    let event_type = if redrive { Control::REDRIVE } else { Control::DROP };
    let id = control_id(event_type, agent, &key);
    let mut note = Envelope::new(id, "/gateway/control".into(), event_type.parse().ok()?, decided.entity.into_owned());
    note.data = RawValue::from_string(format!(r#"{{"key":"{key}"}}"#)).ok();
    let mut event = Envelope::journaled(decided.input?.get().as_bytes()).ok()?;
    (event.id, event.source) = (redrive_id(&key, agent), format!("/gateway/redrive/{agent}"));
    event.deliverat = None;
    let events = if redrive { vec![event, note] } else { vec![note] };
    Some(events.into_iter().map(|event| message(event, agent)).collect())
}

fn message(mut event: Envelope, agent: &str) -> Outgoing {
    (event.workspace, event.target) = (Some("sim".into()), Some(agent.into()));
    let subject = Subject::new(GATEWAY, &event.event_type, &event.subject, Some(agent)).to_string();
    Outgoing { subject, key: dedup_key(GATEWAY, &event.source, &event.id), payload: event.to_json().into() }
}

/// The keys of dead letters that nobody has dealt with, by what the journal's decisions say.
pub(crate) fn open<'a>(decisions: impl Iterator<Item = &'a [u8]>) -> Result<BTreeSet<Hash>, String> {
    let mut open = BTreeSet::new();
    for bytes in decisions {
        let decided = Decided::parse(bytes).map_err(|e| e.to_string())?;
        let (key, _) = decided.identity().map_err(|e| e.to_string())?;
        match decided.outcome.as_ref() {
            "dead-lettered" => {
                open.insert(key);
            }
            "noted" => {
                let note: serde_json::Value =
                    serde_json::from_str(decided.input.map_or("null", RawValue::get)).map_err(|e| e.to_string())?;
                let about = note["data"]["key"].as_str().and_then(|key| Hash::from_hex(key.as_bytes()));
                if note["type"] != Control::CANCEL {
                    about.map(|key| open.remove(&key));
                }
            }
            _ => {}
        }
    }
    Ok(open)
}
