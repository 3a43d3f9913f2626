//! Makes the events by which people steer a sidecar: the command itself, and the event that a dead letter becomes when it
//! is sent again. Functions of their arguments: the same command is the same message again, and has one effect.

use rhizon_api::settings::Agent;
use rhizon_kernel::chain::Hash;
use rhizon_kernel::identity::{control_id, correlation_id, dedup_key, redrive_id};
use rhizon_kernel::ingress::Control;
use rhizon_kernel::record::{Decided, Line, Part};
use rhizon_kernel::subject::{GATEWAY, Subject};
use rhizon_kernel::{Envelope, EventType};
use serde_json::value::RawValue;

use super::admit::Rules;
use super::problem::Problem;
use crate::bus::Outgoing;
use crate::telemetry::TraceContext;

const SOURCE: &str = "/gateway/control";
const REDRIVE_SOURCE: &str = "/gateway/redrive/";

/// What a caller may ask of a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Redrive,
    Drop,
    Cancel,
}

impl Command {
    pub(super) fn event_type(self) -> EventType {
        let name = match self {
            Self::Redrive => Control::REDRIVE,
            Self::Drop => Control::DROP,
            Self::Cancel => Control::CANCEL,
        };
        name.parse().expect("the kernel's commands are types")
    }
}

/// The event that a command is about, as its agent knows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct About<'a> {
    pub agent: &'a str,
    pub key: Hash,
    pub entity: &'a str,
    pub id: &'a str,
    pub correlation: Option<&'a str>,
}

/// Who commands, with what rights, as part of which trace.
#[derive(Debug, Clone, Copy)]
pub(super) struct By<'a> {
    pub actor: &'a str,
    pub roles: &'a [String],
    pub trace: &'a TraceContext,
}

/// The command as an event, for the one agent.
pub(super) fn command(command: Command, about: &About, by: &By, rules: &Rules) -> Outgoing {
    let event_type = command.event_type();
    let id = control_id(event_type.as_str(), about.agent, &about.key);
    let mut event = Envelope::new(id, SOURCE.to_owned(), event_type, about.entity.to_owned());
    event.datacontenttype = Some("application/json".to_owned());
    event.data = RawValue::from_string(format!(r#"{{"key":"{}"}}"#, about.key)).ok();
    event.causationid = Some(about.id.to_owned());
    event.correlationid = about.correlation.map(str::to_owned);
    event.roles = by.roles.to_vec();
    publish(event, about.agent, by, rules)
}

/// A dead letter's record, and the event in it.
pub(super) struct DeadLetter {
    event: Envelope,
    key: Hash,
}

impl DeadLetter {
    /// Takes the record apart; what was never an event cannot be sent again, but it can be dropped by its key.
    pub(super) fn read(record: &[u8], key: Hash) -> Result<Self, Problem> {
        let unreadable = || Problem::unavailable("agent_unreadable", "the dead letter's record cannot be read");
        let line = Line::parse(record).map_err(|_| unreadable())?;
        let Part::Decided(bytes) = line.part else { return Err(unreadable()) };
        let decided = Decided::parse(bytes).map_err(|_| unreadable())?;
        let event = decided.input.and_then(|input| Envelope::journaled(input.get().as_bytes()).ok());
        let cannot = || {
            let detail = "the dead letter was no event that can be read, so it cannot be sent again; drop it";
            Problem::conflict("not_redrivable", detail)
        };
        Ok(Self { event: event.ok_or_else(cannot)?, key })
    }

    pub(super) fn about<'a>(&'a self, agent: &'a str) -> About<'a> {
        let Envelope { id, subject, correlationid, .. } = &self.event;
        About { agent, key: self.key, entity: subject, id, correlation: correlationid.as_deref() }
    }

    /// The new event: what the old one said, for the agent that gave it up, caused by the old one and by the caller. It
    /// keeps the roles under which the old one was let in, and what its sender expected of the entity.
    pub(super) fn again(&self, agent: &str, by: &By, rules: &Rules) -> Result<Again, Problem> {
        let subscribes = |to: &Agent| to.subscribes.iter().any(|own| own.matches(self.event.event_type.as_str()));
        if !rules.agents.iter().any(|one| one.name == agent && subscribes(one)) {
            let detail = format!("agent '{agent}' no longer subscribes to '{}'; drop it", self.event.event_type);
            return Err(Problem::conflict("not_redrivable", detail));
        }
        let mut event = self.event.clone();
        event.causationid = Some(std::mem::replace(&mut event.id, redrive_id(&self.key, agent)));
        event.source = format!("{REDRIVE_SOURCE}{agent}");
        event.depth += 1;
        event.deliverat = None;
        let (source, id) = (event.source.clone(), event.id.clone());
        let message = publish(event, agent, by, rules);
        if message.payload.len() > rules.limits.envelope_bytes {
            let detail = "with what Rhizon adds, the event is larger than an event may be; send it anew, or drop it";
            return Err(Problem::conflict("not_redrivable", detail));
        }
        Ok(Again { source, id, message })
    }
}

/// A dead letter as a new event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Again {
    pub source: String,
    pub id: String,
    pub message: Outgoing,
}

fn publish(mut event: Envelope, agent: &str, by: &By, rules: &Rules) -> Outgoing {
    let key = dedup_key(GATEWAY, &event.source, &event.id);
    event.workspace = Some(rules.workspace.to_owned());
    event.target = Some(agent.to_owned());
    event.actor = Some(by.actor.to_owned());
    event.correlationid.get_or_insert_with(|| correlation_id(&key));
    event.traceparent.clone_from(&by.trace.traceparent);
    event.tracestate.clone_from(&by.trace.tracestate);
    let subject = Subject::new(GATEWAY, &event.event_type, &event.subject, event.target.as_deref());
    Outgoing { subject: subject.to_string(), key, payload: event.to_json().into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rhizon_kernel::Limits;
    use rhizon_kernel::ingress::{self, Decision};
    use rhizon_kernel::{Config, Head};

    const DEAD: &str = r#"{"specversion":"1.0","id":"7","source":"/logs/a","type":"cmd.permit.record","subject":"case 1","workspace":"w","correlationid":"c","expectedversion":3,"actor":"clerk","roles":"clerk","color":"blue","data":{"a":1}}"#;

    fn record(input: &str) -> Vec<u8> {
        let zero = Hash::ZERO;
        let decided = format!(
            r#"{{"entity":"case 1","subject":"s","before":3,"after":3,{input},"outcome":"dead-lettered","reason":{{"code":"agent_failed","detail":"d"}}}}"#
        );
        let observed =
            r#"{"sequence":2,"stream":1,"time":"2026-01-01T00:00:00Z","attempts":5,"epoch":1,"revision":"r"}"#;
        format!(
            r#"{{"link":"{zero}","hash":"{zero}","size":{},"decided":{decided},"observed":{observed}}}"#,
            decided.len()
        )
        .into_bytes()
    }

    fn config() -> Config {
        Config {
            workspace: "w".into(),
            agent: "permits".into(),
            subscribes: vec!["cmd.permit.record".parse().unwrap()],
            publishes: vec![],
            authorization: vec![],
            limits: Limits::default(),
            from: 0,
            earlier: Vec::new(),
        }
    }

    fn decide(message: &Outgoing) -> Decision {
        let arrival = ingress::decode(&config(), &message.subject, &message.payload);
        assert_eq!(arrival.key, message.key);
        ingress::decide(&config(), 1, &Head { version: 3, ..Head::default() }, None, &arrival)
    }

    #[test]
    fn the_kernel_takes_both_messages_of_a_redrive() {
        let (limits, trace) = (Limits::default(), TraceContext::default());
        let subscribes = config().subscribes;
        let agents = [Agent { name: "permits".into(), subscribes, shards: 1 }];
        let rules = Rules { workspace: "w", agents: &agents, limits: &limits };
        let by = By { actor: "boss", roles: &["head".to_owned()], trace: &trace };
        let key = dedup_key(GATEWAY, "/logs/a", "7");
        let dead = DeadLetter::read(&record(&format!(r#""input":{DEAD}"#)), key).unwrap();

        let note = command(Command::Redrive, &dead.about("permits"), &by, &rules);
        assert_eq!(decide(&note), Decision::Note(Control::Redrive(key)));
        let again = dead.again("permits", &by, &rules).unwrap();
        assert_eq!(decide(&again.message), Decision::Accept);
        let expected = format!(
            r#"{{"specversion":"1.0","id":"{}","source":"/gateway/redrive/permits","type":"cmd.permit.record","subject":"case 1","workspace":"w","correlationid":"c","causationid":"7","depth":1,"target":"permits","expectedversion":3,"actor":"boss","roles":"clerk","color":"blue","data":{{"a":1}}}}"#,
            redrive_id(&key, "permits")
        );
        assert_eq!(String::from_utf8(again.message.payload.to_vec()).unwrap(), expected);
        assert_eq!(dead.again("permits", &by, &rules).unwrap(), again);

        let elsewhere = dead.again("ledger", &by, &rules).unwrap_err();
        assert_eq!((elsewhere.status.as_u16(), elsewhere.code), (409, "not_redrivable"), "nobody would get it");
    }

    #[test]
    fn what_was_no_event_is_not_sent_again() {
        let malformed = format!(r#""malformed":{{"sha256":"{}","bytes":3}}"#, Hash::ZERO);
        let problem = DeadLetter::read(&record(&malformed), Hash::ZERO).err().unwrap();
        assert_eq!((problem.status.as_u16(), problem.code), (409, "not_redrivable"));
    }
}
