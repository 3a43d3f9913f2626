//! How a command can fail, and what the caller's shell learns of it.

use std::process::ExitCode;

use http::StatusCode;
use serde::Deserialize;

/// The message says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// What was checked is not so.
    #[error("{0}")]
    NotSo(String),
    /// The command or its input is wrong.
    #[error("{0}")]
    Usage(String),
    /// Something cannot be reached, or the caller may not.
    #[error("{0}")]
    Unreachable(String),
    /// Ctrl-C.
    #[error("{0}")]
    Interrupted(String),
}

impl Failure {
    pub(crate) const fn code(&self) -> u8 {
        match self {
            Self::NotSo(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
            Self::Interrupted(_) => 130,
        }
    }

    /// Says it on standard error.
    pub(crate) fn report(&self) -> ExitCode {
        eprintln!("{} {self}", console::style("error:").red().bold().for_stderr());
        ExitCode::from(self.code())
    }
}

/// An answer of the gateway that is no success (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Problem {
    pub(crate) status: u16,
    pub(crate) title: String,
    pub(crate) detail: String,
    pub(crate) code: String,
    pub(crate) field: Option<String>,
}

impl Default for Problem {
    fn default() -> Self {
        let title = "the gateway's answer is no problem document".to_owned();
        Self { status: 0, title, detail: String::new(), code: String::new(), field: None }
    }
}

impl Problem {
    pub(crate) fn read(status: StatusCode, body: &[u8]) -> Self {
        let problem: Self = serde_json::from_slice(body).unwrap_or_default();
        Self { status: status.as_u16(), ..problem }
    }

    /// Trying again later may help.
    pub(crate) const fn is_temporary(&self) -> bool {
        matches!(self.status, 429 | 502 | 503 | 504)
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let Problem { status, title, detail, field, .. } = problem;
        let place = field.filter(|field| !field.is_empty()).map(|field| format!("{field}: ")).unwrap_or_default();
        let text = format!("{place}{} (HTTP {status})", if detail.is_empty() { title } else { detail });
        match status {
            404 => Self::NotSo(text),
            400..=499 if !matches!(status, 401 | 403 | 429) => Self::Usage(text),
            _ => Self::Unreachable(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_becomes_the_exit_code_that_fits() {
        let code = |status: u16| {
            let body = br#"{"detail":"d","field":"f","code":"c"}"#;
            Failure::from(Problem::read(StatusCode::from_u16(status).unwrap(), body)).code()
        };
        assert_eq!([400, 401, 403, 404, 413, 429, 503].map(code), [2, 3, 3, 1, 2, 3, 3]);
        let text = Failure::from(Problem::read(StatusCode::BAD_GATEWAY, b"<html>")).to_string();
        assert_eq!(text, "the gateway's answer is no problem document (HTTP 502)");
    }
}
