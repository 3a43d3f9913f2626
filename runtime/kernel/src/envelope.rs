//! One event: a CloudEvents 1.0 event (JSON format) with the extension attributes of Rhizon.

mod parse;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::value::RawValue;

use crate::event_type::EventType;
use crate::json::{push_number, push_string};
use crate::limits::Limits;

/// An event as it travels. Attributes are named as CloudEvents spells them.
#[derive(Debug, Clone)]
pub struct Envelope {
    pub id: String,
    pub source: String,
    pub event_type: EventType,
    /// The entity's key.
    pub subject: String,
    pub time: Option<Timestamp>,
    pub datacontenttype: Option<String>,
    pub dataschema: Option<String>,
    pub data: Option<Box<RawValue>>,
    pub data_base64: Option<String>,
    pub workspace: Option<String>,
    pub correlationid: Option<String>,
    pub causationid: Option<String>,
    /// How many causes are behind this event.
    pub depth: u32,
    /// The one agent it is for, instead of all subscribers.
    pub target: Option<String>,
    /// The entity's version that the sender has seen.
    pub expectedversion: Option<u64>,
    pub deliverat: Option<Timestamp>,
    pub actor: Option<String>,
    /// Sorted, without repetition; one comma-separated string on the wire.
    pub roles: Vec<String>,
    pub traceparent: Option<String>,
    pub tracestate: Option<String>,
    /// Attributes that Rhizon does not know, passed on as they came.
    pub extensions: BTreeMap<String, Box<RawValue>>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("the event is {got} bytes, and at most {limit} are allowed")]
    TooLarge { limit: usize, got: usize },
    #[error("the event is no JSON object: {0}")]
    NotJson(String),
    #[error("specversion is '{0}', and only '1.0' is known")]
    SpecVersion(String),
    #[error("the attribute '{0}' is missing")]
    Missing(&'static str),
    #[error("the attribute '{field}' {why}")]
    Malformed { field: String, why: String },
}

impl EnvelopeError {
    /// A stable name of the kind of error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "envelope_too_large",
            Self::NotJson(_) => "not_json",
            Self::SpecVersion(_) => "unknown_specversion",
            Self::Missing(_) => "missing_attribute",
            Self::Malformed { .. } => "malformed_attribute",
        }
    }

    /// The attribute at fault, where it is one.
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::SpecVersion(_) => Some("specversion"),
            Self::Missing(field) => Some(field),
            Self::Malformed { field, .. } => Some(field),
            Self::TooLarge { .. } | Self::NotJson(_) => None,
        }
    }
}

impl Envelope {
    /// An event with the required attributes and nothing else.
    pub fn new(id: String, source: String, event_type: EventType, subject: String) -> Self {
        Self {
            id,
            source,
            event_type,
            subject,
            time: None,
            datacontenttype: None,
            dataschema: None,
            data: None,
            data_base64: None,
            workspace: None,
            correlationid: None,
            causationid: None,
            depth: 0,
            target: None,
            expectedversion: None,
            deliverat: None,
            actor: None,
            roles: Vec::new(),
            traceparent: None,
            tracestate: None,
            extensions: BTreeMap::new(),
        }
    }

    /// An event out of a journal: it was within the limits that were in force then.
    pub fn journaled(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let limits = Limits { envelope_bytes: usize::MAX, entity_bytes: usize::MAX, ..Limits::default() };
        Self::parse(bytes, &limits)
    }

    /// The JSON that travels.
    pub fn to_json(&self) -> Vec<u8> {
        self.to_json_in(self.traceparent.as_deref(), self.tracestate.as_deref())
    }

    /// The same as part of another trace.
    pub fn to_json_in(&self, traceparent: Option<&str>, tracestate: Option<&str>) -> Vec<u8> {
        let decided = self.to_decided_json();
        if traceparent.is_none() && tracestate.is_none() {
            decided.bytes
        } else {
            decided.in_trace(traceparent, tracestate)
        }
    }

    /// The JSON that is decided on and journaled: all but the trace context, which says nothing about the event.
    pub fn to_decided_json(&self) -> DecidedJson {
        let data = self.data.as_ref().map_or(0, |d| d.get().len());
        let mut out = Vec::with_capacity(data + 640);
        out.extend_from_slice(b"{\"specversion\":\"1.0\"");
        attribute(&mut out, "id", &self.id);
        attribute(&mut out, "source", &self.source);
        attribute(&mut out, "type", self.event_type.as_str());
        attribute(&mut out, "subject", &self.subject);
        if let Some(time) = &self.time {
            attribute(&mut out, "time", &time.to_string());
        }
        optional(&mut out, "datacontenttype", self.datacontenttype.as_deref());
        optional(&mut out, "dataschema", self.dataschema.as_deref());
        optional(&mut out, "workspace", self.workspace.as_deref());
        optional(&mut out, "correlationid", self.correlationid.as_deref());
        optional(&mut out, "causationid", self.causationid.as_deref());
        if self.depth > 0 {
            integer(&mut out, "depth", u64::from(self.depth));
        }
        optional(&mut out, "target", self.target.as_deref());
        if let Some(version) = self.expectedversion {
            integer(&mut out, "expectedversion", version);
        }
        if let Some(time) = &self.deliverat {
            attribute(&mut out, "deliverat", &time.to_string());
        }
        optional(&mut out, "actor", self.actor.as_deref());
        if !self.roles.is_empty() {
            attribute(&mut out, "roles", &self.roles.join(","));
        }
        for (name, value) in &self.extensions {
            raw(&mut out, name, value);
        }
        let trace_at = out.len();
        optional(&mut out, "data_base64", self.data_base64.as_deref());
        if let Some(data) = &self.data {
            raw(&mut out, "data", data);
        }
        out.push(b'}');
        DecidedJson { bytes: out, trace_at }
    }
}

/// An event's JSON without a trace context, and where one goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecidedJson {
    pub bytes: Vec<u8>,
    trace_at: usize,
}

impl DecidedJson {
    /// As part of a trace.
    pub fn in_trace(&self, traceparent: Option<&str>, tracestate: Option<&str>) -> Vec<u8> {
        let room = [traceparent, tracestate].iter().flatten().map(|text| text.len() + 20).sum::<usize>();
        let mut out = Vec::with_capacity(self.bytes.len() + room);
        out.extend_from_slice(&self.bytes[..self.trace_at]);
        optional(&mut out, "traceparent", traceparent);
        optional(&mut out, "tracestate", tracestate);
        out.extend_from_slice(&self.bytes[self.trace_at..]);
        out
    }
}

/// Sorts a comma-separated list and drops what is empty or repeated.
pub fn roles(list: &str) -> Vec<String> {
    let mut roles: Vec<String> = list.split(',').map(str::trim).filter(|r| !r.is_empty()).map(str::to_owned).collect();
    roles.sort();
    roles.dedup();
    roles
}

fn attribute(out: &mut Vec<u8>, name: &str, value: &str) {
    key(out, name);
    push_string(out, value);
}

fn optional(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        attribute(out, name, value);
    }
}

fn integer(out: &mut Vec<u8>, name: &str, value: u64) {
    key(out, name);
    push_number(out, value);
}

fn raw(out: &mut Vec<u8>, name: &str, value: &RawValue) {
    key(out, name);
    out.extend_from_slice(value.get().as_bytes());
}

fn key(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Envelope, EnvelopeError> {
        Envelope::parse(json.as_bytes(), &Limits::default())
    }

    const FULL: &str = r#"{"specversion":"1.0","id":"1","source":"/s","type":"cmd.permit.record","subject":"case-1","time":"2010-10-02T07:20:39.266Z","datacontenttype":"application/json","workspace":"w","correlationid":"c","causationid":"k","depth":2,"target":"permits","expectedversion":7,"deliverat":"2030-01-01T00:00:00Z","actor":"me","roles":"a,b","color":"blue","traceparent":"00-ab-cd-01","data":{"a":1}}"#;

    #[test]
    fn a_full_envelope_reads_back_to_the_byte() {
        let event = parse(FULL).unwrap();
        assert_eq!(String::from_utf8(event.to_json()).unwrap(), FULL);
        let decided = String::from_utf8(event.to_decided_json().bytes).unwrap();
        assert_eq!(decided, FULL.replace(r#""traceparent":"00-ab-cd-01","#, ""));
    }

    #[test]
    fn each_fault_is_named() {
        let with = |from: &str, to: &str| parse(&FULL.replace(from, to)).unwrap_err();
        assert_eq!(with(r#""1.0""#, r#""0.3""#), EnvelopeError::SpecVersion("0.3".into()));
        assert_eq!(with(r#""id":"1","#, ""), EnvelopeError::Missing("id"));
        assert_eq!(with(r#""specversion":"1.0","#, ""), EnvelopeError::Missing("specversion"));
        assert_eq!(with(r#""subject":"case-1","#, ""), EnvelopeError::Missing("subject"));
        assert_eq!(with("2010-10-02T07:20:39.266Z", "yesterday").field(), Some("time"));
        assert_eq!(with(r#""depth":2"#, r#""depth":"2""#).field(), Some("depth"));
        assert_eq!(with(r#""color":"blue""#, r#""color":{}"#).field(), Some("color"));
        assert_eq!(with(r#""color":"blue""#, r#""id":"2""#).to_string(), "the attribute 'id' is given twice");
        assert_eq!(with("cmd.permit.record", "permit").field(), Some("type"));
        assert_eq!(parse("[]").unwrap_err().code(), "not_json");
        let small = Limits { envelope_bytes: 10, ..Limits::default() };
        assert_eq!(Envelope::parse(FULL.as_bytes(), &small).unwrap_err().code(), "envelope_too_large");
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read_and_written_the_same(
            id in "[ -~]{1,20}", subject in "\\PC{1,30}", depth in 0u32..99, roles in "[a-z]{1,3}(,[a-z]{1,3}){0,3}",
        ) {
            let mut event = Envelope::new(id, "/s".into(), "evt.a.b".parse().unwrap(), subject);
            (event.depth, event.roles) = (depth, super::roles(&roles));
            let bytes = event.to_json();
            proptest::prop_assert_eq!(Envelope::parse(&bytes, &Limits::default()).unwrap().to_json(), bytes);
        }

        #[test]
        fn any_bytes_are_an_event_or_an_error(bytes: Vec<u8>) {
            let _ = Envelope::parse(&bytes, &Limits::default());
        }
    }
}
