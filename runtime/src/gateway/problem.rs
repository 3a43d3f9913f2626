//! Errors of the HTTP API, as problem details (RFC 9457).

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// One error, in the caller's terms. `code` is stable, for programs; `detail` says what to do, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    title: &'static str,
    pub status: StatusCode,
    pub detail: String,
    pub code: &'static str,
    /// The part of the request that is wrong, such as `[3].subject`.
    pub field: Option<String>,
    retry_after: Option<Duration>,
}

/// The fields of RFC 9457, and two of our own.
#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { title, status, detail: detail.into(), code, field: None, retry_after: None }
    }

    /// 400: the request is wrong at `field`.
    pub(super) fn invalid(code: &'static str, field: impl Into<String>, detail: impl Into<String>) -> Self {
        let problem = Self::new(StatusCode::BAD_REQUEST, code, "The request is not valid", detail);
        Self { field: Some(field.into()), ..problem }
    }

    /// 401: no token, or one that proves nothing.
    pub(super) fn unauthenticated(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", "Who is calling is not proven", detail)
    }

    /// 403: the caller is known, and may not.
    pub(super) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "The caller may not do this", detail)
    }

    /// 404.
    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "There is no such thing", detail)
    }

    /// 405.
    pub(super) fn method_not_allowed() -> Self {
        let detail = "this path answers other methods";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "The method is not allowed here", detail)
    }

    /// 409: what is there already does not go with the request.
    pub(super) fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, "The request does not fit what is there", detail)
    }

    /// 409: the event's id is another event's.
    pub(super) fn id_reused() -> Self {
        let detail = "this source and id were used a while ago, with other content; give each event its own id";
        Self::conflict("id_reused", detail).within("id")
    }

    /// 413.
    pub(super) fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "The request is too large", detail)
    }

    /// 415.
    pub(super) fn unsupported_media_type(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "The content type is not known", detail)
    }

    /// 429: try again later; nothing of the request was accepted.
    pub(super) fn too_many(detail: impl Into<String>, retry_after: Duration) -> Self {
        let problem =
            Self::new(StatusCode::TOO_MANY_REQUESTS, "workspace_full", "The workspace takes no events now", detail);
        Self { retry_after: Some(retry_after), ..problem }
    }

    /// 503: something behind the gateway does not answer. Sending the same events again is safe: their ids tell.
    pub(super) fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, "A part of Rhizon does not answer", detail);
        Self { retry_after: Some(Duration::from_secs(1)), ..problem }
    }

    /// Puts `prefix` before the field, for an item of a batch.
    #[must_use]
    pub(super) fn within(mut self, prefix: &str) -> Self {
        self.field = Some(match self.field.take() {
            Some(field) => format!("{prefix}.{field}"),
            None => prefix.to_owned(),
        });
        self
    }
}

/// Marks an answer as a refusal, for the metrics.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refused(pub &'static str);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Body {
            r#type: format!("https://rhizon.dev/problems/{}", self.code),
            title: self.title,
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            field: self.field.as_deref(),
        };
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        response.extensions_mut().insert(Refused(self.code));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(pause) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(pause.as_secs().max(1)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn json(response: Response) -> serde_json::Value {
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    #[tokio::test]
    async fn a_problem_names_the_field_of_the_batch_item() {
        let response = Problem::invalid("missing", "subject", "subject is missing").within("[3]").into_response();
        assert_eq!(response.status(), 400);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let expected = serde_json::json!({
            "type": "https://rhizon.dev/problems/missing", "title": "The request is not valid", "status": 400,
            "detail": "subject is missing", "code": "missing", "field": "[3].subject"
        });
        assert_eq!(json(response).await, expected);
    }

    #[test]
    fn the_headers_say_when_to_come_back_and_how_to_prove_oneself() {
        let full = Problem::too_many("full", Duration::from_millis(300)).into_response();
        assert_eq!((full.status().as_u16(), &full.headers()["retry-after"]), (429, &HeaderValue::from_static("1")));
        let unknown = Problem::unauthenticated("no token").into_response();
        assert_eq!(unknown.headers()["www-authenticate"], "Bearer");
    }
}
