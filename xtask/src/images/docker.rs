//! The same images through Docker, from the Dockerfiles in `images/`, for a cluster of kind.

use anyhow::{Context, Result};

use crate::{dirs, exec, tools};

pub(super) fn build_and_load(parts: &[&str], version: &str) -> Result<()> {
    let nats = tools::version("nats-server")?;
    let natscli = tools::version("nats")?;
    for part in parts {
        let tag = if *part == "nats" { &nats } else { version };
        let name = format!("localhost/rhizon/{part}:{tag}");
        let mut build =
            exec::command("docker", ["build", "--tag", &name, "--file", &format!("images/{part}.Dockerfile")]);
        build.args([
            "--build-arg",
            &format!("NATS_VERSION={nats}"),
            "--build-arg",
            &format!("NATSCLI_VERSION={natscli}"),
        ]);
        exec::stream(build.arg(".").current_dir(dirs::repository()))?;
        exec::run(&mut exec::command("kind", ["load", "docker-image", "--name", "rhizon", &name]))
            .with_context(|| format!("cannot load {name} into kind"))?;
    }
    Ok(())
}
