//! The Debian packages that the cluster without Docker stands on.

use anyhow::Result;

use crate::exec;

/// A program, and the package that brings it.
const PROGRAMS: &[(&str, &str)] = &[
    ("containerd", "containerd"),
    ("containerd-shim-runc-v2", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("iptables-restore", "iptables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("setsid", "util-linux"),
    ("mmdebstrap", "mmdebstrap"),
    ("openssl", "openssl"),
];

const CNI_PLUGINS: &str = "/usr/lib/cni/ptp";

pub(super) fn ensure() -> Result<()> {
    let mut missing: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| !exec::exists(program)).map(|(_, package)| *package).collect();
    if !std::path::Path::new(CNI_PLUGINS).exists() {
        missing.push("containernetworking-plugins");
    }
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    crate::packages::install(&missing)
}
