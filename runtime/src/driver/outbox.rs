//! What a commit sends out: its outputs, or its dead letter. The journal is the outbox: after a crash the same messages
//! are made from its lines.

use jiff::Timestamp;
use rhizon_kernel::egress::{Commit, Outcome, Output};
use rhizon_kernel::identity::dedup_key;
use rhizon_kernel::record::{Decided, Line, NoRecord, Observed, Part};
use rhizon_kernel::subject::{Subject, partition};
use rhizon_kernel::{Config, Envelope, Limits};

use crate::bus::Outgoing;
use crate::store::Deferred;

/// What a commit sends out, in order.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    pub now: Vec<Outgoing>,
    pub later: Vec<Deferred>,
}

/// Part of the trace that the cause belongs to.
pub(crate) fn of_commit(config: &Config, commit: Commit, observed: &Observed) -> Outputs {
    let mut outputs = Outputs::default();
    let dead = (commit.outcome == Outcome::DeadLettered)
        .then(|| dead_letter(config, &commit.entity, &commit.decided, observed.attempts));
    for Output { subject, key, deliverat, json } in commit.outputs {
        let payload = match (&observed.traceparent, &observed.tracestate) {
            (None, None) => json.bytes.into(),
            (parent, state) => json.in_trace(parent.as_deref(), state.as_deref()).into(),
        };
        match waits_until(deliverat, observed) {
            None => outputs.now.push(Outgoing { subject, key, payload }),
            Some(due_ms) => {
                outputs.later.push(Deferred { key, due_ms, sequence: observed.sequence, subject, payload });
            }
        }
    }
    outputs.now.extend(dead);
    outputs
}

/// Decided once, by the time of the commit, which is in the journal too.
fn waits_until(deliverat: Option<Timestamp>, observed: &Observed) -> Option<i64> {
    let due_ms = deliverat?.as_millisecond();
    (due_ms > observed.time.as_millisecond()).then_some(due_ms)
}

pub(crate) fn of_deferred(deferred: Deferred) -> Outgoing {
    let Deferred { key, subject, payload, .. } = deferred;
    Outgoing { subject, key, payload }
}

/// The messages of a record that do not wait, from the journal.
pub(crate) fn of_line(config: &Config, line: &[u8]) -> Result<Vec<Outgoing>, NoRecord> {
    let line = Line::parse(line)?;
    let Part::Decided(bytes) = line.part else { return Ok(Vec::new()) };
    let (decided, observed) = (Decided::parse(bytes)?, line.observed()?);
    let limits = Limits { envelope_bytes: usize::MAX, ..config.limits.clone() };
    let mut messages = Vec::with_capacity(decided.outputs.len());
    for raw in &decided.outputs {
        let envelope = Envelope::parse(raw.get().as_bytes(), &limits).map_err(|_| NoRecord("outputs"))?;
        if waits_until(envelope.deliverat, &observed).is_some() {
            continue;
        }
        let Envelope { source, id, event_type, subject, target, .. } = &envelope;
        let key = dedup_key(&config.publisher(), source, id);
        let subject = Subject::new(&config.publisher(), event_type, subject, target.as_deref()).to_string();
        let Observed { traceparent, tracestate, .. } = &observed;
        let payload = envelope.to_json_in(traceparent.as_deref(), tracestate.as_deref()).into();
        messages.push(Outgoing { subject, key, payload });
    }
    if decided.outcome == Outcome::DeadLettered.as_str() {
        messages.push(dead_letter(config, &decided.entity, bytes, observed.attempts));
    }
    Ok(messages)
}

/// A dead letter is the decision (the event, why it was given up, and after what answer), and how often it was tried.
fn dead_letter(config: &Config, entity: &str, decided: &[u8], attempts: u32) -> Outgoing {
    let mut payload = decided.strip_suffix(b"}").unwrap_or(decided).to_vec();
    payload.extend_from_slice(format!(r#","attempts":{attempts}}}"#).as_bytes());
    Outgoing {
        subject: format!("dead.{}.{}", config.agent, partition(entity)),
        key: rhizon_kernel::chain::prefixed(&[b"dead", config.agent.as_bytes(), decided]),
        payload: payload.into(),
    }
}
