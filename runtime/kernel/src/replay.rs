//! Replay: the journal is folded through the functions that made it, and every hash is computed again.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;

use crate::chain::{self, Hash};
use crate::config::Config;
use crate::egress::{self, Commit, Draft, InvalidAnswer, Outcome, Reaction, StateChange};
use crate::envelope::Envelope;
use crate::head::Head;
use crate::identity::malformed_key;
use crate::ingress::{self, Arrival, Body, CANCELLED, Control, Decision, Reason};
use crate::record::{Decided, Line, Part, Tail};

/// Codes of reasons that come from an agent's answers, and so can't be decided again without it.
pub const AGENT_REASONS: &str = "agent_";

/// The first place where a journal is not what the kernel would have written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {sequence}: {field} is wrong: expected {expected}, got {got}")]
pub struct Mismatch {
    pub sequence: u64,
    pub field: String,
    pub expected: String,
    pub got: String,
}

/// Folds a journal from its first record on.
#[derive(Debug, Default)]
pub struct Replay {
    tail: Tail,
    config: Option<(Config, Hash)>,
    heads: BTreeMap<String, Head>,
    known: BTreeMap<Hash, Hash>,
    /// Identities that were refused to other contents before the first, which was waiting, was decided.
    reserved: BTreeMap<Hash, BTreeSet<Hash>>,
    /// Events that somebody took back before they were due.
    cancelled: BTreeSet<Hash>,
}

impl Replay {
    /// Checks one line, without its line feed, and takes it in.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Mismatch> {
        let sequence = self.tail.sequence + 1;
        let wrong =
            |field: &str, expected: String, got: String| Mismatch { sequence, field: field.into(), expected, got };
        let record = Line::parse(bytes)
            .map_err(|e| wrong(e.0, "a record as record.rs describes it".into(), "other bytes".into()))?;
        let observed = record.observed().map_err(|e| wrong(e.0, "what was observed".into(), "other bytes".into()))?;
        if observed.sequence != sequence {
            return Err(wrong("observed.sequence", sequence.to_string(), observed.sequence.to_string()));
        }
        let part = record.part.hash();
        let link = record.link_behind(&self.tail.link, &part);
        if link != record.link {
            return Err(wrong("link", link.to_string(), record.link.to_string()));
        }
        match record.part {
            Part::Config(bytes) => self.push_config(sequence, bytes, &part, record.hash)?,
            Part::Decided(bytes) => self.push_decided(sequence, observed.stream, bytes, &part, record.hash)?,
        }
        if let (Some(named), Some((_, in_force))) = (observed.config, &self.config)
            && named != *in_force
        {
            return Err(wrong("observed.config", in_force.to_string(), named.to_string()));
        }
        self.tail = Tail { sequence, link };
        Ok(())
    }

    fn push_config(&mut self, sequence: u64, bytes: &[u8], computed: &Hash, hash: Hash) -> Result<(), Mismatch> {
        let wrong =
            |field: &str, expected: String, got: String| Mismatch { sequence, field: field.into(), expected, got };
        if *computed != hash {
            return Err(wrong("hash", computed.to_string(), hash.to_string()));
        }
        let config =
            serde_json::from_slice(bytes).map_err(|e| wrong("config", "an agent's config".into(), e.to_string()))?;
        self.config = Some((config, hash));
        Ok(())
    }

    fn push_decided(
        &mut self,
        sequence: u64,
        stream: u64,
        bytes: &[u8],
        part: &Hash,
        hash: Hash,
    ) -> Result<(), Mismatch> {
        let wrong =
            |field: &str, expected: String, got: String| Mismatch { sequence, field: field.into(), expected, got };
        let decided = Decided::parse(bytes).map_err(|e| wrong(e.0, "a decision".into(), "other bytes".into()))?;
        let head = self.heads.get(decided.entity.as_ref()).cloned().unwrap_or_default();
        let computed = head.hash.then(part);
        if computed != hash {
            return Err(wrong("hash", computed.to_string(), hash.to_string()));
        }
        let (config, _) =
            self.config.as_ref().ok_or_else(|| wrong("config", "a config record first".into(), "none".into()))?;
        let arrival = arrival(config, &decided).map_err(|e| wrong("input", "an event".into(), e))?;
        let known = self.known.get(&arrival.key);
        let decision = ingress::decide(config, stream, &head, known, &arrival);
        let cancelled = self.cancelled.contains(&arrival.key);
        let commit = decide_again(config, &head, &decision, cancelled, &arrival, &decided)
            .map_err(|(e, g)| wrong("outcome", e, g))?;
        if commit.decided != bytes {
            let (expected, got) = difference(&commit.decided, bytes);
            return Err(wrong("decided", expected, got));
        }
        if let Decision::Note(Control::Cancel(key)) = decision {
            self.cancelled.insert(key);
        }
        let is_taken = self.known.contains_key(&commit.key);
        if !is_taken && decided.reason == Some(ingress::id_reused()) {
            self.reserved.entry(commit.key).or_default().insert(commit.digest);
        } else if !is_taken && self.reserved.remove(&commit.key).is_some_and(|refused| refused.contains(&commit.digest))
        {
            return Err(wrong(
                "outcome",
                "the event whose id was reserved".into(),
                "one that it was refused to".into(),
            ));
        } else {
            self.known.entry(commit.key).or_insert(commit.digest);
        }
        self.heads.insert(commit.entity, commit.head);
        Ok(())
    }

    pub fn tail(&self) -> Tail {
        self.tail
    }

    pub fn config(&self) -> Option<&Config> {
        self.config.as_ref().map(|(config, _)| config)
    }

    pub fn heads(&self) -> &BTreeMap<String, Head> {
        &self.heads
    }

    /// One value that says "these two runs decided exactly the same".
    pub fn root(&self) -> Hash {
        let leaves: Vec<Hash> =
            self.heads.iter().map(|(key, head)| chain::leaf(key, head.version, &head.hash)).collect();
        chain::root(&leaves)
    }
}

fn arrival(config: &Config, decided: &Decided<'_>) -> Result<Arrival, String> {
    if let Some(input) = decided.input {
        return Ok(ingress::decode(config, &decided.subject, input.get().as_bytes()));
    }
    let malformed = decided.malformed.as_ref().ok_or("neither input nor malformed")?;
    Ok(Arrival {
        raw_subject: decided.subject.to_string(),
        entity: decided.entity.to_string(),
        key: malformed_key(&decided.subject, &malformed.sha256),
        digest: malformed.sha256,
        body: Body::Malformed { reason: decided.reason.clone().ok_or("no reason")?, size: malformed.bytes },
    })
}

/// Makes the commit anew; on a difference, what the kernel would have done and what the record says.
fn decide_again(
    config: &Config,
    head: &Head,
    decision: &Decision,
    cancelled: bool,
    arrival: &Arrival,
    decided: &Decided<'_>,
) -> Result<Commit, (String, String)> {
    let got = decided.outcome.to_string();
    let reason = decided.reason.clone().unwrap_or_else(|| Reason::new("", ""));
    let by_agent = reason.code.starts_with(AGENT_REASONS);
    match (decision, got.as_str()) {
        (Decision::Ignore, _) => Err(("no record: the type was added later, or removed before".into(), got)),
        // Also of an event that was waiting then, and is decided later: `push_decided` sees to it.
        (_, "conflict") if reason == ingress::id_reused() => {
            Ok(egress::settle(head, arrival, Outcome::Conflict, &reason))
        }
        (Decision::Accept, "processed") => {
            let reaction = reaction(decided).map_err(|why| (why, got.clone()))?;
            egress::react(config, head, arrival, reaction).map_err(|e: InvalidAnswer| (e.to_string(), got))
        }
        (Decision::Accept, "rejected") if by_agent || (cancelled && reason.code == CANCELLED) => {
            Ok(egress::settle(head, arrival, Outcome::Rejected, &reason))
        }
        (Decision::Accept, "dead-lettered") if by_agent => {
            Ok(egress::settle(head, arrival, Outcome::DeadLettered, &reason))
        }
        (Decision::Reject(reason), "rejected") => Ok(egress::settle(head, arrival, Outcome::Rejected, reason)),
        (Decision::Conflict(reason), "conflict") => Ok(egress::settle(head, arrival, Outcome::Conflict, reason)),
        (Decision::Note(_), "noted") => Ok(egress::note(head, arrival)),
        (decision, _) => Err((format!("{decision:?}"), got)),
    }
}

/// What the agent must have answered.
fn reaction(decided: &Decided<'_>) -> Result<Reaction, String> {
    let outputs = decided
        .outputs
        .iter()
        .map(|raw| {
            let limits = crate::Limits { envelope_bytes: usize::MAX, ..crate::Limits::default() };
            let Envelope { event_type, subject, target, deliverat, data, .. } =
                Envelope::parse(raw.get().as_bytes(), &limits).map_err(|e| e.to_string())?;
            let deliver_at = deliverat.map(|time| time.to_string());
            Ok(Draft { event_type: event_type.into(), subject: Some(subject), target, deliver_at, data })
        })
        .collect::<Result<_, String>>()?;
    let state = match decided.state {
        None => StateChange::Unchanged,
        Some(raw) if raw.get() == "null" => StateChange::Delete,
        Some(raw) => StateChange::Set(RawValue::to_owned(raw)),
    };
    Ok(Reaction { outputs, state })
}

/// The surroundings of the first byte that differs.
fn difference(expected: &[u8], got: &[u8]) -> (String, String) {
    let same = expected.iter().zip(got).take_while(|(a, b)| a == b).count();
    let around = |bytes: &[u8]| {
        let (from, to) = (same.saturating_sub(24).min(bytes.len()), (same + 40).min(bytes.len()));
        format!("…{}…", String::from_utf8_lossy(&bytes[from..to]))
    };
    (around(expected), around(got))
}
