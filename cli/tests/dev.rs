//! `rhizon dev` and the commands that talk to it, as a user starts them. Needs python3 and cargo, as the examples do.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Running, dev, rhizon, text};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

/// The sample through the example's agents, checked; what `verify` printed, which has the roots.
fn run_sample(state: &Path) -> String {
    let folder = example("permits");
    let mut command = dev(&folder, state);
    command.arg("--events").arg(folder.join("events.ndjson")).arg("--expect").arg(folder.join("expected.json"));
    let output = command.arg("--once").output().unwrap();
    let (out, err) = text(&output);
    assert!(output.status.success(), "{err}");
    assert!(err.contains("all 43 entities are as expected"), "{err}");
    out.lines().filter(|line| line.contains("are sound")).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_permits_example_gives_the_expected_result_whatever_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let calm = run_sample(&folder.path().join("calm"));
    assert_eq!(calm.lines().count(), 2, "{calm}");

    let killed = folder.path().join("killed");
    for _ in 0..2 {
        let mut run =
            Running::start(dev(&example("permits"), &killed).arg("--events").arg(example("permits/events.ndjson")));
        run.wait_for("all agents are up");
        run.process.kill().unwrap();
    }
    assert_eq!(run_sample(&killed), calm);
    assert_eq!(run_sample(&killed), calm, "a second start goes on from its stores");
}

#[test]
fn a_user_publishes_looks_and_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let mut dev = Running::start(&mut dev(&example("greeting"), &folder.path().join("state")));
    let url = dev.wait_for("  gateway ").trim().trim_start_matches("gateway ").to_owned();
    dev.wait_for("all agents are up");
    let run = |arguments: &[&str]| rhizon().args(["--gateway", &url]).args(arguments).output().unwrap();

    let file = folder.path().join("events.ndjson");
    let event = |id: u32, subject: &str| {
        format!(
            r#"{{"specversion":"1.0","id":"{id}","source":"/door","type":"cmd.person.greet","subject":"{subject}"}}"#
        )
    };
    std::fs::write(&file, format!("{}\n{}\n{}\n", event(1, "Ada"), event(2, "Ada"), event(2, "Ada"))).unwrap();
    let published = run(&["publish", file.to_str().unwrap()]);
    assert!(text(&published).0.starts_with("3 events accepted"), "{:?}", text(&published));

    // An event is accepted before its effect: looking again is right, looking for a fixed time is not.
    let state = loop {
        let state = text(&run(&["state", "greeter", "Ada", "-o", "json"])).0;
        if state.contains(r#""version":2"#) {
            break state;
        }
    };
    assert!(state.contains(r#""state":{"times":2}"#), "{state}");
    assert_eq!(text(&run(&["history", "greeter", "Ada"])).0.lines().count(), 3);

    let sound = run(&["verify", "greeter"]);
    assert!(text(&sound).0.contains("3 records of 1 entities are sound"), "{:?}", text(&sound));
    let journal = text(&run(&["export", "greeter"])).0;
    let changed = folder.path().join("journal.ndjson");
    std::fs::write(&changed, journal.replacen(r#""times":1"#, r#""times":7"#, 1)).unwrap();
    let wrong = rhizon().args(["verify", "--file", changed.to_str().unwrap()]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong).1.contains("record 2: "), "{:?}", text(&wrong));

    let refused = |line: &str| {
        let mut publish = rhizon();
        publish.args(["--gateway", &url, "publish", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut process = publish.spawn().unwrap();
        process.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
        let output = process.wait_with_output().unwrap();
        (output.status.code(), text(&output).1)
    };
    let (code, words) = refused(&event(3, "Bob").replace("/door", "/window"));
    assert_eq!((code, words.contains("line 1: source: ")), (Some(3), true), "{words}");
    let (code, words) = refused("{}");
    assert_eq!((code, words.contains("line 1: specversion: ")), (Some(2), true), "{words}");
    assert_eq!(run(&["state", "greeter", "nobody"]).status.code(), Some(1));
    dev.interrupt();
}

#[test]
fn the_sample_is_what_its_script_makes() {
    let check = Command::new("python3").arg(example("permits/make_sample.py")).arg("--check").output().unwrap();
    assert!(check.status.success(), "{:?}", text(&check));
}

#[test]
fn two_processes_do_not_share_their_stores() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = Running::start(&mut dev(&example("greeting"), folder.path()));
    first.wait_for("all agents are up");
    let second = dev(&example("greeting"), folder.path()).output().unwrap();
    assert_eq!(second.status.code(), Some(2));
    assert!(text(&second).1.contains("another `rhizon dev` runs"), "{:?}", text(&second));
    first.interrupt();
}
