//! The arguments of `rhizon dead`.

use std::str::FromStr;
use std::time::Duration;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum Dead {
    /// The dead letters that nobody has dealt with.
    List {
        agent: String,
        #[command(flatten)]
        filter: Filter,
    },
    /// One dead letter: the event, why it was given up, after what answer.
    Show {
        agent: String,
        /// Its key, or how it begins.
        key: String,
    },
    /// Send dead letters again, each as a new event that is caused by the old one.
    Redrive {
        agent: String,
        #[command(flatten)]
        choice: Choice,
        /// At most so many a second, such as 10/s.
        #[arg(long)]
        rate: Option<Rate>,
    },
    /// Close dead letters as they are.
    Drop {
        agent: String,
        #[command(flatten)]
        choice: Choice,
    },
}

#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Filter {
    /// Only events of this type.
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) event_type: Option<String>,
    /// Only those that were given up for this reason, by its code.
    #[arg(long, value_name = "CODE")]
    pub(crate) reason: Option<String>,
    /// Only those of this entity.
    #[arg(long)]
    pub(crate) entity: Option<String>,
}

/// One, those that a filter leaves, or all.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Choice {
    /// Key of one dead letter, or how it begins.
    #[arg(conflicts_with_all = ["event_type", "reason", "entity", "all"])]
    pub(crate) key: Option<String>,
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// All that are open.
    #[arg(long, conflicts_with_all = ["event_type", "reason", "entity"])]
    pub(crate) all: bool,
}

impl Choice {
    /// Whether somebody has said which ones; none said is not all.
    pub(crate) fn is_made(&self) -> bool {
        let Filter { event_type, reason, entity } = &self.filter;
        self.all || [&self.key, event_type, reason, entity].into_iter().any(Option::is_some)
    }
}

/// The time between two commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate(pub(crate) Duration);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix("/s").and_then(|number| number.parse::<f64>().ok());
        let each =
            number.and_then(|number| Duration::try_from_secs_f64(1.0 / number).ok()).filter(|each| !each.is_zero());
        each.map(Self).ok_or_else(|| "write it as events per second, such as 10/s".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_events_per_second() {
        assert_eq!("10/s".parse(), Ok(Rate(Duration::from_millis(100))));
        assert_eq!("0.5/s".parse(), Ok(Rate(Duration::from_secs(2))));
        for wrong in ["10", "0/s", "-1/s", "x/s", ""] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }
}
