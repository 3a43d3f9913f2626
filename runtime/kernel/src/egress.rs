//! What follows from an event: the outputs with their derived ids and times, the entity's new head, and the bytes that
//! are decided and go into the journal.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::chain::Hash;
use crate::config::Config;
use crate::envelope::{DecidedJson, Envelope};
use crate::event_type::EventType;
use crate::head::Head;
use crate::identity::{correlation_id, dedup_key, output_id};
use crate::ingress::{Arrival, Body, Reason};
use crate::json::{compact, push_number, push_string};
use crate::subject::Subject;

/// What an agent answers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reaction {
    #[serde(default)]
    pub outputs: Vec<Draft>,
    #[serde(default, deserialize_with = "state_change")]
    pub state: StateChange,
}

/// An output as the agent wrote it, before the kernel gave it an identity.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Draft {
    #[serde(rename = "type")]
    pub event_type: String,
    pub subject: Option<String>,
    pub target: Option<String>,
    pub deliver_at: Option<String>,
    pub data: Option<Box<RawValue>>,
}

#[derive(Debug, Clone, Default)]
pub enum StateChange {
    #[default]
    Unchanged,
    Set(Box<RawValue>),
    Delete,
}

/// A state that is absent is unchanged; `null` deletes the entity.
fn state_change<'de, D: Deserializer<'de>>(deserializer: D) -> Result<StateChange, D::Error> {
    let raw = Box::<RawValue>::deserialize(deserializer)?;
    Ok(if raw.get() == "null" { StateChange::Delete } else { StateChange::Set(raw) })
}

/// How an event ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Processed,
    Rejected,
    Conflict,
    DeadLettered,
    /// A control command: the agent was not asked, and the entity stays as it is.
    Noted,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Processed => "processed",
            Self::Rejected => "rejected",
            Self::Conflict => "conflict",
            Self::DeadLettered => "dead-lettered",
            Self::Noted => "noted",
        }
    }
}

/// An answer that breaks the protocol or a limit. It is the agent's fault, and says where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct InvalidAnswer {
    pub field: String,
    pub why: String,
}

/// One decision, ready to be journaled.
#[derive(Debug, Clone)]
pub struct Commit {
    pub entity: String,
    pub key: Hash,
    pub digest: Hash,
    pub outcome: Outcome,
    /// The entity after this decision.
    pub head: Head,
    /// The journaled part that every run repeats to the byte, and its hash.
    pub decided: Vec<u8>,
    pub decided_hash: Hash,
    pub outputs: Vec<Output>,
}

impl Commit {
    /// What a store must take for it in one step. An output that has a time may wait there, in base64 beside the decision.
    pub fn bytes(&self) -> usize {
        let timed = self.outputs.iter().filter(|output| output.deliverat.is_some());
        self.decided.len() + timed.map(|output| waiting_bytes(output.json.bytes.len())).sum::<usize>()
    }
}

/// What a message takes in a store's line while it waits.
pub const fn waiting_bytes(payload: usize) -> usize {
    payload / 3 * 4 + WAITING_FRAME
}

/// The fields beside its payload, and a trace.
const WAITING_FRAME: usize = 2 << 10;

/// An event to publish once its commit is durable.
#[derive(Debug, Clone)]
pub struct Output {
    pub subject: String,
    pub key: Hash,
    pub deliverat: Option<Timestamp>,
    /// The envelope as it is journaled.
    pub json: DecidedJson,
}

/// Logical time: the later of the event's own and the entity's last.
pub fn logical_time(head: &Head, arrival: &Arrival) -> Option<Timestamp> {
    match &arrival.body {
        Body::Event { envelope, .. } => envelope.time.max(head.time),
        Body::Malformed { .. } => head.time,
    }
}

/// Turns the agent's answer to an accepted event into a commit.
pub fn react(config: &Config, head: &Head, arrival: &Arrival, reaction: Reaction) -> Result<Commit, InvalidAnswer> {
    let Body::Event { envelope: cause, .. } = &arrival.body else {
        return Err(InvalidAnswer { field: "envelope".into(), why: "what can't be decoded is never accepted".into() });
    };
    let Reaction { outputs: drafts, state } = reaction;
    if drafts.len() > config.limits.outputs_per_reaction {
        let why = format!("has {} items, and at most {} are allowed", drafts.len(), config.limits.outputs_per_reaction);
        return Err(InvalidAnswer { field: "outputs".into(), why });
    }
    let time = logical_time(head, arrival);
    let outputs = drafts
        .into_iter()
        .enumerate()
        .map(|(index, draft)| output(config, cause, arrival, time, index, draft))
        .collect::<Result<Vec<_>, _>>()?;
    let state = check_state(config, state)?;
    let commit = commit(head, arrival, Outcome::Processed, None, outputs, state);
    let (size, limit) = (commit.bytes(), config.limits.decision_bytes);
    if size > limit {
        let why =
            format!("make a decision of {size} bytes with the event and the state, and at most {limit} are allowed");
        return Err(InvalidAnswer { field: "outputs".into(), why });
    }
    Ok(commit)
}

/// Makes the commit of a control command: who gave it, and when, in the chain of the entity that it is about.
pub fn note(head: &Head, arrival: &Arrival) -> Commit {
    commit(head, arrival, Outcome::Noted, None, Vec::new(), StateChange::Unchanged)
}

/// Makes the commit of an event that the agent never saw or could not handle.
pub fn settle(head: &Head, arrival: &Arrival, outcome: Outcome, reason: &Reason) -> Commit {
    commit(head, arrival, outcome, Some(reason), Vec::new(), StateChange::Unchanged)
}

fn output(
    config: &Config,
    cause: &Envelope,
    arrival: &Arrival,
    time: Option<Timestamp>,
    index: usize,
    draft: Draft,
) -> Result<Output, InvalidAnswer> {
    let invalid = |field: &str, why: String| InvalidAnswer { field: format!("outputs[{index}].{field}"), why };
    let Draft { event_type, subject, target, deliver_at, data } = draft;
    let event_type: EventType = event_type.parse().map_err(|e| invalid("type", format!("{e}")))?;
    let deliver_at = deliver_at.map(|text| text.parse::<Timestamp>()).transpose().map_err(|_| {
        invalid("deliverAt", "is not a time; write it as RFC 3339 does, such as 2030-01-01T00:00:00Z".into())
    })?;
    if !config.publishes.contains(&event_type) {
        return Err(invalid("type", format!("'{event_type}' is not among the types that the agent publishes")));
    }
    let entity = subject.unwrap_or_else(|| cause.subject.clone());
    if entity.is_empty() || entity.len() > config.limits.entity_bytes || entity.chars().any(char::is_control) {
        let why = format!("is empty, longer than {} bytes or has a control character", config.limits.entity_bytes);
        return Err(invalid("subject", why));
    }
    if target.as_deref().is_some_and(|t| !is_label(t)) {
        return Err(invalid("target", "is not an agent's name".into()));
    }
    let mut envelope =
        Envelope::new(output_id(&arrival.key, &config.agent, index), config.source(), event_type, entity);
    envelope.time = time;
    envelope.datacontenttype = data.is_some().then(|| "application/json".to_owned());
    envelope.data = data.map(compact);
    envelope.workspace = Some(config.workspace.clone());
    envelope.correlationid = cause.correlationid.clone().or_else(|| Some(correlation_id(&arrival.key)));
    envelope.causationid = Some(cause.id.clone());
    envelope.depth = cause.depth + 1;
    envelope.target = target;
    envelope.deliverat = deliver_at;
    envelope.actor.clone_from(&cause.actor);
    envelope.roles.clone_from(&cause.roles);
    let json = envelope.to_decided_json();
    let size = json.bytes.len();
    if size > config.limits.envelope_bytes {
        return Err(invalid(
            "data",
            format!("makes an event of {size} bytes, and at most {} are allowed", config.limits.envelope_bytes),
        ));
    }
    let publisher = config.publisher();
    let subject = Subject::new(&publisher, &envelope.event_type, &envelope.subject, envelope.target.as_deref());
    let key = dedup_key(&publisher, &envelope.source, &envelope.id);
    Ok(Output { subject: subject.to_string(), key, deliverat: deliver_at, json })
}

fn is_label(name: &str) -> bool {
    (1..=40).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn check_state(config: &Config, state: StateChange) -> Result<StateChange, InvalidAnswer> {
    let StateChange::Set(raw) = state else { return Ok(state) };
    let raw = compact(raw);
    let size = raw.get().len();
    if size > config.limits.state_bytes {
        let why = format!("is {size} bytes, and at most {} are allowed", config.limits.state_bytes);
        return Err(InvalidAnswer { field: "state".into(), why });
    }
    Ok(StateChange::Set(raw))
}

fn commit(
    head: &Head,
    arrival: &Arrival,
    outcome: Outcome,
    reason: Option<&Reason>,
    outputs: Vec<Output>,
    state: StateChange,
) -> Commit {
    let version = head.version + u64::from(outcome == Outcome::Processed);
    let time = logical_time(head, arrival);
    let decided = decided_json(head, version, time, arrival, outcome, reason, &outputs, &state);
    let decided_hash = Hash::of(&[&decided]);
    let state = match state {
        StateChange::Unchanged => head.state.clone(),
        StateChange::Set(raw) => Some(raw.into()),
        StateChange::Delete => None,
    };
    Commit {
        entity: arrival.entity.clone(),
        key: arrival.key,
        digest: arrival.digest,
        outcome,
        head: Head { version, hash: head.hash.then(&decided_hash), time, state },
        decided,
        decided_hash,
        outputs,
    }
}

#[allow(clippy::too_many_arguments, reason = "the fields of one record, in their order")]
fn decided_json(
    head: &Head,
    version: u64,
    time: Option<Timestamp>,
    arrival: &Arrival,
    outcome: Outcome,
    reason: Option<&Reason>,
    outputs: &[Output],
    state: &StateChange,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(b"{\"entity\":");
    push_string(&mut out, &arrival.entity);
    out.extend_from_slice(b",\"subject\":");
    push_string(&mut out, &arrival.raw_subject);
    out.extend_from_slice(b",\"before\":");
    push_number(&mut out, head.version);
    out.extend_from_slice(b",\"after\":");
    push_number(&mut out, version);
    if let Some(time) = time {
        out.extend_from_slice(b",\"time\":");
        push_string(&mut out, &time.to_string());
    }
    match &arrival.body {
        Body::Event { json, .. } => {
            out.extend_from_slice(b",\"input\":");
            out.extend_from_slice(&json.bytes);
        }
        Body::Malformed { size, .. } => {
            out.extend_from_slice(b",\"malformed\":{\"sha256\":\"");
            out.extend_from_slice(&arrival.digest.to_hex());
            out.extend_from_slice(b"\",\"bytes\":");
            push_number(&mut out, *size as u64);
            out.push(b'}');
        }
    }
    out.extend_from_slice(b",\"outcome\":");
    push_string(&mut out, outcome.as_str());
    if let Some(Reason { code, detail }) = reason {
        out.extend_from_slice(b",\"reason\":{\"code\":");
        push_string(&mut out, code);
        out.extend_from_slice(b",\"detail\":");
        push_string(&mut out, detail);
        out.push(b'}');
    }
    if !outputs.is_empty() {
        out.extend_from_slice(b",\"outputs\":[");
        for (index, output) in outputs.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(&output.json.bytes);
        }
        out.push(b']');
    }
    match state {
        StateChange::Unchanged => {}
        StateChange::Set(raw) => {
            out.extend_from_slice(b",\"state\":");
            out.extend_from_slice(raw.get().as_bytes());
        }
        StateChange::Delete => out.extend_from_slice(b",\"state\":null"),
    }
    out.push(b'}');
    out
}
