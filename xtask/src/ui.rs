//! What a person sees: steps with their times, progress where a line would stand still, and waiting that says for what.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use console::style;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Turns Ctrl-C into an error at the next [`check_interrupt`], so that whoever started something can stop it again.
pub(crate) fn catch_interrupt() -> Result<()> {
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::SeqCst))?;
    Ok(())
}

pub(crate) fn check_interrupt() -> Result<()> {
    if INTERRUPTED.load(Ordering::SeqCst) {
        bail!("interrupted");
    }
    Ok(())
}

/// From here on Ctrl-C counts anew: cleaning up must not stop at the interrupt that caused it.
pub(crate) fn forget_interrupt() {
    INTERRUPTED.store(false, Ordering::SeqCst);
}

/// Runs one named step and prints how long it took.
pub(crate) fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("{} {}", style("▸").cyan().for_stderr(), style(name).bold().for_stderr());
    let start = Instant::now();
    let result = check_interrupt().and_then(|()| work());
    let took = seconds(start.elapsed());
    match &result {
        Ok(_) => eprintln!("  {} {name} {}", style("✓").green().for_stderr(), style(took).dim().for_stderr()),
        Err(_) => eprintln!("  {} {name} {}", style("✗").red().for_stderr(), style(took).dim().for_stderr()),
    }
    result
}

/// A remark inside a step.
pub(crate) fn note(text: &str) {
    eprintln!("    {text}");
}

pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// Asks `probe` until it has an answer. Says what it waits for when that takes longer than two seconds.
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    let mut announced = false;
    loop {
        check_interrupt()?;
        let last = match probe() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if start.elapsed() > limit {
            let detail = last.map(|error| format!(": {error:#}")).unwrap_or_default();
            bail!("waited {} for {what}, in vain{detail}", seconds(limit));
        }
        if !announced && start.elapsed() > Duration::from_secs(2) {
            note(&format!("waiting for {what}"));
            announced = true;
        }
        sleep(Duration::from_millis(150));
    }
}

/// A bar on a terminal; elsewhere nothing moves, and the caller's notes say the same in lines.
pub(crate) fn bar(length: u64, message: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("    {msg} {wide_bar} {pos}/{len} {elapsed}") {
        bar.set_style(style);
    }
    bar.set_message(message.to_owned());
    bar
}
