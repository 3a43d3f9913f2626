//! Debian packages that programs come from, installed when they are missing.

use anyhow::{Context, Result, bail};

use crate::{exec, ui};

/// Where Debian keeps the server's programs, which are not on the PATH.
const POSTGRES: &str = "/usr/lib/postgresql";

/// The tests start a real PostgreSQL.
pub(crate) fn ensure_postgres() -> Result<()> {
    let is_there = exec::exists("postgres") || std::path::Path::new(POSTGRES).exists();
    if is_there { Ok(()) } else { install(&["postgresql"]) }
}

pub(crate) fn install(missing: &[&str]) -> Result<()> {
    if !exec::exists("apt-get") {
        bail!("these packages are missing and there is no apt-get to install them: {}", missing.join(" "));
    }
    ui::note(&format!("installing {}", missing.join(" ")));
    exec::run(&mut exec::command("apt-get", ["update", "-q"]))?;
    let args = ["install", "-y", "-q", "--no-install-recommends"];
    let mut install = exec::command("apt-get", args.iter().chain(missing));
    exec::run(install.env("DEBIAN_FRONTEND", "noninteractive"))
        .with_context(|| format!("cannot install {}; install them by hand and try again", missing.join(" ")))
}
