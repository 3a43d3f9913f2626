//! The engine in a Rust program: an agent that counts, a bus and a store in memory.

use rhizon_kernel::egress::{Reaction, StateChange};
use rhizon_kernel::{Config, Envelope, Limits};
use rhizon_runtime::agent::{Answer, InProcess, Item};
use rhizon_runtime::bus::local::LocalStream;
use rhizon_runtime::clock::SystemClock;
use rhizon_runtime::engine::Engine;
use rhizon_runtime::store::memory::MemoryStore;
use serde_json::value::RawValue;

/// Counts the events of an entity.
fn count(item: &Item) -> Answer {
    let before: u64 = item.state.as_ref().and_then(|state| state.get().parse().ok()).unwrap_or(0);
    match RawValue::from_string((before + 1).to_string()) {
        Ok(state) => Answer::Reaction(Reaction { outputs: vec![], state: StateChange::Set(state) }),
        Err(error) => Answer::Failed(rhizon_kernel::ingress::Reason::new("agent_failed", error.to_string())),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let config = Config {
        workspace: "demo".into(),
        agent: "counter".into(),
        subscribes: vec!["cmd.door.open".parse()?],
        publishes: vec![],
        authorization: vec![],
        limits: Limits::default(),
        from: 0,
        earlier: Vec::new(),
    };
    let engine =
        Engine::start(config, InProcess(count), LocalStream::in_memory(), MemoryStore::default(), SystemClock).await?;
    for id in ["1", "2", "2"] {
        let mut event = Envelope::new(id.into(), "/doors".into(), "cmd.door.open".parse()?, "front door".into());
        event.workspace = Some("demo".into());
        println!("event {id}: {:?}", engine.process_event(&event).await?);
    }
    Ok(())
}
