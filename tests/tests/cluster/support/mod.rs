//! What the tests on a cluster have in common.

pub(crate) mod broker;
pub(crate) mod cluster;
pub(crate) mod example;
pub(crate) mod installation;
pub(crate) mod local;
pub(crate) mod log;
pub(crate) mod node;
pub(crate) mod pods;
pub(crate) mod rhizon;
pub(crate) mod wait;
pub(crate) mod workspace;
