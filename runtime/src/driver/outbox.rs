//! What a commit sends out: its outputs, or its dead letter. The journal is the outbox: after a crash the same messages
//! are made from its lines.

use bytes::Bytes;
use rhizon_kernel::egress::{Commit, Outcome};
use rhizon_kernel::identity::dedup_key;
use rhizon_kernel::record::{Decided, Line, NoRecord, Part};
use rhizon_kernel::subject::{Subject, escape, partition};
use rhizon_kernel::{Config, Envelope, Limits};

use crate::bus::Outgoing;

/// The messages of a commit, in order, as part of the trace that its cause belongs to.
pub(crate) fn of_commit(
    config: &Config,
    commit: Commit,
    traceparent: Option<&str>,
    tracestate: Option<&str>,
) -> Vec<Outgoing> {
    let dead = (commit.outcome == Outcome::DeadLettered).then(|| dead_letter(config, &commit.entity, &commit.decided));
    let outputs = commit.outputs.into_iter().map(|output| {
        let payload = output.envelope.to_json_in(traceparent, tracestate).into();
        Outgoing { subject: output.subject, key: output.key, payload }
    });
    outputs.chain(dead).collect()
}

/// The same from the journal.
pub(super) fn of_line(config: &Config, line: &[u8]) -> Result<Vec<Outgoing>, NoRecord> {
    let line = Line::parse(line)?;
    let Part::Decided(bytes) = line.part else { return Ok(Vec::new()) };
    let (decided, observed) = (Decided::parse(bytes)?, line.observed()?);
    let limits = Limits { envelope_bytes: usize::MAX, ..config.limits.clone() };
    let mut messages = Vec::with_capacity(decided.outputs.len());
    for raw in &decided.outputs {
        let envelope = Envelope::parse(raw.get().as_bytes(), &limits).map_err(|_| NoRecord("outputs"))?;
        let Envelope { source, id, event_type, subject, target, .. } = &envelope;
        let key = dedup_key(&config.publisher(), source, id);
        let subject = Subject::new(&config.publisher(), event_type, subject, target.as_deref()).to_string();
        let payload = envelope.to_json_in(observed.traceparent.as_deref(), observed.tracestate.as_deref()).into();
        messages.push(Outgoing { subject, key, payload });
    }
    if decided.outcome == Outcome::DeadLettered.as_str() {
        messages.push(dead_letter(config, &decided.entity, bytes));
    }
    Ok(messages)
}

/// A dead letter is the decision: the event, why it was given up, and after what answer.
fn dead_letter(config: &Config, entity: &str, decided: &[u8]) -> Outgoing {
    Outgoing {
        subject: format!("dead.{}.{}.{}", config.agent, partition(entity), escape(entity)),
        key: rhizon_kernel::chain::prefixed(&[b"dead", config.agent.as_bytes(), decided]),
        payload: Bytes::copy_from_slice(decided),
    }
}
