//! Places where a test lets the process die or stand still: the numbered steps of the driver (its picture shows them). They
//! exist in test builds with the feature `failpoints` only; in any other build, and in every release build, `reached` is empty.
//!
//! `RHIZON_FAILPOINT=<step>:<time>:<kill|stop>` names a step by its number, and which time it is reached.

/// A step of the driver, with its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The epoch is durable.
    Claimed = 1,
    /// Outputs of a former run are read from the journal, and not published.
    Recovering = 2,
    /// The broker has them.
    Recovered = 3,
    /// The consumer is at the store's position.
    Attached = 4,
    Pulled = 5,
    /// Heads and known identities are there.
    Loaded = 6,
    /// A lone try is counted, and not made.
    Counted = 7,
    /// The agent is about to be asked.
    Calling = 8,
    Answered = 9,
    Appending = 10,
    /// The store is in the middle: written and not committed, or in the journal and not in its cache.
    Written = 11,
    /// Durable, and the driver does not know.
    Appended = 12,
    /// The broker is about to be told of the position.
    Acknowledging = 13,
    Publishing = 14,
    /// The broker has the outputs, and the driver does not know.
    Published = 15,
    /// The store is about to be told what is published.
    Marking = 16,
    /// What is due is about to be published.
    Firing = 17,
    /// The broker has it, and the store has not forgotten it.
    Fired = 18,
}

#[cfg(all(feature = "failpoints", debug_assertions))]
mod switch {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    use super::Step;

    /// Names the step, the time and what happens then.
    pub const VARIABLE: &str = "RHIZON_FAILPOINT";

    struct Armed {
        step: u8,
        time: u32,
        signal: Signal,
    }

    fn armed() -> Option<&'static Armed> {
        static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
        let read = || {
            let text = std::env::var(VARIABLE).ok()?;
            let parsed = parse(&text);
            assert!(parsed.is_some(), "{VARIABLE}={text} is not <step>:<time>:<kill|stop>");
            parsed
        };
        ARMED.get_or_init(read).as_ref()
    }

    fn parse(text: &str) -> Option<Armed> {
        let (step, rest) = text.split_once(':')?;
        let (time, what) = rest.split_once(':')?;
        let signal = match what {
            "kill" => Signal::KILL,
            "stop" => Signal::STOP,
            _ => return None,
        };
        Some(Armed { step: step.parse().ok()?, time: time.parse().ok()?, signal })
    }

    pub(crate) fn reached(step: Step) {
        static TIMES: AtomicU32 = AtomicU32::new(0);
        let Some(armed) = armed().filter(|armed| armed.step == step as u8) else { return };
        if TIMES.fetch_add(1, Ordering::Relaxed) + 1 == armed.time {
            eprintln!("failpoint: step {} ({step:?}), time {}", armed.step, armed.time);
            kill_process(getpid(), armed.signal).expect("a process may signal itself");
        }
    }
}

#[cfg(not(all(feature = "failpoints", debug_assertions)))]
mod switch {
    pub(crate) const fn reached(_: super::Step) {}
}

#[cfg(all(feature = "failpoints", debug_assertions))]
pub use switch::VARIABLE;
pub(crate) use switch::reached;
