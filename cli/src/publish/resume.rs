//! Remembers how far a file was published, for `--resume`.
//!
//! It is a convenience and no guarantee: publishing everything again has the same result. A hash over what was accepted
//! makes sure that the file is still the one that was begun.

use std::path::{Path, PathBuf};

use rhizon_kernel::chain::Hash;
use serde::{Deserialize, Serialize};

use super::input::{Batch, Lines};
use crate::failure::Failure;

/// How many events the gateway has accepted, from the beginning of the file.
#[derive(Debug)]
pub(super) struct Mark {
    /// `None` for standard input, which can't be read again.
    path: Option<PathBuf>,
    pub(super) accepted: u64,
    hash: Hash,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    accepted: u64,
    hash: Hash,
}

impl Mark {
    /// Nothing was accepted yet.
    pub(super) fn of(workspace: &str, file: &Path) -> Self {
        let path = std::fs::canonicalize(file).ok().zip(state_dir()).map(|(file, folder)| {
            let name = Hash::of(&[workspace.as_bytes(), b"\0", file.as_os_str().as_encoded_bytes()]);
            folder.join(format!("publish-{name}.json"))
        });
        Self { path, accepted: 0, hash: Hash::ZERO }
    }

    pub(super) fn is_kept(&self) -> bool {
        self.path.is_some() && self.accepted > 0
    }

    /// Reads over what was accepted before.
    pub(super) async fn skip(&mut self, lines: &mut Lines) -> Result<(), Failure> {
        let Some(stored) = self.stored() else {
            return Err(Failure::Usage("there is nothing to resume: publish without --resume".to_owned()));
        };
        while self.accepted < stored.accepted {
            let Some((_, line)) = lines.next().await? else { break };
            self.take(&line);
        }
        if self.hash == stored.hash {
            return Ok(());
        }
        Err(Failure::Usage("the file is not the one that was begun: publish without --resume".to_owned()))
    }

    /// The batch was accepted.
    pub(super) fn advance(&mut self, batch: &Batch) -> Result<(), Failure> {
        batch.events().for_each(|line| self.take(line));
        let Some(path) = &self.path else { return Ok(()) };
        let text = serde_json::to_vec(&Stored { accepted: self.accepted, hash: self.hash }).unwrap_or_default();
        let write = || {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            std::fs::write(path, text)
        };
        write().map_err(|error| Failure::Usage(format!("cannot remember how far it is in {}: {error}", path.display())))
    }

    /// All was accepted: there is nothing to resume.
    pub(super) fn forget(&self) {
        if let Some(path) = &self.path {
            // A mark that stays can only be asked for with --resume, and then fits the file.
            let _ = std::fs::remove_file(path);
        }
    }

    fn take(&mut self, line: &str) {
        self.hash = Hash::of(&[&self.hash.0, line.as_bytes()]);
        self.accepted += 1;
    }

    fn stored(&self) -> Option<Stored> {
        serde_json::from_slice(&std::fs::read(self.path.as_ref()?).ok()?).ok()
    }
}

/// Where programs keep such things (XDG base directories).
fn state_dir() -> Option<PathBuf> {
    let given = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state"));
    Some(given.or_else(home)?.join("rhizon"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(folder: &Path) -> Mark {
        Mark { path: Some(folder.join("deep/mark.json")), accepted: 0, hash: Hash::ZERO }
    }

    #[tokio::test]
    async fn publishing_goes_on_behind_what_was_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let mut lines = Lines::of(b"1\n2\n3\n");
        let mut first = mark(folder.path());
        first.advance(&lines.batch(2).await.unwrap().unwrap()).unwrap();

        let mut again = Lines::of(b"1\n2\n3\n");
        let mut second = mark(folder.path());
        second.skip(&mut again).await.unwrap();
        assert_eq!(second.accepted, 2);
        assert_eq!(again.batch(9).await.unwrap().unwrap().body().as_ref(), b"[3]");

        second.forget();
        assert_eq!(mark(folder.path()).skip(&mut Lines::of(b"1\n")).await.unwrap_err().code(), 2);
    }

    #[tokio::test]
    async fn another_file_is_not_resumed() {
        let folder = tempfile::tempdir().unwrap();
        let mut lines = Lines::of(b"1\n2\n");
        mark(folder.path()).advance(&lines.batch(2).await.unwrap().unwrap()).unwrap();
        for other in [b"1\n3\n".as_slice(), b"1\n"] {
            let failure = mark(folder.path()).skip(&mut Lines::of(other)).await.unwrap_err();
            assert!(failure.to_string().contains("not the one that was begun"), "{failure}");
        }
    }
}
