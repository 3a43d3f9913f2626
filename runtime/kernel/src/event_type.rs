//! Event types, `cmd.<noun>.<verb>` and `evt.<noun>.<past tense>`, and patterns over them. `ctl.<noun>.<verb>` is how
//! people steer a sidecar through the gateway; no agent sends or gets it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{given}' is no event type: {why}; write cmd.<noun>.<verb> or evt.<noun>.<past tense>, such as evt.permit.recorded"
)]
pub struct InvalidType {
    pub given: String,
    pub why: &'static str,
}

/// A type such as `cmd.permit.record`: three tokens of `[a-z0-9_-]`, so that it is also three tokens of a subject.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventType(String);

/// A type whose second or third token may be `*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TypePattern(String);

/// How types begin that are for the runtime itself.
const CONTROL: &str = "ctl";

impl EventType {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_control(&self) -> bool {
        is_control(&self.0)
    }
}

impl TypePattern {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_control(&self) -> bool {
        is_control(&self.0)
    }

    /// Whether the second token is spelled out.
    pub fn names_noun(&self) -> bool {
        self.0.split('.').nth(1) != Some("*")
    }

    pub fn matches(&self, event_type: &str) -> bool {
        let mut given = event_type.split('.');
        let all = self.0.split('.').all(|want| given.next().is_some_and(|got| want == "*" || want == got));
        all && given.next().is_none()
    }

    /// Whether every type that `other` matches is matched by this one too.
    pub fn covers(&self, other: &TypePattern) -> bool {
        self.0.split('.').zip(other.0.split('.')).all(|(own, theirs)| own == "*" || own == theirs)
    }
}

pub(crate) fn is_control(event_type: &str) -> bool {
    event_type.split('.').next() == Some(CONTROL)
}

fn check(given: &str, wildcards: bool) -> Result<(), InvalidType> {
    let fail = |why| Err(InvalidType { given: given.to_owned(), why });
    let tokens: Vec<&str> = given.split('.').collect();
    let [kind, rest @ ..] = tokens.as_slice() else { return fail("it is empty") };
    if !["cmd", "evt", CONTROL].contains(kind) {
        return fail("it begins with neither 'cmd.' nor 'evt.'");
    }
    if rest.len() != 2 {
        return fail("it does not have three tokens");
    }
    for token in rest {
        if wildcards && *token == "*" {
            continue;
        }
        if token.is_empty() || token.len() > 64 {
            return fail("a token is empty or longer than 64 characters");
        }
        if !token.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-') {
            return fail("a token has a character outside a-z, 0-9, '_' and '-'");
        }
    }
    Ok(())
}

impl FromStr for EventType {
    type Err = InvalidType;
    fn from_str(given: &str) -> Result<Self, InvalidType> {
        check(given, false)?;
        Ok(Self(given.to_owned()))
    }
}

impl FromStr for TypePattern {
    type Err = InvalidType;
    fn from_str(given: &str) -> Result<Self, InvalidType> {
        check(given, true)?;
        Ok(Self(given.to_owned()))
    }
}

impl TryFrom<String> for EventType {
    type Error = InvalidType;
    fn try_from(given: String) -> Result<Self, InvalidType> {
        check(&given, false)?;
        Ok(Self(given))
    }
}

impl TryFrom<String> for TypePattern {
    type Error = InvalidType;
    fn try_from(given: String) -> Result<Self, InvalidType> {
        check(&given, true)?;
        Ok(Self(given))
    }
}

impl From<EventType> for String {
    fn from(value: EventType) -> Self {
        value.0
    }
}

impl From<TypePattern> for String {
    fn from(value: TypePattern) -> Self {
        value.0
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for TypePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_three_plain_tokens() {
        assert!("cmd.permit.record".parse::<EventType>().is_ok());
        for bad in
            ["", "permit.record", "cmd.permit", "cmd.permit.record.now", "cmd.Permit.record", "cmd.*.record", "evt..x"]
        {
            assert!(bad.parse::<EventType>().is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns_match_token_by_token() {
        let pattern: TypePattern = "evt.*.recorded".parse().unwrap();
        assert!(pattern.matches("evt.permit.recorded"));
        assert!(!pattern.matches("evt.permit.recorded.twice"));
        assert!(!pattern.matches("evt.permit"));
        assert!(pattern.covers(&"evt.permit.recorded".parse().unwrap()));
        assert!(!pattern.covers(&"evt.permit.*".parse().unwrap()));
    }
}
