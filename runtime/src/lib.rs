//! What runs beside an agent: stores, buses, the driver between them and the agent, and the gateway.
//!
//! The `rhizon-runtime` binary serves a pod; a Rust program can embed the same parts, see [`engine::Engine`].

pub mod agent;
pub mod bus;
pub mod clock;
pub mod driver;
pub mod engine;
pub mod failpoint;
pub mod gateway;
pub mod metrics;
pub mod planted;
pub mod reads;
pub mod sidecar;
pub mod store;
pub mod telemetry;
