//! The stores that are measured, and where they are on this machine.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::ValueEnum;
use rhizon_api::agent::StoreKind;
use rhizon_api::settings::{self, Sidecar};
use rhizon_tests::postgres;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Store {
    #[value(name = "SQLite")]
    Sqlite,
    #[value(name = "Postgres")]
    Postgres,
    #[value(name = "JetStream")]
    JetStream,
}

impl Store {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "Postgres",
            Self::JetStream => "JetStream",
        }
    }

    pub(crate) fn kind(self) -> StoreKind {
        match self {
            Self::Sqlite => StoreKind::SQLite,
            Self::Postgres => StoreKind::Postgres,
            Self::JetStream => StoreKind::JetStream,
        }
    }

    /// The server that the store needs besides the broker.
    pub(crate) async fn server(self) -> anyhow::Result<Option<Database>> {
        Ok(if self == Self::Postgres { Some(Database::start().await?) } else { None })
    }
}

/// A PostgreSQL, for as long as the value lives.
pub(crate) struct Database {
    url_file: PathBuf,
    _dir: tempfile::TempDir,
    _server: postgres::Server,
}

impl Database {
    async fn start() -> anyhow::Result<Self> {
        let server = tokio::task::spawn_blocking(postgres::start).await?;
        let dir = tempfile::tempdir()?;
        let url_file = dir.path().join("url");
        std::fs::write(&url_file, server.url())?;
        Ok(Self { url_file, _dir: dir, _server: server })
    }
}

/// Puts the stores of a pod's shards into its folder, or into schemas of this run.
pub(crate) fn place(settings: &mut Sidecar, dir: &Path, database: Option<&Database>, run: &str) -> anyhow::Result<()> {
    for shard in &mut settings.shards {
        match &mut shard.store {
            settings::Store::Sqlite { path } | settings::Store::JetStream { cache: path, .. } => {
                *path = dir.join(path.file_name().context("a store's file")?);
            }
            settings::Store::Postgres { url_file, schema, account } => {
                url_file.clone_from(&database.context("a server for Postgres")?.url_file);
                *schema = format!("{schema}_{run}");
                run.clone_into(account);
            }
        }
    }
    Ok(())
}
