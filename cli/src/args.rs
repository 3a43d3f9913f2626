//! The command line.

mod dead;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::journal::fold::At;
pub(crate) use dead::{Choice, Dead, Rate};

const BATCH_EVENTS: u16 = 500;

/// Publish events to a Rhizon workspace, look at what its agents keep, and verify their journals.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) target: Target,
    /// How to print results.
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a workspace on this machine, from the YAML of a folder.
    Dev(Dev),
    /// Publish CloudEvents, one JSON object a line.
    Publish(Publish),
    /// What an agent keeps: of all its entities, or of one.
    State {
        agent: String,
        entity: Option<String>,
        /// As it was with this record of the journal, or at this time: a sequence, or a time as RFC 3339 writes it.
        #[arg(long)]
        at: Option<At>,
    },
    /// The journal records of one entity.
    History { agent: String, entity: String },
    /// Which record last set a field of an entity, and who was behind it.
    Why {
        agent: String,
        entity: String,
        /// A JSON pointer such as /address/street, or a dotted path. Default: every field at the top.
        field: Option<String>,
    },
    /// The tree of causes and effects that an event belongs to, across all agents.
    Trace {
        /// The event's id.
        id: String,
        /// Its source, when several events have the id.
        #[arg(long)]
        source: Option<String>,
    },
    /// What became of an event, by each agent.
    Event { source: String, id: String },
    /// Take back an event that is not due yet.
    Cancel {
        source: String,
        id: String,
        /// For this agent only.
        #[arg(long)]
        agent: Option<String>,
    },
    /// Look at an agent's dead letters, send them again, or drop them.
    #[command(subcommand)]
    Dead(Dead),
    /// Check an agent's journal on this machine: compute every hash and every decision anew.
    Verify {
        #[arg(required_unless_present = "file", conflicts_with = "file")]
        agent: Option<String>,
        /// A journal that `rhizon export` has written, instead of one in a workspace.
        #[arg(long)]
        file: Option<PathBuf>,
    },
    /// Write an agent's journal to standard output, one record a line.
    Export {
        agent: String,
        /// Which of the agent's shards; each has a journal of its own.
        #[arg(long, default_value_t = 0)]
        shard: u32,
    },
    /// Compare two journals that `rhizon export` has written, entity by entity.
    Diff { a: PathBuf, b: PathBuf },
    /// The workspace's agents, and how far they are.
    Status,
    /// Becomes an agent's process that ends with `rhizon dev`.
    #[command(hide = true)]
    AgentProcess {
        parent: u32,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Dev {
    /// Folder with the YAML of one workspace and its agents.
    pub(crate) dir: PathBuf,
    /// Where the gateway listens.
    #[arg(long, default_value = "127.0.0.1:8088")]
    pub(crate) listen: SocketAddr,
    /// Folder of the stream and the stores. Default: .rhizon in DIR.
    #[arg(long)]
    pub(crate) state: Option<PathBuf>,
    /// Subject of the access entry that every caller has. Default: the first one.
    #[arg(long = "as")]
    pub(crate) caller: Option<String>,
    /// Publish this file when the agents are up.
    #[arg(long)]
    pub(crate) events: Option<PathBuf>,
    /// Wait until the agents' states are what this file expects.
    #[arg(long)]
    pub(crate) expect: Option<PathBuf>,
    /// End when that is done.
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Publish {
    /// A file with one CloudEvent a line; `-` is standard input.
    pub(crate) file: PathBuf,
    /// Go on behind the last event that was accepted before an interruption.
    #[arg(long)]
    pub(crate) resume: bool,
    /// Events of one request.
    #[arg(long, default_value_t = BATCH_EVENTS, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) batch: u16,
    /// How long to go on trying while the gateway or the broker is away, or the workspace is full, such as 90s.
    #[arg(long, default_value = "2m", value_parser = duration)]
    pub(crate) patience: Duration,
    /// Publish one event at a time, and wait so many seconds for what becomes of it; needs the right to read.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u8).range(1..=30), conflicts_with = "batch")]
    pub(crate) wait: Option<u8>,
}

/// Which workspace, and as whom.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Target {
    /// The workspace. Default: the only one there is, or the one of the current context's namespace.
    #[arg(long, short, global = true)]
    pub(crate) workspace: Option<String>,
    /// URL of a gateway, such as http://127.0.0.1:8088. Default: by port-forward through the kubeconfig.
    #[arg(long, global = true, env = "RHIZON_GATEWAY")]
    pub(crate) gateway: Option<String>,
    /// A token for the audience rhizon/<workspace>. Default: one is asked of the API server.
    #[arg(long, global = true, env = "RHIZON_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// The service account to ask a token for, NAME or NAMESPACE/NAME. Default: the only one that the workspace gives access.
    #[arg(long, global = true)]
    pub(crate) service_account: Option<String>,
}

impl Publish {
    /// All of a file, as without options.
    pub(crate) fn of_file(file: &Path) -> Self {
        let patience = Duration::from_mins(2);
        Self { file: file.to_owned(), resume: false, batch: BATCH_EVENTS, patience, wait: None }
    }
}

impl Target {
    /// A gateway that asks for no token.
    pub(crate) fn of_gateway(url: &str) -> Self {
        Self { workspace: None, gateway: Some(url.to_owned()), token: None, service_account: None }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

/// As custom resources write it.
fn duration(text: &str) -> Result<Duration, String> {
    let duration: rhizon_api::units::Duration = text.parse().map_err(|error| format!("{error}"))?;
    Ok(Duration::from_millis(duration.as_ms()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn global_flags_may_stand_behind_the_command() {
        let args = Args::try_parse_from(["rhizon", "state", "permits", "-o", "json", "--workspace", "w"]).unwrap();
        assert_eq!((args.output, args.target.workspace.as_deref()), (Output::Json, Some("w")));
        assert!(Args::try_parse_from(["rhizon", "verify"]).is_err());
        assert!(Args::try_parse_from(["rhizon", "verify", "a", "--file", "b"]).is_err());
        assert!(Args::try_parse_from(["rhizon", "publish", "-", "--batch", "0"]).is_err());
    }

    #[test]
    fn commands_on_many_dead_letters_must_be_meant() {
        let choice = |arguments: &[&str]| {
            let args = Args::try_parse_from(["rhizon", "dead", "redrive", "a"].iter().chain(arguments)).ok()?;
            match args.command {
                Command::Dead(Dead::Redrive { choice, .. }) => Some(choice.is_made()),
                _ => None,
            }
        };
        for made in [&["3f"][..], &["--all", "--rate", "5/s"], &["--type", "cmd.a.b", "--entity", "x"]] {
            assert_eq!(choice(made), Some(true), "{made:?}");
        }
        assert_eq!(choice(&["--rate", "5/s"]), Some(false));
        for contrary in [&["3f", "--all"][..], &["--all", "--entity", "x"]] {
            assert_eq!(choice(contrary), None, "{contrary:?}");
        }
    }
}
