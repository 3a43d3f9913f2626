//! The broker: keys, claims and streams.
//!
//! ```text
//!  operator key ── signs ──▶ account JWTs ──▶ resolver (push, look up, delete: `resolver`)
//!       (own Secret)           │  data account: streams, consumers (`streams`, `consumers`); exports to
//!                              ▼  runtime account: the users of sidecars and gateway
//!                         user JWTs ──▶ Secrets in the workspace's namespace (`credentials`)
//! ```
//!
//! `claims` decides who may do what and does nothing else; `jwt` writes it down and signs it.

pub mod api;
pub mod claims;
pub mod connect;
pub mod consumers;
pub mod credentials;
pub mod error;
pub mod jwt;
pub mod keys;
pub mod pool;
pub mod resolver;
pub mod retention;
pub mod server;
pub mod streams;

pub use error::Error;
