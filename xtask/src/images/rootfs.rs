//! The file systems under our binaries: a few Debian packages each, unpacked once into the cache.

use std::fs;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::archive::{self, Layer};
use crate::{dirs, exec, tools, ui};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// What a Rust binary needs.
    Plain,
    Python,
    /// PostgreSQL, which looks up its user's name and starts a shell.
    Postgres,
}

impl Base {
    fn packages(self) -> &'static str {
        match self {
            Self::Plain => "libc6,libgcc-s1,ca-certificates",
            Self::Python => "libc6,libgcc-s1,ca-certificates,python3-minimal,libpython3-stdlib",
            Self::Postgres => "libc6,coreutils,dash,openssl,postgresql",
        }
    }

    /// A command on the unpacked files, whose folder is `$1`.
    fn change(self) -> &'static str {
        match self {
            Self::Plain | Self::Python => "true",
            // Two thirds of it serve compiling of queries.
            Self::Postgres => {
                "rm -r \"$1\"/usr/lib/*/libLLVM* \"$1\"/usr/lib/postgresql/*/lib/bitcode \
                 && echo nonroot:x:65532:65532::/tmp:/bin/sh >\"$1\"/etc/passwd"
            }
        }
    }
}

pub(super) fn layer(base: Base) -> Result<Layer> {
    let release = release();
    let key = tools::hex(&Sha256::digest(format!(
        "2 {release} {} {} {}",
        base.packages(),
        base.change(),
        std::env::consts::ARCH
    )));
    let folder = dirs::cache()?.join("bases");
    fs::create_dir_all(&folder)?;
    let (tar, sum) = (folder.join(format!("{}.tar", &key[..12])), folder.join(format!("{}.sha256", &key[..12])));
    if !sum.exists() {
        ui::note(&format!("unpacking the {base:?} base of Debian {release}").to_lowercase());
        let unfinished = tar.with_extension("unfinished.tar");
        let include = format!("--include={}", base.packages());
        let hook = format!("--extract-hook={}", base.change());
        let args = ["--quiet", "--variant=extract", &include, &hook, &release];
        exec::run(exec::command("mmdebstrap", args).arg(&unfinished)).context("cannot make a base file system")?;
        fs::rename(&unfinished, &tar)?;
        fs::write(&sum, archive::digest(&tar)?)?;
    }
    let digest = fs::read_to_string(&sum)?;
    Ok(Layer { tar, digest })
}

/// The release of this machine: binaries built here need a C library at least as new as its own.
fn release() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    name.map_or_else(|| "bookworm".to_owned(), |name| name.trim_matches('"').to_owned())
}
