//! Reads CloudEvents' JSON format: each attribute is checked, and each fault names its attribute.

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Envelope, EnvelopeError, roles};
use crate::json::compact;
use crate::limits::Limits;

impl EnvelopeError {
    fn malformed(field: &str, why: impl Into<String>) -> Self {
        Self::Malformed { field: field.to_owned(), why: why.into() }
    }
}

/// The attributes of a JSON object in their order, unparsed and where they are.
struct Attributes<'a>(Vec<(Text<'a>, &'a RawValue)>);

#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Attributes<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Attributes<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a CloudEvent")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
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

impl Attributes<'_> {
    fn check_names(&self) -> Result<(), EnvelopeError> {
        for (index, (Text(name), _)) in self.0.iter().enumerate() {
            if self.0[..index].iter().any(|(Text(before), _)| before == name) {
                return Err(EnvelopeError::malformed(name, "is given twice"));
            }
        }
        Ok(())
    }

    fn get(&self, name: &'static str) -> Result<&RawValue, EnvelopeError> {
        let found = self.0.iter().find(|(Text(given), _)| given == name);
        found.map(|(_, value)| *value).ok_or(EnvelopeError::Missing(name))
    }
}

impl Envelope {
    /// Reads the JSON format, strictly: what is missing, malformed, repeated or too large is an error that names it.
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, EnvelopeError> {
        if bytes.len() > limits.envelope_bytes {
            return Err(EnvelopeError::TooLarge { limit: limits.envelope_bytes, got: bytes.len() });
        }
        let attributes: Attributes<'_> =
            serde_json::from_slice(bytes).map_err(|e| EnvelopeError::NotJson(e.to_string()))?;
        attributes.check_names()?;
        let version = string("specversion", attributes.get("specversion")?)?;
        if version != "1.0" {
            return Err(EnvelopeError::SpecVersion(version.into_owned()));
        }
        let required = |name, limit_bytes| text(name, attributes.get(name)?, limit_bytes);
        let event_type =
            required("type", 256)?.parse().map_err(|e| EnvelopeError::malformed("type", format!("is wrong: {e}")))?;
        let (id, source) = (required("id", 256)?, required("source", 1024)?);
        let mut event = Self::new(id, source, event_type, required("subject", limits.entity_bytes)?);
        for (Text(name), value) in &attributes.0 {
            event.set(name, value)?;
        }
        if event.data.is_some() && event.data_base64.is_some() {
            return Err(EnvelopeError::malformed("data_base64", "stands beside 'data'; give one of the two"));
        }
        Ok(event)
    }

    fn set(&mut self, name: &str, value: &RawValue) -> Result<(), EnvelopeError> {
        match name {
            "specversion" | "id" | "source" | "type" | "subject" => {}
            "time" => self.time = Some(timestamp(name, value)?),
            "datacontenttype" => self.datacontenttype = Some(text(name, value, 256)?),
            "dataschema" => self.dataschema = Some(text(name, value, 1024)?),
            "data" => self.data = Some(compact(value.to_owned())),
            "data_base64" => self.data_base64 = Some(string(name, value)?.into_owned()),
            "workspace" => self.workspace = Some(text(name, value, 63)?),
            "correlationid" => self.correlationid = Some(text(name, value, 256)?),
            "causationid" => self.causationid = Some(text(name, value, 256)?),
            "depth" => self.depth = number(name, value)?,
            "target" => self.target = Some(label(name, value)?),
            "expectedversion" => self.expectedversion = Some(number(name, value)?),
            "deliverat" => self.deliverat = Some(timestamp(name, value)?),
            "actor" => self.actor = Some(text(name, value, 512)?),
            "roles" => self.roles = roles(&string(name, value)?),
            "traceparent" => self.traceparent = Some(text(name, value, 64)?),
            "tracestate" => self.tracestate = Some(text(name, value, 512)?),
            _ => {
                extension(name, value)?;
                self.extensions.insert(name.to_owned(), value.to_owned());
            }
        }
        Ok(())
    }
}

/// Without a copy, where nothing in it is escaped.
fn string<'a>(field: &str, value: &'a RawValue) -> Result<Cow<'a, str>, EnvelopeError> {
    let name = serde_json::from_str::<Text<'a>>(value.get());
    name.map(|Text(text)| text).map_err(|_| EnvelopeError::malformed(field, "is not a string"))
}

fn text(field: &str, value: &RawValue, limit_bytes: usize) -> Result<String, EnvelopeError> {
    let text = string(field, value)?;
    match text.len() {
        0 => Err(EnvelopeError::malformed(field, "is empty")),
        n if n > limit_bytes => {
            Err(EnvelopeError::malformed(field, format!("is {n} bytes long, and at most {limit_bytes} are allowed")))
        }
        _ if text.chars().any(char::is_control) => Err(EnvelopeError::malformed(field, "has a control character")),
        _ => Ok(text.into_owned()),
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
