//! The same images through Docker, from the Dockerfiles in `images/`, for a cluster of kind.

use anyhow::{Context, Result};

use crate::{dirs, exec, tools};

pub(super) fn build_and_load(version: &str) -> Result<()> {
    let nats = tools::version("nats-server")?;
    let natscli = tools::version("nats")?;
    let images = [
        ("operator", version, vec![]),
        ("runtime", version, vec![]),
        ("ledger", version, vec![]),
        ("permits", version, vec![]),
        ("nats", nats.as_str(), vec![format!("NATS_VERSION={nats}")]),
        ("tools", version, vec![format!("NATSCLI_VERSION={natscli}")]),
    ];
    for (part, tag, arguments) in images {
        let name = format!("localhost/rhizon/{part}:{tag}");
        let mut build =
            exec::command("docker", ["build", "--tag", &name, "--file", &format!("images/{part}.Dockerfile")]);
        for argument in arguments {
            build.args(["--build-arg", &argument]);
        }
        exec::stream(build.arg(".").current_dir(dirs::repository()))?;
        exec::run(&mut exec::command("kind", ["load", "docker-image", "--name", "rhizon", &name]))
            .with_context(|| format!("cannot load {name} into kind"))?;
    }
    Ok(())
}
