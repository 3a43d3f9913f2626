//! Reads CloudEvents 1.0 from an HTTP request, in the three modes of its HTTP binding (version 1.0.2, section 3).

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rhizon_kernel::envelope::EnvelopeError;
use rhizon_kernel::{Envelope, Limits};
use serde_json::value::{RawValue, to_raw_value};

use super::problem::Problem;

/// Most events of one request: as many as the broker stores in one atomic step.
pub(super) const BATCH_EVENTS: usize = 1000;

/// Largest body, in bytes.
pub(super) const BODY_BYTES: usize = 8 << 20;

const STRUCTURED: &str = "application/cloudevents+json";
const BATCHED: &str = "application/cloudevents-batch+json";

/// Events as they came, and whether their places in a batch belong into errors.
#[derive(Debug)]
pub(super) struct Request {
    pub events: Vec<Envelope>,
    pub batched: bool,
}

pub(super) fn read(headers: &HeaderMap, body: &[u8], limits: &Limits) -> Result<Request, Problem> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media_type.as_str() {
        STRUCTURED => one(Envelope::parse(body, limits)),
        BATCHED => batch(body, limits),
        _ if media_type.starts_with("application/cloudevents") => Err(unknown_mode(&media_type)),
        _ if headers.contains_key("ce-specversion") => binary(headers, content_type, body, limits),
        _ => Err(unknown_mode(&media_type)),
    }
}

fn unknown_mode(media_type: &str) -> Problem {
    Problem::unsupported_media_type(format!(
        "'{media_type}' is none of {STRUCTURED}, {BATCHED}, and any other type with the headers ce-specversion, ce-id, …"
    ))
}

fn one(parsed: Result<Envelope, EnvelopeError>) -> Result<Request, Problem> {
    Ok(Request { events: vec![parsed.map_err(|error| invalid(&error))?], batched: false })
}

fn batch(body: &[u8], limits: &Limits) -> Result<Request, Problem> {
    let items: Vec<&RawValue> = serde_json::from_slice(body).map_err(|error| {
        Problem::invalid("not_json", "", format!("the body is no JSON array of CloudEvents: {error}"))
    })?;
    if items.len() > BATCH_EVENTS {
        let got = items.len();
        return Err(Problem::too_large(format!("{got} events; send at most {BATCH_EVENTS} in one request")));
    }
    let parse = |(index, item): (usize, &&RawValue)| {
        Envelope::parse(item.get().as_bytes(), limits).map_err(|error| invalid(&error).within(&format!("[{index}]")))
    };
    Ok(Request { events: items.iter().enumerate().map(parse).collect::<Result<_, _>>()?, batched: true })
}

/// Attributes in headers, data in the body. It goes through the JSON format, so that one set of rules reads both.
fn binary(headers: &HeaderMap, content_type: &str, body: &[u8], limits: &Limits) -> Result<Request, Problem> {
    let mut json = Vec::with_capacity(body.len() + 512);
    json.push(b'{');
    for (name, value) in headers {
        let Some(attribute) = name.as_str().strip_prefix("ce-") else { continue };
        let not_text = || Problem::invalid("malformed_attribute", attribute, "the header is not percent-encoded UTF-8");
        let text = value.to_str().ok().and_then(percent_decoded).ok_or_else(not_text)?;
        member(&mut json, attribute, &attribute_value(attribute, &text));
    }
    let is_json = media_is_json(content_type);
    if !content_type.is_empty() {
        member(&mut json, "datacontenttype", &string(content_type));
    }
    if is_json && !body.is_empty() {
        let data: &RawValue = serde_json::from_slice(body)
            .map_err(|error| Problem::invalid("not_json", "data", format!("the body is no JSON: {error}")))?;
        member(&mut json, "data", data);
    } else if !body.is_empty() {
        member(&mut json, "data_base64", &string(&STANDARD.encode(body)));
    }
    json.push(b'}');
    one(Envelope::parse(&json, limits))
}

/// The HTTP binding writes every attribute as text; these are integers in the JSON format.
fn attribute_value(name: &str, text: &str) -> Box<RawValue> {
    match text.parse::<u64>() {
        Ok(number) if matches!(name, "expectedversion" | "depth") => to_raw_value(&number).expect("a number is JSON"),
        _ => string(text),
    }
}

fn string(text: &str) -> Box<RawValue> {
    to_raw_value(text).expect("a string is JSON")
}

fn member(json: &mut Vec<u8>, name: &str, value: &RawValue) {
    if json.len() > 1 {
        json.push(b',');
    }
    json.extend_from_slice(string(name).get().as_bytes());
    json.push(b':');
    json.extend_from_slice(value.get().as_bytes());
}

fn media_is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type == "application/json" || media_type.ends_with("+json")
}

/// `%XX` as section 3.1.3.2 of the binding has it; `None` when it is no UTF-8 or no such escape.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

fn invalid(error: &EnvelopeError) -> Problem {
    match error {
        EnvelopeError::TooLarge { .. } => Problem::too_large(error.to_string()),
        _ => Problem::invalid(error.code(), error.field().unwrap_or_default(), error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    const EVENT: &str = r#"{"specversion":"1.0","id":"1","source":"/logs/a","type":"cmd.permit.record","subject":"case-1","data":{"a":1}}"#;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v))).collect()
    }

    fn read_as(content_type: &'static str, body: &str) -> Result<Request, Problem> {
        read(&headers(&[("content-type", content_type)]), body.as_bytes(), &Limits::default())
    }

    fn json(request: &Request) -> Vec<String> {
        request.events.iter().map(|event| String::from_utf8(event.to_json()).unwrap()).collect()
    }

    #[test]
    fn structured_and_batched_events_are_read() {
        let one = read_as("application/cloudevents+json; charset=utf-8", EVENT).unwrap();
        assert_eq!(json(&one), [EVENT]);
        let two = read_as("application/cloudevents-batch+json", &format!("[{EVENT},\n{EVENT}]")).unwrap();
        assert_eq!(json(&two), [EVENT, EVENT]);
        assert!(json(&read_as("application/cloudevents-batch+json", "[]").unwrap()).is_empty());
    }

    #[test]
    fn binary_attributes_come_from_headers() {
        let attributes = headers(&[
            ("ce-specversion", "1.0"),
            ("ce-id", "1"),
            ("ce-source", "/logs/a"),
            ("ce-type", "cmd.permit.record"),
            ("ce-subject", "Caf%C3%A9%20%22a%22"),
            ("ce-expectedversion", "4"),
            ("content-type", "application/json"),
            ("host", "example"),
        ]);
        let request = read(&attributes, br#"{"a": 1}"#, &Limits::default()).unwrap();
        let expected = r#"{"specversion":"1.0","id":"1","source":"/logs/a","type":"cmd.permit.record","subject":"Café \"a\"","datacontenttype":"application/json","expectedversion":4,"data":{"a":1}}"#;
        assert_eq!(json(&request), [expected]);
    }

    #[test]
    fn binary_data_that_is_no_json_stays_bytes() {
        let mut attributes = headers(&[
            ("ce-specversion", "1.0"),
            ("ce-id", "1"),
            ("ce-source", "/logs/a"),
            ("ce-type", "cmd.permit.record"),
            ("ce-subject", "s"),
            ("content-type", "image/png"),
        ]);
        let request = read(&attributes, &[0, 255], &Limits::default()).unwrap();
        assert_eq!(request.events[0].data_base64.as_deref(), Some("AP8="));
        attributes.append("ce-id", HeaderValue::from_static("2"));
        let twice = read(&attributes, b"", &Limits::default()).unwrap_err();
        assert_eq!((twice.code, twice.field.as_deref()), ("malformed_attribute", Some("id")));
        attributes.insert("ce-id", HeaderValue::from_static("%zz"));
        assert_eq!(read(&attributes, b"", &Limits::default()).unwrap_err().field.as_deref(), Some("id"));
    }

    #[test]
    fn an_invalid_event_is_named_with_its_place() {
        let bad = EVENT.replace(r#""subject":"case-1","#, "");
        let batched = read_as("application/cloudevents-batch+json", &format!("[{EVENT},{bad}]")).unwrap_err();
        assert_eq!((batched.status.as_u16(), batched.field.as_deref()), (400, Some("[1].subject")));
        let single = read_as("application/cloudevents+json", &bad).unwrap_err();
        assert_eq!((single.code, single.field.as_deref()), ("missing_attribute", Some("subject")));
        assert_eq!(read_as("application/cloudevents-batch+json", EVENT).unwrap_err().code, "not_json");
    }

    #[test]
    fn too_much_is_413_and_an_unknown_type_415() {
        let many = format!("[{}]", vec![EVENT; BATCH_EVENTS + 1].join(","));
        assert_eq!(read_as("application/cloudevents-batch+json", &many).unwrap_err().status.as_u16(), 413);
        let limits = Limits { envelope_bytes: 10, ..Limits::default() };
        let large = read(&headers(&[("content-type", STRUCTURED)]), EVENT.as_bytes(), &limits).unwrap_err();
        assert_eq!(large.status.as_u16(), 413);
        for media_type in ["", "application/json", "application/cloudevents+avro"] {
            assert_eq!(read_as(media_type, EVENT).unwrap_err().status.as_u16(), 415, "{media_type}");
        }
    }
}
