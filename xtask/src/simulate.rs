//! `cargo xtask simulate`: seeds of the driver's simulation, for long runs and to repeat one.

use anyhow::Result;

use crate::{dirs, exec};

/// `arguments` go to the simulation; built as the tests build it, so that a seed does the same.
pub(crate) fn simulate(arguments: &[String]) -> Result<()> {
    let mut command = exec::command("cargo", ["run", "--quiet", "--package", "rhizon-simulation", "--"]);
    exec::stream(command.args(arguments).current_dir(dirs::repository()))
}
