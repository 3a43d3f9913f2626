//! What both controllers do with the API server.

pub mod apply;
pub mod drift;
pub mod finalizer;
pub mod manifest;
pub mod status;

pub use manifest::Manifest;

/// The operator's name as a field manager, and as the source of events.
pub const MANAGER: &str = "rhizon-operator";

/// A call to the API server that failed.
#[derive(Debug, thiserror::Error)]
#[error("{verb} {what}: {source}")]
pub struct Error {
    verb: &'static str,
    what: String,
    #[source]
    source: Box<kube::Error>,
}

impl Error {
    pub fn new(verb: &'static str, what: impl Into<String>, source: kube::Error) -> Self {
        Self { verb, what: what.into(), source: Box::new(source) }
    }

    /// The HTTP status, when the server gave one.
    pub fn status(&self) -> Option<u16> {
        match &*self.source {
            kube::Error::Api(status) => Some(status.code),
            _ => None,
        }
    }

    /// The server said that the object is not as it should be: trying again will not help.
    pub fn is_refusal(&self) -> bool {
        matches!(self.status(), Some(400 | 403 | 422))
    }
}

/// `None` for an object that does not exist.
pub fn found<T>(result: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

/// Done also when the object was gone already.
pub fn gone<T>(result: Result<T, kube::Error>) -> Result<(), kube::Error> {
    found(result).map(|_| ())
}
