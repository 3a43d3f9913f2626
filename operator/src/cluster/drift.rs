//! Is a live object still as it was asked for? Pure.

use serde_json::Value;

/// Maps whose values are quantities: the server rewrites `1000m` to `1`.
const QUANTITIES: [&str; 7] = ["requests", "limits", "hard", "default", "defaultRequest", "max", "min"];

/// Whether `live` says everything that `wanted` says. What the server added on top does not count.
pub fn holds(wanted: &Value, live: &Value) -> bool {
    compare(wanted, live, false)
}

fn compare(wanted: &Value, live: &Value, quantities: bool) -> bool {
    match (wanted, live) {
        (Value::Object(wanted), _) => wanted.iter().all(|(key, value)| {
            let quantities = quantities || QUANTITIES.contains(&key.as_str());
            compare(value, live.get(key).unwrap_or(&Value::Null), quantities)
        }),
        (Value::Array(wanted), Value::Array(live)) => {
            wanted.len() == live.len() && wanted.iter().zip(live).all(|(w, l)| compare(w, l, quantities))
        }
        // The server leaves out what is empty.
        (Value::Array(wanted), Value::Null) => wanted.is_empty(),
        (Value::String(text), Value::Null) => text.is_empty(),
        (Value::Bool(flag), Value::Null) => !flag,
        (Value::Number(number), Value::Null) => number.as_i64() == Some(0),
        (Value::String(wanted), Value::String(live)) if quantities => {
            wanted == live || quantity(wanted).is_some_and(|w| quantity(live) == Some(w))
        }
        _ => wanted == live,
    }
}

/// A quantity in thousandths.
pub fn quantity(text: &str) -> Option<i128> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: i128 = match &text[digits.len()..] {
        "m" => 1,
        "" => 1_000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "Ki" => 1_000 << 10,
        "Mi" => 1_000 << 20,
        "Gi" => 1_000 << 30,
        "Ti" => 1_000 << 40,
        _ => return None,
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    if part.len() > 6 {
        return None;
    }
    let scale = 10_i128.pow(u32::try_from(part.len()).ok()?);
    let number: i128 = format!("{whole}{part}").parse().ok()?;
    (number * factor % scale == 0).then_some(number * factor / scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn additions_of_the_server_are_no_drift() {
        let wanted = json!({"spec": {"replicas": 1, "list": [{"name": "a"}], "empty": [], "off": false, "zero": 0}});
        let live = json!({"spec": {"replicas": 1, "list": [{"name": "a", "added": 1}], "more": 2}, "status": {}});
        assert!(holds(&wanted, &live));
    }

    #[test]
    fn a_changed_or_missing_field_is_drift() {
        let wanted = json!({"spec": {"replicas": 1, "list": [{"name": "a"}]}});
        assert!(!holds(&wanted, &json!({"spec": {"replicas": 2, "list": [{"name": "a"}]}})));
        assert!(!holds(&wanted, &json!({"spec": {"replicas": 1, "list": []}})));
        assert!(!holds(&wanted, &json!({})));
    }

    #[test]
    fn quantities_are_compared_by_value_where_they_stand() {
        assert!(holds(&json!({"limits": {"cpu": "1000m"}}), &json!({"limits": {"cpu": "1"}})));
        assert!(holds(&json!({"hard": {"limits.memory": "1024Mi"}}), &json!({"hard": {"limits.memory": "1Gi"}})));
        assert!(!holds(&json!({"limits": {"cpu": "1"}}), &json!({"limits": {"cpu": "2"}})));
        assert!(!holds(&json!({"name": "1000m"}), &json!({"name": "1"})));
        assert_eq!((quantity("1.5"), quantity("1500m"), quantity("x")), (Some(1_500), Some(1_500), None));
    }
}
