//! What a bare cluster lacks: enforcement of network policies and volumes for claims. One background process does both; it is
//! this very program, copied beside the cluster's state, so that building xtask anew does not disturb it.

use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;
use std::{env, fs, thread};

use anyhow::{Context, Result};

use super::api::Api;
use super::{Cluster, node, volumes};
use crate::netpol::Enforcer;
use crate::{exec, tools};

pub(super) const NAME: &str = "addons";
pub(super) const PROXY: &str = "addons-proxy";

const WATCHED: &[&str] = &[
    "/apis/networking.k8s.io/v1/networkpolicies",
    "/api/v1/pods",
    "/api/v1/namespaces",
    "/api/v1/persistentvolumeclaims",
    "/api/v1/persistentvolumes",
];

/// Changes that come together are answered together.
const GATHER: Duration = Duration::from_millis(50);
/// What nobody told us about, such as rules that another program removed, is looked for this often.
const LOOK: Duration = Duration::from_secs(5);

/// Starts both processes; restarts the helper when this program is another than the one that was copied.
pub(super) fn ensure(cluster: &Cluster) -> Result<()> {
    let socket = format!("{}/addons.sock", node::RUN);
    let mut proxy = exec::command(tools::path("kubectl")?, ["proxy", "--unix-socket", &socket, "--kubeconfig"]);
    proxy.arg(cluster.client_config("addons"));
    cluster.start(PROXY, &mut proxy)?;
    let copy = cluster.state.join("addons");
    let current = fs::read(env::current_exe()?).context("cannot read this program")?;
    if fs::read(&copy).unwrap_or_default() != current {
        cluster.daemons().stop(NAME)?;
        // Renamed into place: a file that was just running can't be written to at once.
        let unfinished = copy.with_extension("unfinished");
        fs::copy(env::current_exe()?, &unfinished).context("cannot copy this program")?;
        fs::rename(&unfinished, &copy)?;
    }
    let mut command = exec::command(&copy, ["addons", "--socket", &socket, "--state"]);
    command.arg(&cluster.state).env("RUST_BACKTRACE", "1");
    cluster.start(NAME, &mut command)
}

/// The hidden command `addons`: never ends by itself.
pub(crate) fn run(socket: &Path, state: &Path) -> Result<()> {
    let api = Api { socket: socket.to_owned() };
    let (sender, changes) = mpsc::channel();
    for path in WATCHED {
        let (api, sender) = (api.clone(), sender.clone());
        thread::Builder::new().name((*path).to_owned()).spawn(move || watch(&api, path, &sender))?;
    }
    let mut enforcer = Enforcer::default();
    loop {
        if changes.recv_timeout(LOOK) == Err(RecvTimeoutError::Disconnected) {
            return Ok(());
        }
        thread::sleep(GATHER);
        while changes.try_recv().is_ok() {}
        for (what, result) in [("policies", enforcer.enforce(&api)), ("volumes", volumes::provide(&api, state))] {
            if let Err(error) = result {
                eprintln!("{what}: {error:#}");
            }
        }
    }
}

fn watch(api: &Api, path: &str, sender: &Sender<()>) {
    loop {
        let _ = api.watch(path, || {
            let _ = sender.send(());
        });
        // The proxy or the API server is not there (yet): the next attempt is cheap.
        thread::sleep(Duration::from_millis(300));
    }
}
