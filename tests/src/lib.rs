//! What the tests of several crates share. The library depends on neither operator nor runtime, so both can use it.

pub mod nats;
pub mod permits;
pub mod postgres;
pub mod proxy;
pub mod tokens;
