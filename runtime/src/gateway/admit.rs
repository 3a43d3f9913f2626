//! Decides whether a caller's event goes on the stream, and makes the message. A function of its arguments.
//!
//! What the gateway adds derives from the event and the caller: the same event of the same caller is the same message
//! again, byte for byte, so sending it twice has one effect.

use std::time::Duration;

use jiff::Timestamp;
use rhizon_api::settings::Agent;
use rhizon_kernel::chain::{Hash, prefixed};
use rhizon_kernel::identity::{correlation_id, dedup_key};
use rhizon_kernel::subject::{GATEWAY, Subject};
use rhizon_kernel::{Envelope, Limits};

use super::access::{AccessError, Rights};
use super::auth::Identity;
use super::problem::Problem;
use crate::bus::Outgoing;
use crate::telemetry::TraceContext;

/// How far a caller's clock may be ahead.
const FUTURE_SKEW: Duration = Duration::from_mins(1);

/// How far ahead a timer may be: ten years, of which two or three are leap years.
const FARTHEST_TIMER: Duration = Duration::from_hours(24 * 3653);

/// What the events of a request are judged by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'a> {
    pub workspace: &'a str,
    pub agents: &'a [Agent],
    pub limits: &'a Limits,
}

/// An event that may be published.
#[derive(Debug)]
pub(super) struct Admitted {
    pub message: Outgoing,
    /// Of the event, whatever its content.
    pub key: Hash,
    /// Of what agents decide on.
    pub digest: Hash,
}

/// The message for one event, or why there is none. `trace` is the request's own trace context.
pub(super) fn admit(
    mut event: Envelope,
    identity: &Identity,
    rights: &Rights,
    rules: &Rules,
    trace: &TraceContext,
    now: Timestamp,
) -> Result<Admitted, Problem> {
    check_attributes(&event, rules, now)?;
    let granted = rights.send(&identity.actor, &event.event_type, &event.source).map_err(|error| refusal(&error))?;

    let key = dedup_key(GATEWAY, &event.source, &event.id);
    event.workspace = Some(rules.workspace.to_owned());
    event.actor = Some(identity.actor.clone());
    event.roles = granted;
    event.correlationid.get_or_insert_with(|| correlation_id(&key));
    if event.traceparent.is_none() {
        event.traceparent.clone_from(&trace.traceparent);
        event.tracestate.clone_from(&trace.tracestate);
    }

    let payload = event.to_json();
    if payload.len() > rules.limits.envelope_bytes {
        let (got, limit) = (payload.len(), rules.limits.envelope_bytes);
        let detail = format!("with the caller's identity the event is {got} bytes, and at most {limit} are allowed");
        return Err(Problem::too_large(detail));
    }
    let subject = Subject::new(GATEWAY, &event.event_type, &event.subject, event.target.as_deref());
    let digest = Hash::of(&[&event.to_decided_json().bytes]);
    // The broker may drop what it has already, and not another content under the same id: agents refuse that, in their journals.
    let content = prefixed(&[&key.0, &digest.0]);
    let message = Outgoing { subject: subject.to_string(), key: content, payload: payload.into() };
    Ok(Admitted { message, key, digest })
}

/// What a client may not say, since the gateway or the runtime says it.
fn check_attributes(event: &Envelope, rules: &Rules, now: Timestamp) -> Result<(), Problem> {
    let refuse = |field: &str, why: String| Err(Problem::invalid("attribute_refused", field, why));
    let added = [("actor", event.actor.is_some()), ("roles", !event.roles.is_empty()), ("depth", event.depth > 0)];
    if event.event_type.is_control() {
        let why = "commands to Rhizon are no events; /v1/agents/{agent}/dead and DELETE /v1/events take them";
        return refuse("type", why.to_owned());
    }
    if let Some((field, _)) = added.iter().find(|(_, given)| *given) {
        return refuse(field, format!("the attribute '{field}' is set by Rhizon; leave it out"));
    }
    if event.workspace.as_deref().is_some_and(|workspace| workspace != rules.workspace) {
        return refuse("workspace", format!("this is the gateway of the workspace '{}'", rules.workspace));
    }
    if event.time.is_some_and(|time| time > now + FUTURE_SKEW) {
        return refuse("time", format!("the time is more than {} s in the future", FUTURE_SKEW.as_secs()));
    }
    if event.deliverat.is_some_and(|due| due > now + FARTHEST_TIMER) {
        return refuse("deliverat", "the time is more than 10 years ahead".to_owned());
    }
    match &event.target {
        Some(target) if !rules.agents.iter().any(|agent| agent.name == *target) => refuse(
            "target",
            format!("the gateway knows no agent '{target}'; a new one is known to it within two minutes"),
        ),
        _ => Ok(()),
    }
}

fn refusal(error: &AccessError) -> Problem {
    let problem = Problem::forbidden(error.to_string());
    match error.field() {
        Some(field) => problem.within(field),
        None => problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rhizon_api::settings::Access;

    const WRITER: &str = "system:serviceaccount:permits:clerk";

    fn access() -> Vec<Access> {
        vec![Access {
            issuer: "i".into(),
            subject: WRITER.into(),
            roles: vec!["clerk".into()],
            send: vec!["cmd.permit.*".parse().unwrap()],
            sources: vec!["/logs/".into()],
            read: false,
        }]
    }

    fn try_admit(patch: &str) -> Result<Outgoing, Problem> {
        let agents = [Agent { name: "permits".into(), subscribes: vec![], shards: 1 }];
        let (access, limits) = (access(), Limits::default());
        let rules = Rules { workspace: "permits", agents: &agents, limits: &limits };
        let text = format!(
            r#"{{"specversion":"1.0","id":"1","type":"cmd.permit.record","subject":"case 1"{patch},"data":{{"a":1}}}}"#
        );
        let text = if patch.contains("source") { text } else { text.replace(r#""id""#, r#""source":"/logs/a","id""#) };
        let event = Envelope::parse(text.as_bytes(), &limits).unwrap();
        let identity = Identity { issuer: "i".into(), subject: WRITER.into(), actor: WRITER.into() };
        let rights = Rights::of(&identity, &access).unwrap();
        admit(
            event,
            &identity,
            &rights,
            &rules,
            &TraceContext { traceparent: Some("00-t-p-01".into()), tracestate: None },
            "2026-01-01T00:00:00Z".parse().unwrap(),
        )
        .map(|admitted| admitted.message)
    }

    #[test]
    fn the_message_says_who_and_derives_its_ids() {
        let message = try_admit("").unwrap();
        let key = dedup_key("gateway", "/logs/a", "1");
        let partition = rhizon_kernel::subject::partition("case 1");
        assert_eq!(message.subject, format!("ev.cmd.permit.record.{partition}.gateway"));
        let expected = format!(
            r#"{{"specversion":"1.0","id":"1","source":"/logs/a","type":"cmd.permit.record","subject":"case 1","workspace":"permits","correlationid":"{}","actor":"{WRITER}","roles":"clerk","traceparent":"00-t-p-01","data":{{"a":1}}}}"#,
            correlation_id(&key)
        );
        assert_eq!(String::from_utf8(message.payload.to_vec()).unwrap(), expected);
    }

    #[test]
    fn what_the_sender_says_of_itself_is_kept_where_it_may() {
        let trace = r#","correlationid":"mine","traceparent":"00-a-b-01","workspace":"permits","target":"permits""#;
        let message = try_admit(trace).unwrap();
        let event = Envelope::parse(&message.payload, &Limits::default()).unwrap();
        assert_eq!(event.correlationid.as_deref(), Some("mine"));
        assert_eq!(event.traceparent.as_deref(), Some("00-a-b-01"));
        assert!(message.subject.starts_with("to.permits.cmd."), "{}", message.subject);
    }

    #[test]
    fn what_the_sender_may_not_say_is_refused_by_name() {
        for (field, patch) in [
            ("actor", r#","actor":"boss""#),
            ("roles", r#","roles":"admin""#),
            ("depth", r#","depth":1"#),
            ("workspace", r#","workspace":"other""#),
            ("target", r#","target":"nobody""#),
            ("deliverat", r#","deliverat":"2036-01-03T00:00:00Z""#),
            ("time", r#","time":"2026-01-01T00:01:01Z""#),
        ] {
            let problem = try_admit(patch).unwrap_err();
            assert_eq!((problem.status.as_u16(), problem.field.as_deref()), (400, Some(field)), "{patch}");
        }
        for patch in [r#","time":"2026-01-01T00:00:59Z""#, r#","deliverat":"2036-01-01T00:00:00Z""#] {
            assert!(try_admit(patch).is_ok(), "{patch}");
        }
    }

    #[test]
    fn what_the_sender_has_no_right_to_is_403() {
        for patch in [r#","source":"/rhizon/permits/agents/ledger""#, r#","source":"/elsewhere""#] {
            let problem = try_admit(patch).unwrap_err();
            assert_eq!((problem.status.as_u16(), problem.field.as_deref()), (403, Some("source")), "{patch}");
        }
    }

    #[test]
    fn the_same_event_gives_the_same_message() {
        let (first, second) = (try_admit("").unwrap(), try_admit("").unwrap());
        assert_eq!((first.key, first.payload), (second.key, second.payload));
        let other = try_admit(r#","time":"2026-01-01T00:00:00Z""#).unwrap();
        assert_ne!(first.key, other.key, "the broker drops no other content");
    }
}
