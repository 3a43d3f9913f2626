//! Requests to JetStream's API, as JSON over core NATS.

use super::Error;
use async_nats::Client;
use serde_json::Value;

/// Asks, and returns the answer's JSON. A JetStream error in it becomes [`Error::Refused`].
pub async fn call(client: &Client, subject: &str, request: &Value) -> Result<Value, Error> {
    let payload = if request.is_null() { String::new() } else { request.to_string() };
    let answer =
        client.request(subject.to_owned(), payload.into()).await.map_err(|error| Error::unavailable(subject, error))?;
    let answer: Value = serde_json::from_slice(&answer.payload)
        .map_err(|error| Error::Answer { call: subject.to_owned(), why: error.to_string() })?;
    match answer.get("error") {
        None => Ok(answer),
        Some(error) => Err(Error::Refused {
            call: subject.to_owned(),
            code: error["err_code"].as_u64().or_else(|| error["code"].as_u64()).unwrap_or_default(),
            description: error["description"].as_str().unwrap_or_default().to_owned(),
        }),
    }
}

/// Like [`call`], with `None` for something that does not exist.
pub async fn look(client: &Client, subject: &str, not_found: u64) -> Result<Option<Value>, Error> {
    match call(client, subject, &Value::Null).await {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.refusal() == Some(not_found) => Ok(None),
        Err(error) => Err(error),
    }
}

/// All pages of a list.
pub async fn list(client: &Client, subject: &str, field: &str) -> Result<Vec<Value>, Error> {
    let mut found = Vec::new();
    loop {
        let page = call(client, subject, &serde_json::json!({"offset": found.len()})).await?;
        let items = page[field].as_array().cloned().unwrap_or_default();
        let is_last = items.is_empty();
        found.extend(items);
        if is_last || found.len() as u64 >= page["total"].as_u64().unwrap_or_default() {
            return Ok(found);
        }
    }
}

/// Changes that `wanted` asks of `found`: the fields of an object that differ. Fields that are not named are left.
pub fn differs(wanted: &Value, found: &Value) -> bool {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            wanted.iter().any(|(key, value)| differs(value, found.get(key).unwrap_or(&Value::Null)))
        }
        (Value::Bool(false), Value::Null) => false,
        (Value::Number(number), Value::Null) => number.as_i64() != Some(0),
        (Value::Array(wanted), Value::Null) => !wanted.is_empty(),
        _ => wanted != found,
    }
}

/// `found` with the fields of `wanted` laid over it: what an update sends, so that it changes nothing else.
pub fn overlay(wanted: &Value, found: &Value) -> Value {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            let mut merged = found.clone();
            for (key, value) in wanted {
                let below = merged.get(key).cloned().unwrap_or(Value::Null);
                merged.insert(key.clone(), overlay(value, &below));
            }
            Value::Object(merged)
        }
        _ => wanted.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_named_fields_count_and_zero_is_absent() {
        let found = json!({"max_age": 5, "other": 1, "nested": {"a": 1, "b": 2}});
        assert!(!differs(&json!({"max_age": 5, "nested": {"a": 1}, "absent": 0, "off": false, "none": []}), &found));
        assert!(differs(&json!({"max_age": 6}), &found));
        assert!(differs(&json!({"nested": {"a": 2}}), &found));
        assert_eq!(
            overlay(&json!({"max_age": 6, "nested": {"a": 3}}), &found),
            json!({"max_age": 6, "other": 1, "nested": {"a": 3, "b": 2}})
        );
    }
}
