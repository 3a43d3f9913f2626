//! JSON as bytes: what is journaled must fit on one line and have one spelling.

use serde_json::value::RawValue;

/// Drops the white space between tokens, so that the spelling does not depend on who formatted it.
pub fn compact(value: Box<RawValue>) -> Box<RawValue> {
    let text = value.get();
    let Some(first) = first_space(text.as_bytes()) else { return value };
    let mut out = String::with_capacity(text.len());
    out.push_str(&text[..first]);
    let (mut in_string, mut escaped) = (false, false);
    for character in text[first..].chars() {
        if in_string {
            in_string = escaped || character != '"';
            escaped = !escaped && character == '\\';
        } else if matches!(character, ' ' | '\t' | '\n' | '\r') {
            continue;
        } else if character == '"' {
            in_string = true;
        }
        out.push(character);
    }
    RawValue::from_string(out).expect("JSON without white space between its tokens is JSON")
}

/// Where white space outside of a string begins.
fn first_space(text: &[u8]) -> Option<usize> {
    let (mut in_string, mut escaped) = (false, false);
    for (index, &byte) in text.iter().enumerate() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            return Some(index);
        } else {
            in_string = byte == b'"';
        }
    }
    None
}

/// Writes a JSON string.
pub(crate) fn push_string(out: &mut Vec<u8>, text: &str) {
    // Counts them all, many bytes at a time, where looking for the first would take one after the other.
    let special = text.bytes().filter(|byte| matches!(byte, 0..0x20 | b'"' | b'\\')).count();
    if special == 0 {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect("writing to memory does not fail");
    }
}

pub(crate) fn push_number(out: &mut Vec<u8>, number: u64) {
    serde_json::to_writer(out, &number).expect("writing to memory does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compacted(text: &str) -> String {
        compact(RawValue::from_string(text.to_owned()).unwrap()).get().to_owned()
    }

    #[test]
    fn only_space_between_tokens_goes() {
        assert_eq!(compacted("{ \"a b\" :\t[1,\n 2] }"), "{\"a b\":[1,2]}");
        assert_eq!(compacted(r#"{"a":"quote \" and \\", "b": " x "}"#), r#"{"a":"quote \" and \\","b":" x "}"#);
        assert_eq!(compacted(r#""\\" "#.trim_end()), r#""\\""#);
    }

    proptest::proptest! {
        #[test]
        fn the_value_stays_the_same(value in arbitrary()) {
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            let text = compacted(&pretty);
            proptest::prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value.clone());
            proptest::prop_assert_eq!(text, serde_json::to_string(&value).unwrap());
        }
    }

    fn arbitrary() -> impl proptest::strategy::Strategy<Value = serde_json::Value> {
        use proptest::prelude::*;
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            ".*".prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                proptest::collection::btree_map(".*", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }
}
