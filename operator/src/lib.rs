//! The Rhizon operator: custom resources in; namespaces, broker accounts, streams and workloads out.
//!
//! ```text
//!  for each kind:   dereference ──▶ validate ──▶ build ──▶ apply ──▶ status
//!                     (reads)        (pure)      (pure)   (writes)   (pure, then patched if it differs)
//! ```

pub mod agent;
pub mod check;
pub mod cluster;
pub mod context;
pub mod controller;
pub mod credentials;
pub mod heads;
pub mod health;
pub mod install;
pub mod jwks;
pub mod leader;
pub mod metrics;
pub mod nats;
pub mod pod;
pub mod settings;
pub mod workspace;
