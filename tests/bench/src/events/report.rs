//! Rows and roots for people, or as JSON.

use rhizon_api::agent::Ordering;
use serde_json::{Value, json};

use super::Outcome;
use super::log::Workload;
use super::promise::{AGENTS, Verdict};

pub(super) fn print_head(workload: &Workload) {
    println!("{} events of {}, fsync before every acknowledgement", workload.events, workload.path.display());
    println!(
        "{:>3}  {:<9} {:>5} {:>11} {:>6} {:>8}  {:<8} {:>8}  {:<8}  {:<8}  states",
        "run", "store", "batch", "concurrency", "shards", "replicas", "ordering", "events/s", AGENTS[0], AGENTS[1]
    );
}

pub(super) fn print_row(outcome: &Outcome, events: u64) {
    let run = outcome.run;
    let root = |index: usize| {
        outcome.kept.as_ref().map_or_else(|| "–".to_owned(), |kept| kept[index].root().to_string()[..8].to_owned())
    };
    println!(
        "{:>3}  {:<9} {:>5} {:>11} {:>6} {:>8}  {:<8} {:>8.0}  {:<8}  {:<8}  {}",
        outcome.number,
        run.store.name(),
        run.batch,
        run.concurrency,
        run.shards,
        replicas(outcome),
        ordering(run.ordering),
        outcome.rate(events),
        root(0),
        root(1),
        outcome.states()
    );
}

/// Shards move in the middle of a run with several.
fn replicas(outcome: &Outcome) -> String {
    match outcome.run.replicas {
        1 => "1".to_owned(),
        before => format!("{before} → {}", before - 1),
    }
}

fn ordering(ordering: Ordering) -> &'static str {
    match ordering {
        Ordering::Stream => "Stream",
        Ordering::Entity => "Entity",
    }
}

pub(super) fn print_verdict(verdict: &Verdict) {
    let Verdict { agent, promised, root, broken, others, others_equal } = verdict;
    let root = root.as_deref().unwrap_or("none");
    let equal = promised - broken.len();
    println!("{agent}: the same root is promised for {promised} runs, and {equal} have it: {root}");
    if *others > 0 {
        println!(
            "{agent}: {others} runs are promised none, as streams meet or overtake in them; {others_equal} have it"
        );
    }
}

pub(super) fn as_json(workload: &Workload, outcomes: &[Outcome], verdicts: &[Verdict], failures: &[String]) -> Value {
    let Workload { events, .. } = workload;
    let row = |outcome: &Outcome| {
        let run = outcome.run;
        let root = |index: usize| outcome.kept.as_ref().map(|kept| kept[index].root().to_string());
        json!({
            "run": outcome.number, "store": run.store.name(), "batch": run.batch, "concurrency": run.concurrency,
            "shards": run.shards, "replicas": run.replicas, "ordering": ordering(run.ordering),
            "eventsPerSecond": outcome.rate(*events), "roots": { AGENTS[0]: root(0), AGENTS[1]: root(1) },
            "states": outcome.states(),
        })
    };
    let verdict = |verdict: &Verdict| {
        let Verdict { agent, promised, root, broken, others, others_equal } = verdict;
        json!({
            "agent": agent, "promised": promised, "root": root, "equal": promised - broken.len(),
            "others": others, "othersEqual": others_equal,
        })
    };
    json!({
        "events": events, "runs": outcomes.iter().map(row).collect::<Vec<_>>(),
        "roots": verdicts.iter().map(verdict).collect::<Vec<_>>(), "failures": failures,
    })
}
