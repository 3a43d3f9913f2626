//! Thousands of seeds in every run, and each the same every time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use rhizon_simulation::{Outcome, run};

const SEEDS: u64 = 8_000;

/// Runs seeds on all cores; each is alone on its thread.
fn run_all(seeds: std::ops::Range<u64>) -> Vec<Outcome> {
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mut outcomes = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return outcomes;
            }
            outcomes.push(run(seed, false));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker ends")).collect()
    })
}

#[test]
fn whatever_a_seed_does_every_event_has_one_effect() {
    let outcomes = run_all(0..SEEDS);
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    for outcome in &outcomes {
        for (fault, count) in &outcome.faults {
            *faults.entry(fault).or_default() += count;
        }
    }
    println!("{faults:?}");
    let failed: Vec<String> = outcomes
        .iter()
        .filter_map(|outcome| {
            let violation = outcome.violation.as_ref()?;
            Some(format!("seed {}: {violation}\n  again: {}", outcome.seed, outcome.command()))
        })
        .collect();
    assert!(failed.is_empty(), "{} seeds fail\n{}", failed.len(), failed.join("\n"));
    for fault in [
        "ack lost",
        "agent killed",
        "agent slow",
        "agent unreachable",
        "attach failed",
        "attach unsure",
        "crash",
        "dealt with",
        "delivered again",
        "delivery lost",
        "disk full",
        "fenced",
        "handed to nobody",
        "killed",
        "prefix of a batch",
        "publish refused",
        "publish unsure",
        "pull lost",
        "reconnected",
        "rules changed",
        "second instance",
        "shard moved",
        "slow",
        "stop",
        "store refused",
        "store unsure",
        "stream full",
    ] {
        let times = faults.get(fault).copied().unwrap_or_default();
        assert!(times >= 20, "'{fault}' happened {times} times: the seeds do not try it");
    }
}

#[test]
fn a_seed_is_the_same_byte_for_byte() {
    for seed in 0..20 {
        let (once, twice) = (run(seed, false), run(seed, false));
        assert_eq!(once, twice, "seed {seed}");
        assert_ne!(once.trace, run(seed + 1, false).trace, "another seed is another run");
    }
}
