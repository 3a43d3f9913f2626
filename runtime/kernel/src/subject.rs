//! The subjects that envelopes travel on. A reader learns from them who wrote, since the broker lets nobody write as
//! another: `ev.<type>.<partition>.<publisher>`, and `to.<agent>.…` for one target.
//!
//! A broker that filters intersects the filters with all subjects of a block of its log, for each message that it hands
//! out. So the type comes first, which leaves most of them out at once; partitions are few; and the entity is not a token.

use sha2::{Digest, Sha256};

use crate::{EventType, TypePattern};

/// How many partitions a workspace's entities are spread over: as many shards as an agent can have.
pub const PARTITIONS: u8 = 16;

/// The publisher that speaks for clients.
pub const GATEWAY: &str = "gateway";

/// Where an envelope was found, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    pub target: Option<String>,
    pub publisher: String,
    pub partition: u8,
    pub event_type: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{subject}' is no subject of an envelope: {why}")]
pub struct InvalidSubject {
    pub subject: String,
    pub why: &'static str,
}

impl Subject {
    pub fn new(publisher: &str, event_type: &EventType, entity: &str, target: Option<&str>) -> Self {
        Self {
            target: target.map(str::to_owned),
            publisher: publisher.to_owned(),
            partition: partition(entity),
            event_type: event_type.as_str().to_owned(),
        }
    }

    pub fn parse(subject: &str) -> Result<Self, InvalidSubject> {
        let fail = |why| InvalidSubject { subject: subject.to_owned(), why };
        let (target, rest) = match subject.split_once('.') {
            Some(("ev", rest)) => (None, rest),
            Some(("to", rest)) => {
                let (agent, rest) = rest.split_once('.').ok_or_else(|| fail("it names no target"))?;
                (Some(agent.to_owned()), rest)
            }
            _ => return Err(fail("it begins with neither 'ev.' nor 'to.'")),
        };
        let (rest, publisher) = rest.rsplit_once('.').ok_or_else(|| fail("it names no publisher"))?;
        let (event_type, number) = rest.rsplit_once('.').ok_or_else(|| fail("it names no partition"))?;
        let partition =
            number.parse().ok().filter(|n| *n < PARTITIONS).ok_or_else(|| fail("its partition is not 0–15"))?;
        Ok(Self { target, publisher: publisher.to_owned(), partition, event_type: event_type.to_owned() })
    }
}

impl Subject {
    pub fn is_control(&self) -> bool {
        crate::event_type::is_control(&self.event_type)
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.target {
            Some(agent) => write!(f, "to.{agent}.")?,
            None => f.write_str("ev.")?,
        }
        write!(f, "{}.{}.{}", self.event_type, self.partition, self.publisher)
    }
}

/// The partition of an entity: the first byte of its SHA-256, modulo 16.
pub fn partition(entity: &str) -> u8 {
    Sha256::digest(entity.as_bytes())[0] % PARTITIONS
}

/// The consumer filters of an agent: broadcasts, what is sent to it alone, and control; without overlaps.
pub fn filters(agent: &str, subscribes: &[TypePattern]) -> Vec<String> {
    let mut kept: Vec<&TypePattern> = Vec::new();
    for pattern in subscribes {
        if kept.iter().any(|k| k.covers(pattern)) {
            continue;
        }
        kept.retain(|k| !pattern.covers(k));
        kept.push(pattern);
    }
    kept.sort();
    let events = kept.iter().flat_map(|p| [format!("ev.{p}.*.*"), format!("to.{agent}.{p}.*.*")]);
    events.chain([format!("to.{agent}.ctl.*.*.*.{GATEWAY}")]).collect()
}

/// What a publisher may publish: its own name, these types, any entity, with or without a target.
pub fn publish_permissions(publisher: &str, types: &[EventType]) -> Vec<String> {
    types.iter().flat_map(|t| [format!("ev.{t}.*.{publisher}"), format!("to.*.{t}.*.{publisher}")]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_reads_back() {
        let event_type = "evt.permit.recorded".parse().unwrap();
        let subject = Subject::new("agent-permits", &event_type, "Resource 26/ü", Some("ledger"));
        let text = subject.to_string();
        assert_eq!(text, format!("to.ledger.evt.permit.recorded.{}.agent-permits", subject.partition));
        assert_eq!(Subject::parse(&text).unwrap(), subject);
    }

    #[test]
    fn what_is_no_subject_is_said() {
        for bad in ["", "ev", "xx.cmd.a.b.1.c", "ev.cmd.a.b.16.gateway", "ev.cmd.a.b.one.gateway", "to.z"] {
            assert!(Subject::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn filters_do_not_overlap() {
        let patterns: Vec<TypePattern> =
            ["evt.a.b", "evt.a.*", "evt.a.c", "cmd.x.y"].iter().map(|p| p.parse().unwrap()).collect();
        assert_eq!(
            filters("z", &patterns),
            ["ev.cmd.x.y.*.*", "to.z.cmd.x.y.*.*", "ev.evt.a.*.*.*", "to.z.evt.a.*.*.*", "to.z.ctl.*.*.*.gateway"]
        );
    }
}
