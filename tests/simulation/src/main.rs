//! `cargo xtask simulate`: runs seeds until one fails.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use rhizon_simulation::run;

#[derive(Parser)]
#[command(name = "simulate", about = "Runs the driver in a simulated world, seed after seed")]
struct Arguments {
    /// How many seeds
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Print what happens
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    let Arguments { seeds, from, trace } = Arguments::parse();
    let begun = Instant::now();
    let (mut faults, mut failed) = (BTreeMap::<&str, u64>::new(), 0);
    for seed in from..from + seeds {
        let outcome = run(seed, trace);
        for (fault, count) in &outcome.faults {
            *faults.entry(fault).or_default() += count;
        }
        if let Some(violation) = &outcome.violation {
            println!("seed {seed} fails: {violation}\n  again: {}", outcome.command());
            failed += 1;
        }
        if trace {
            println!("seed {seed}: trace {:016x}", outcome.trace);
        }
    }
    println!("{seeds} seeds in {:.1} s, {failed} failed; faults: {faults:?}", begun.elapsed().as_secs_f64());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
