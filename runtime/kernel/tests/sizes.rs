//! What an agent may ask for in one step.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use rhizon_kernel::egress::{self, Commit, Draft, InvalidAnswer, Reaction};
use rhizon_kernel::subject::Subject;
use rhizon_kernel::{Config, Envelope, Head, Limits, ingress};
use serde_json::value::to_raw_value;

const OUTPUT_BYTES: usize = 500_000;

fn react(outputs: usize, deliver_at: Option<&str>) -> Result<Commit, InvalidAnswer> {
    let config = Config {
        workspace: "w".into(),
        agent: "a".into(),
        subscribes: vec!["cmd.thing.do".parse().unwrap()],
        publishes: vec!["evt.thing.done".parse().unwrap()],
        authorization: vec![],
        limits: Limits::default(),
        from: 0,
        earlier: vec![],
    };
    let mut event = Envelope::new("1".into(), "/s".into(), "cmd.thing.do".parse().unwrap(), "thing".into());
    event.workspace = Some("w".into());
    let subject = Subject::new("gateway", &event.event_type, &event.subject, None).to_string();
    let arrival = ingress::decode(&config, &subject, &event.to_json());
    let draft = Draft {
        event_type: "evt.thing.done".into(),
        subject: None,
        target: None,
        deliver_at: deliver_at.map(str::to_owned),
        data: Some(to_raw_value(&"x".repeat(OUTPUT_BYTES)).unwrap()),
    };
    egress::react(
        &config,
        &Head::default(),
        &arrival,
        Reaction { outputs: vec![draft; outputs], ..Reaction::default() },
    )
}

#[test]
fn outputs_that_wait_count_in_both_their_forms() {
    let limit = Limits::default().decision_bytes;
    let many = limit / OUTPUT_BYTES;
    let at_once = react(many, None).unwrap();
    assert_eq!(at_once.bytes(), at_once.decided.len());
    let later = Some("2030-01-01T00:00:00Z");
    let error = react(many, later).unwrap_err();
    assert!(error.field == "outputs" && error.why.contains(&format!("at most {limit} are allowed")), "{error:?}");
    // Base64 makes four bytes of three.
    let fitting = react(many * 3 / 7, later).unwrap();
    assert!(fitting.bytes() > fitting.decided.len() / 3 * 7 && fitting.bytes() <= limit);
}
