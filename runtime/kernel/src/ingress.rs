//! What to do with an event that has arrived. The subject is trusted, since the broker let it through; the envelope is
//! not, and must agree with it.

use std::fmt;

use crate::chain::Hash;
use crate::config::{Config, RESERVED_SOURCE, agent_source};
use crate::envelope::{DecidedJson, Envelope, EnvelopeError};
use crate::head::Head;
use crate::identity::{dedup_key, malformed_key};
use crate::subject::{GATEWAY, Subject, partition};

/// An event taken from the stream, decoded as far as it can be.
#[derive(Debug, Clone)]
pub struct Arrival {
    pub raw_subject: String,
    pub entity: String,
    /// Identity, and hash of what was decided on; bytes that can't be decoded are their own identity.
    pub key: Hash,
    pub digest: Hash,
    pub body: Body,
}

#[derive(Debug, Clone)]
pub enum Body {
    Event {
        subject: Subject,
        envelope: Box<Envelope>,
        /// The envelope as it is journaled.
        json: DecidedJson,
    },
    Malformed {
        reason: Reason,
        size: usize,
    },
}

/// Why an event was refused or given up: a stable code, and words for people.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reason {
    pub code: String,
    pub detail: String,
}

impl Reason {
    pub fn new(code: &str, detail: impl Into<String>) -> Self {
        Self { code: code.to_owned(), detail: detail.into() }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

impl From<&EnvelopeError> for Reason {
    fn from(error: &EnvelopeError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Accept,
    /// The same event again: nothing happens, and nothing is journaled.
    Duplicate,
    /// Not for the agent when it came: as if it had never been delivered, so its id is free too.
    Ignore,
    Reject(Reason),
    /// The sender expected another version of the entity, or the event's id is another's.
    Conflict(Reason),
    /// A command for the runtime: it is journaled, and the agent is not asked.
    Note(Control),
}

/// What people may ask of a sidecar about an event, which is named by its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// A dead letter was sent again, as a new event.
    Redrive(Hash),
    /// A dead letter is to be left as it is.
    Drop(Hash),
    /// An event that is not due yet must not be delivered.
    Cancel(Hash),
}

impl Control {
    /// Types of the commands, and what each does.
    pub const REDRIVE: &'static str = "ctl.dead.redrive";
    pub const DROP: &'static str = "ctl.dead.drop";
    pub const CANCEL: &'static str = "ctl.timer.cancel";

    fn parse(envelope: &Envelope) -> Result<Self, Reason> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Data {
            key: Hash,
        }
        let data = envelope.data.as_ref().map_or("null", |data| data.get());
        let Data { key } =
            serde_json::from_str(data).map_err(|e| Reason::new("invalid_control", format!("data: {e}")))?;
        match envelope.event_type.as_str() {
            Self::REDRIVE => Ok(Self::Redrive(key)),
            Self::DROP => Ok(Self::Drop(key)),
            Self::CANCEL => Ok(Self::Cancel(key)),
            other => Err(Reason::new("invalid_control", format!("no command is called '{other}'"))),
        }
    }
}

/// An event's id belongs to who came first, also while that one waits and is not decided.
pub fn id_reused() -> Reason {
    Reason::new("id_reused", "this source and id were used before, with other content; give each event its own id")
}

/// Why an event that waited was not delivered.
pub const CANCELLED: &str = "cancelled";

pub fn cancelled() -> Reason {
    Reason::new(CANCELLED, "taken back before it was due")
}

/// How entities are called that stand for what could not be read.
const MALFORMED: &str = "malformed";

/// Takes a message apart. Never fails: what can't be decoded arrives too, and is rejected under an entity
/// of its subject's partition.
pub fn decode(config: &Config, raw_subject: &str, payload: &[u8]) -> Arrival {
    let malformed = |entity: String, reason: Reason| {
        let digest = Hash::of(&[payload]);
        Arrival {
            raw_subject: raw_subject.to_owned(),
            entity,
            key: malformed_key(raw_subject, &digest),
            digest,
            body: Body::Malformed { reason, size: payload.len() },
        }
    };
    let subject = match Subject::parse(raw_subject) {
        Ok(subject) => subject,
        Err(error) => {
            return malformed(MALFORMED.to_owned(), Reason::new("invalid_subject", error.to_string()));
        }
    };
    match Envelope::parse(payload, &config.limits) {
        Ok(envelope) => {
            let json = envelope.to_decided_json();
            Arrival {
                raw_subject: raw_subject.to_owned(),
                entity: envelope.subject.clone(),
                key: dedup_key(&subject.publisher, &envelope.source, &envelope.id),
                digest: Hash::of(&[&json.bytes]),
                body: Body::Event { subject, envelope: Box::new(envelope), json },
            }
        }
        Err(error) => malformed(format!("{MALFORMED}-{}", subject.partition), Reason::from(&error)),
    }
}

/// Whether the agent has nothing to do with what the stream holds there.
pub fn is_ignored(config: &Config, stream: u64, arrival: &Arrival) -> bool {
    if config.earlier.is_empty() {
        return false;
    }
    match &arrival.body {
        Body::Event { subject, .. } => config.is_out_of_place(stream, &subject.event_type),
        Body::Malformed { .. } => Subject::parse(&arrival.raw_subject)
            .is_ok_and(|subject| config.is_out_of_place(stream, &subject.event_type)),
    }
}

/// Decides about the event with a place in the stream. `known` is the digest under which this identity was journaled before.
pub fn decide(config: &Config, stream: u64, head: &Head, known: Option<&Hash>, arrival: &Arrival) -> Decision {
    if is_ignored(config, stream, arrival) {
        return Decision::Ignore;
    }
    match known {
        Some(digest) if *digest == arrival.digest => return Decision::Duplicate,
        Some(_) => return Decision::Conflict(id_reused()),
        None => {}
    }
    match &arrival.body {
        Body::Malformed { reason, .. } => Decision::Reject(reason.clone()),
        Body::Event { subject, envelope, .. } => disagreement(config, subject, envelope)
            .or_else(|| control(subject, envelope))
            .or_else(|| forbidden(config, stream, envelope))
            .or_else(|| conflict(head, envelope))
            .unwrap_or(Decision::Accept),
    }
}

fn reject(code: &str, detail: impl Into<String>) -> Decision {
    Decision::Reject(Reason::new(code, detail))
}

/// Whether the envelope claims something else than its subject proves.
fn disagreement(config: &Config, subject: &Subject, envelope: &Envelope) -> Option<Decision> {
    let Envelope { source, event_type, subject: entity, workspace, target, .. } = envelope;
    if workspace.as_deref() != Some(config.workspace.as_str()) {
        return Some(reject("wrong_workspace", format!("the event is not of workspace '{}'", config.workspace)));
    }
    if target.as_deref().is_some_and(|t| t != config.agent) {
        return Some(reject("wrong_target", format!("the event is not for agent '{}'", config.agent)));
    }
    let differs =
        |what: &str| Some(reject("subject_mismatch", format!("the envelope's {what} is not that of its subject")));
    if subject.event_type != event_type.as_str() {
        return differs("type");
    }
    if subject.partition != partition(entity) {
        return differs("partition");
    }
    if subject.target != *target {
        return differs("target");
    }
    let honest = match subject.publisher.strip_prefix("agent-") {
        Some(agent) => *source == agent_source(&config.workspace, agent),
        None => subject.publisher == GATEWAY && !source.starts_with(RESERVED_SOURCE),
    };
    if honest { None } else { differs("source") }
}

/// What people ask of the runtime comes from the gateway, which knows who may, and to one agent.
fn control(subject: &Subject, envelope: &Envelope) -> Option<Decision> {
    if !envelope.event_type.is_control() {
        return None;
    }
    if subject.publisher != GATEWAY || subject.target.is_none() {
        return Some(reject("invalid_control", "control commands come from the gateway, and to one agent"));
    }
    Some(Control::parse(envelope).map_or_else(Decision::Reject, Decision::Note))
}

/// Whether the agent's rules keep the event out.
fn forbidden(config: &Config, stream: u64, envelope: &Envelope) -> Option<Decision> {
    let event_type = envelope.event_type.as_str();
    let (subscribes, authorization) = config.at(stream);
    if !subscribes.iter().any(|p| p.matches(event_type)) {
        return Some(reject("not_subscribed", format!("the agent does not subscribe to '{event_type}'")));
    }
    if envelope.depth > config.limits.depth {
        let detail =
            format!("{} causes are behind the event, and at most {} are allowed", envelope.depth, config.limits.depth);
        return Some(reject("too_deep", detail));
    }
    let unmet = authorization.iter().find(|rule| {
        rule.event_type.matches(event_type) && !rule.roles.iter().any(|role| envelope.roles.contains(role))
    })?;
    Some(reject("unauthorized", format!("'{event_type}' needs one of the roles {}", unmet.roles.join(", "))))
}

fn conflict(head: &Head, envelope: &Envelope) -> Option<Decision> {
    let expected = envelope.expectedversion.filter(|expected| *expected != head.version)?;
    let detail = format!("version {expected} was expected, and the entity is at {}", head.version);
    Some(Decision::Conflict(Reason::new("version_conflict", detail)))
}
