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
}

impl Base {
    fn packages(self) -> &'static str {
        match self {
            Self::Plain => "libc6,libgcc-s1,ca-certificates",
            Self::Python => "libc6,libgcc-s1,ca-certificates,python3-minimal,libpython3-stdlib",
        }
    }
}

pub(super) fn layer(base: Base) -> Result<Layer> {
    let release = release();
    let key = tools::hex(&Sha256::digest(format!("1 {release} {} {}", base.packages(), std::env::consts::ARCH)));
    let folder = dirs::cache()?.join("bases");
    fs::create_dir_all(&folder)?;
    let (tar, sum) = (folder.join(format!("{}.tar", &key[..12])), folder.join(format!("{}.sha256", &key[..12])));
    if !sum.exists() {
        ui::note(&format!("unpacking the {base:?} base of Debian {release}").to_lowercase());
        let unfinished = tar.with_extension("unfinished.tar");
        let include = format!("--include={}", base.packages());
        let args = ["--quiet", "--variant=extract", &include, &release];
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
