//! The simulation can find faults: each that is planted in the driver is found by some seed of those that run every time.

use std::sync::Mutex;

use rhizon_runtime::planted::{Fault, plant};
use rhizon_simulation::run;

const SEEDS: u64 = 1_000;

/// The first seed that a fault breaks, and how.
fn find(fault: Fault) -> Option<(u64, String)> {
    plant(Some(fault));
    let found = (0..SEEDS).find_map(|seed| run(seed, false).violation.map(|violation| (seed, violation)));
    plant(None);
    found
}

#[test]
fn every_planted_fault_is_found() {
    let left = Mutex::new(Fault::ALL.to_vec());
    let missed = Mutex::new(Vec::new());
    let next = || left.lock().expect("no worker dies").pop();
    let work = || {
        while let Some(fault) = next() {
            match find(fault) {
                Some((seed, violation)) => {
                    println!("{fault:?}: seed {seed}: {}", violation.chars().take(160).collect::<String>());
                }
                None => missed.lock().expect("no worker dies").push(fault),
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let missed = missed.into_inner().expect("no worker dies");
    assert!(missed.is_empty(), "no seed below {SEEDS} finds {missed:?}");
}
