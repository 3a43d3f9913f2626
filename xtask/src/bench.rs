//! `cargo xtask bench`: the pipeline's figures, with real processes and without a cluster.

use anyhow::Result;

use crate::{dirs, exec, packages, tools, ui};

/// Builds what is measured and runs it; `arguments` go to the benchmark.
pub(crate) fn bench(arguments: &[String]) -> Result<()> {
    let server = tools::path("nats-server")?;
    packages::ensure_postgres()?;
    let repository = dirs::repository();
    let packages = ["rhizon-runtime", "rhizon-bench", "ledger"].into_iter().flat_map(|package| ["--package", package]);
    let build = ["build", "--profile", "dist", "--quiet"].into_iter().chain(packages);
    ui::step("build with all optimisations (minutes at first)", || {
        exec::stream(exec::command("cargo", build).current_dir(&repository))
    })?;
    let binaries = repository.join("target/dist");
    let mut command = exec::command(binaries.join("rhizon-bench"), ["run", "--runtime"]);
    command.arg(binaries.join("rhizon-runtime")).args(arguments).env("RHIZON_NATS_SERVER", server);
    exec::stream(&mut command)
}
