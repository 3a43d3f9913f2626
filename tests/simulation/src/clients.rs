//! Clients: they send commands, some of them twice, with used ids, in pieces, or without the right to.

use bytes::Bytes;
use rhizon_kernel::chain::Hash;
use rhizon_kernel::identity::dedup_key;
use rhizon_kernel::ingress::Control;
use rhizon_kernel::subject::{GATEWAY, Subject};
use rhizon_kernel::{Envelope, EventType, Limits};
use rhizon_runtime::bus::{Outgoing, Publisher as _};
use serde_json::value::RawValue;

use crate::behaviour::entity;
use crate::bus::SimBus;
use crate::executor::wall_clock;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::world::World;

/// Everything that clients will send, in order.
pub(crate) fn letters(plan: &Plan, rng: &mut Rng) -> Vec<Outgoing> {
    let mut letters: Vec<Outgoing> = Vec::with_capacity(plan.events);
    for number in 0..plan.events {
        let is_repeated = rng.permille(if 2 * number > plan.events { plan.repeated } else { 60 });
        let letter = match rng.below(20) {
            _ if is_repeated && number > 0 => again(&letters[rng.index(number)], number),
            // A shard knows the ids of its own entities alone.
            2 if number > 0 && !plan.is_sharded => {
                let used = rng.index(number);
                plain(plan, rng, used)
            }
            3 => Outgoing { payload: Bytes::from_static(b"{\"specversion\":"), ..plain(plan, rng, number) },
            4 => misled(plain(plan, rng, number)),
            5 => unheard(plain(plan, rng, number)),
            6..8 if number > 0 => {
                let meant = rng.index(number);
                cancel(rng, &letters[meant], number).unwrap_or_else(|| plain(plan, rng, number))
            }
            _ => plain(plan, rng, number),
        };
        letters.push(letter);
    }
    letters
}

fn plain(plan: &Plan, rng: &mut Rng, number: usize) -> Outgoing {
    let verb = ["open", "open", "open", "open", "close", "audit"][rng.index(6)];
    let event_type: EventType = format!("cmd.job.{verb}").parse().expect("it is a type");
    let mut envelope =
        Envelope::new(format!("c-{number}"), "/clients/one".into(), event_type, entity(plan, rng.next()));
    envelope.workspace = Some("sim".into());
    envelope.roles = if rng.permille(700) { vec!["clerk".into()] } else { Vec::new() };
    envelope.expectedversion = rng.permille(150).then(|| rng.below(6));
    envelope.target = rng.permille(100).then(|| "intake".to_owned());
    if rng.permille(500) {
        envelope.time = format!("2025-12-{:02}T00:00:00Z", rng.between(1, 28)).parse().ok();
    }
    envelope.data = RawValue::from_string(format!("{{\"dice\":{}}}", rng.below(1000))).ok();
    if rng.permille(plan.timers) {
        envelope.deliverat = Some(wall_clock(rng.below(2 * plan.trouble_us)));
    }
    message(&envelope, number)
}

/// Takes back what may be waiting.
fn cancel(rng: &mut Rng, letter: &Outgoing, number: usize) -> Option<Outgoing> {
    let timer = Envelope::parse(&letter.payload, &Limits::default()).ok().filter(|event| event.deliverat.is_some())?;
    let key = dedup_key(GATEWAY, &timer.source, &timer.id);
    let event_type = Control::CANCEL.parse().expect("it is a type");
    let mut command = Envelope::new(format!("x-{number}"), "/clients/one".into(), event_type, timer.subject);
    command.workspace = Some("sim".into());
    command.target = Some("intake".to_owned());
    let unknown = Hash::of(&[b"nobody's"]);
    let key = if rng.permille(100) { unknown } else { key };
    command.data = RawValue::from_string(format!("{{\"key\":\"{key}\"}}")).ok();
    Some(message(&command, number))
}

fn message(envelope: &Envelope, number: usize) -> Outgoing {
    let subject = Subject::new(GATEWAY, &envelope.event_type, &envelope.subject, envelope.target.as_deref());
    let payload = envelope.to_json();
    Outgoing {
        subject: subject.to_string(),
        key: Hash::of(&[&(number as u64).to_be_bytes(), &payload]),
        payload: payload.into(),
    }
}

/// The same event as another message.
fn again(letter: &Outgoing, number: usize) -> Outgoing {
    Outgoing { key: Hash::of(&[b"again", &(number as u64).to_be_bytes()]), ..letter.clone() }
}

/// Of another workspace.
fn misled(letter: Outgoing) -> Outgoing {
    let text = String::from_utf8_lossy(&letter.payload).replace(r#""workspace":"sim""#, r#""workspace":"other""#);
    Outgoing { payload: text.into(), ..letter }
}

/// Of a type that nobody subscribes to: it leaves a hole in what a consumer sees of the stream.
fn unheard(letter: Outgoing) -> Outgoing {
    Outgoing { subject: letter.subject.replace("cmd.job.", "cmd.other."), ..letter }
}

/// Sends letters one after the other, each until the broker has it.
pub(crate) async fn send(world: World, bus: SimBus, letters: Vec<Outgoing>) {
    let pause_us = world.plan.trouble_us / (letters.len() as u64 + 1);
    for letter in letters {
        world.sim.sleep_us(world.sim.rng(|rng| rng.below(2 * pause_us + 1))).await;
        while bus.publish(vec![letter.clone()]).await.is_err() {
            world.sim.sleep_us(50_000).await;
        }
    }
}
