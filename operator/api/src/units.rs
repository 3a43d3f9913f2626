//! Durations (`200ms`, `30s`, `7d`) and sizes (`512Mi`) as they are written in a custom resource.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, fmt, str::FromStr};

/// What is wrong with a duration or a size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// A whole number of one unit: `ms`, `s`, `m`, `h` or `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Duration {
    ms: u64,
}

impl Duration {
    const UNITS: [(&'static str, u64); 5] =
        [("ms", 1), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];

    pub const fn from_ms(ms: u64) -> Self {
        Self { ms }
    }

    pub const fn as_ms(self) -> u64 {
        self.ms
    }
}

impl FromStr for Duration {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error(format!("{text:?} is no duration; write a number and ms, s, m, h or d, such as 30s"));
        let digits = text.trim_end_matches(|c: char| c.is_ascii_lowercase());
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        let unit = &text[digits.len()..];
        let (_, factor) = Self::UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        number.checked_mul(*factor).map(|ms| Self { ms }).ok_or_else(wrong)
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, tail) = Self::UNITS.split_at(1);
        let (unit, factor) =
            tail.iter().find(|(_, factor)| self.ms != 0 && self.ms.is_multiple_of(*factor)).unwrap_or(&Self::UNITS[0]);
        write!(f, "{}{unit}", self.ms / factor)
    }
}

impl TryFrom<String> for Duration {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Duration> for String {
    fn from(duration: Duration) -> Self {
        duration.to_string()
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^[0-9]{1,12}(ms|s|m|h|d)$"})
    }
}

/// A size in bytes: a number, alone or with `Ki`, `Mi`, `Gi` or `Ti`. The text is kept as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size {
    text: String,
    bytes: u64,
}

impl Size {
    pub const fn as_bytes(&self) -> u64 {
        self.bytes
    }
}

impl FromStr for Size {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error(format!("{text:?} is no size; write a number and Ki, Mi, Gi or Ti, such as 512Mi"));
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        let shift = match &text[digits.len()..] {
            "" => 0,
            "Ki" => 10,
            "Mi" => 20,
            "Gi" => 30,
            "Ti" => 40,
            _ => return Err(wrong()),
        };
        let bytes = number.checked_mul(1 << shift).ok_or_else(wrong)?;
        Ok(Self { text: text.to_owned(), bytes })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Size {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.text
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^[1-9][0-9]{0,11}(Ki|Mi|Gi|Ti)?$"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_keep_their_value_and_get_the_largest_unit() {
        for (text, ms, shown) in [
            ("200ms", 200, "200ms"),
            ("30s", 30_000, "30s"),
            ("90s", 90_000, "90s"),
            ("120s", 120_000, "2m"),
            ("7d", 604_800_000, "7d"),
            ("0s", 0, "0ms"),
        ] {
            let duration: Duration = text.parse().unwrap();
            assert_eq!((duration.as_ms(), duration.to_string()), (ms, shown.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "s", "10", "1.5s", "10 s", "1w", "-1s", "99999999999999999999s"] {
            assert!(text.parse::<Duration>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes_are_bytes_and_keep_their_text() {
        for (text, bytes) in [("1", 1), ("2Ki", 2048), ("512Mi", 536_870_912), ("1Gi", 1_073_741_824)] {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.as_bytes(), size.to_string()), (bytes, text.to_owned()));
        }
        for text in ["", "Gi", "1G", "1.5Gi", "99999999999999999999"] {
            assert!(text.parse::<Size>().is_err(), "{text:?}");
        }
    }
}
