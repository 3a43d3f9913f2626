//! One event: a CloudEvents 1.0 event (JSON format) with the extension attributes of Rhizon.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::event_type::EventType;
use crate::json::{compact, push_number, push_string};
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

    fn malformed(field: &str, why: impl Into<String>) -> Self {
        Self::Malformed { field: field.to_owned(), why: why.into() }
    }
}

/// The attributes of a JSON object in their order, unparsed.
struct Attributes(Vec<(String, Box<RawValue>)>);

impl<'de> serde::Deserialize<'de> for Attributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Attributes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a CloudEvent")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Attributes, A::Error> {
                let mut list = Vec::with_capacity(16);
                while let Some(entry) = map.next_entry()? {
                    list.push(entry);
                }
                Ok(Attributes(list))
            }
        }
        deserializer.deserialize_map(Collect)
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

    /// Reads the JSON format, strictly: what is missing, malformed, repeated or too large is an error that names it.
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, EnvelopeError> {
        if bytes.len() > limits.envelope_bytes {
            return Err(EnvelopeError::TooLarge { limit: limits.envelope_bytes, got: bytes.len() });
        }
        let Attributes(list) = serde_json::from_slice(bytes).map_err(|e| EnvelopeError::NotJson(e.to_string()))?;
        let mut specversion = None;
        let mut required: [Option<String>; 4] = Default::default();
        let mut event = Self::new(String::new(), String::new(), placeholder(), String::new());
        let mut seen: Vec<&str> = Vec::with_capacity(list.len());
        for (name, _) in &list {
            if seen.contains(&name.as_str()) {
                return Err(EnvelopeError::malformed(name, "is given twice"));
            }
            seen.push(name);
        }
        for (name, value) in list {
            match name.as_str() {
                "specversion" => specversion = Some(string(&name, &value)?),
                "id" => required[0] = Some(text(&name, &value, 256)?),
                "source" => required[1] = Some(text(&name, &value, 1024)?),
                "type" => required[2] = Some(text(&name, &value, 256)?),
                "subject" => required[3] = Some(text(&name, &value, limits.entity_bytes)?),
                _ => event.set(name, value)?,
            }
        }
        match specversion.as_deref() {
            Some("1.0") => {}
            Some(other) => return Err(EnvelopeError::SpecVersion(other.to_owned())),
            None => return Err(EnvelopeError::Missing("specversion")),
        }
        let [id, source, event_type, subject] = required;
        event.id = id.ok_or(EnvelopeError::Missing("id"))?;
        event.source = source.ok_or(EnvelopeError::Missing("source"))?;
        let event_type = event_type.ok_or(EnvelopeError::Missing("type"))?;
        event.event_type =
            event_type.parse().map_err(|e| EnvelopeError::malformed("type", format!("is wrong: {e}")))?;
        event.subject = subject.ok_or(EnvelopeError::Missing("subject"))?;
        if event.data.is_some() && event.data_base64.is_some() {
            return Err(EnvelopeError::malformed("data_base64", "stands beside 'data'; give one of the two"));
        }
        Ok(event)
    }

    fn set(&mut self, name: String, value: Box<RawValue>) -> Result<(), EnvelopeError> {
        match name.as_str() {
            "time" => self.time = Some(timestamp(&name, &value)?),
            "datacontenttype" => self.datacontenttype = Some(text(&name, &value, 256)?),
            "dataschema" => self.dataschema = Some(text(&name, &value, 1024)?),
            "data" => self.data = Some(compact(value)),
            "data_base64" => self.data_base64 = Some(string(&name, &value)?),
            "workspace" => self.workspace = Some(text(&name, &value, 63)?),
            "correlationid" => self.correlationid = Some(text(&name, &value, 256)?),
            "causationid" => self.causationid = Some(text(&name, &value, 256)?),
            "depth" => self.depth = number(&name, &value)?,
            "target" => self.target = Some(label(&name, &value)?),
            "expectedversion" => self.expectedversion = Some(number(&name, &value)?),
            "deliverat" => self.deliverat = Some(timestamp(&name, &value)?),
            "actor" => self.actor = Some(text(&name, &value, 512)?),
            "roles" => self.roles = roles(&string(&name, &value)?),
            "traceparent" => self.traceparent = Some(text(&name, &value, 64)?),
            "tracestate" => self.tracestate = Some(text(&name, &value, 512)?),
            _ => {
                extension(&name, &value)?;
                self.extensions.insert(name, value);
            }
        }
        Ok(())
    }

    /// The JSON that travels.
    pub fn to_json(&self) -> Vec<u8> {
        self.to_json_in(self.traceparent.as_deref(), self.tracestate.as_deref())
    }

    /// The same as part of another trace.
    pub fn to_json_in(&self, traceparent: Option<&str>, tracestate: Option<&str>) -> Vec<u8> {
        self.write(traceparent, tracestate)
    }

    /// The JSON that is decided on and journaled: all but the trace context, which says nothing about the event.
    pub fn to_decided_json(&self) -> Vec<u8> {
        self.write(None, None)
    }

    fn write(&self, traceparent: Option<&str>, tracestate: Option<&str>) -> Vec<u8> {
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
        optional(&mut out, "traceparent", traceparent);
        optional(&mut out, "tracestate", tracestate);
        optional(&mut out, "data_base64", self.data_base64.as_deref());
        if let Some(data) = &self.data {
            raw(&mut out, "data", data);
        }
        out.push(b'}');
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

fn placeholder() -> EventType {
    "cmd.none.none".parse().expect("it is a type")
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

fn string(field: &str, value: &RawValue) -> Result<String, EnvelopeError> {
    serde_json::from_str(value.get()).map_err(|_| EnvelopeError::malformed(field, "is not a string"))
}

fn text(field: &str, value: &RawValue, limit_bytes: usize) -> Result<String, EnvelopeError> {
    let text = string(field, value)?;
    match text.len() {
        0 => Err(EnvelopeError::malformed(field, "is empty")),
        n if n > limit_bytes => {
            Err(EnvelopeError::malformed(field, format!("is {n} bytes long, and at most {limit_bytes} are allowed")))
        }
        _ if text.chars().any(char::is_control) => Err(EnvelopeError::malformed(field, "has a control character")),
        _ => Ok(text),
    }
}

fn label(field: &str, value: &RawValue) -> Result<String, EnvelopeError> {
    let name = text(field, value, 40)?;
    if name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        Ok(name)
    } else {
        Err(EnvelopeError::malformed(field, "is not an agent's name"))
    }
}

fn number<T: serde::de::DeserializeOwned>(field: &str, value: &RawValue) -> Result<T, EnvelopeError> {
    serde_json::from_str(value.get()).map_err(|_| EnvelopeError::malformed(field, "is not a whole number in range"))
}

fn timestamp(field: &str, value: &RawValue) -> Result<Timestamp, EnvelopeError> {
    string(field, value)?.parse().map_err(|_| {
        EnvelopeError::malformed(field, "is not a time as RFC 3339 writes it, such as 2026-01-31T12:00:00Z")
    })
}

fn extension(field: &str, value: &RawValue) -> Result<(), EnvelopeError> {
    if field.is_empty() || field.len() > 20 || !field.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        return Err(EnvelopeError::malformed(field, "is no name of an attribute: 1 to 20 characters of a-z and 0-9"));
    }
    match value.get().as_bytes().first() {
        Some(b'"' | b't' | b'f' | b'-' | b'0'..=b'9') => Ok(()),
        _ => Err(EnvelopeError::malformed(field, "is neither string, number nor boolean")),
    }
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
        let decided = String::from_utf8(event.to_decided_json()).unwrap();
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
