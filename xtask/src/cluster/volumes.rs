//! Volumes for claims: a folder each, as a `local` volume, which gets its group from the pod like a disk of a cloud would.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::api::Api;
use super::node;

const CLASS: &str = "standard";
const VOLUMES: &str = "/api/v1/persistentvolumes";

/// Makes what claims wait for, and removes what released volumes leave.
pub(super) fn provide(api: &Api, state: &Path) -> Result<()> {
    let claims: Value = api.get("/api/v1/persistentvolumeclaims")?;
    for claim in items(&claims).filter(|claim| waits(claim)) {
        let uid = claim["metadata"]["uid"].as_str().context("a claim without uid")?;
        let folder = folder(state, &format!("pvc-{uid}"));
        fs::create_dir_all(&folder)?;
        api.send("POST", VOLUMES, &build_volume(claim, &folder))?;
    }
    let volumes: Value = api.get(VOLUMES)?;
    for name in
        items(&volumes).filter(|volume| is_released(volume)).filter_map(|volume| volume["metadata"]["name"].as_str())
    {
        let folder = folder(state, name);
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        api.send("DELETE", &format!("{VOLUMES}/{name}"), &json!({}))?;
    }
    Ok(())
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

fn folder(state: &Path, volume: &str) -> PathBuf {
    state.join("volumes").join(volume)
}

fn waits(claim: &Value) -> bool {
    claim["spec"]["storageClassName"] == CLASS
        && claim["spec"]["volumeName"].is_null()
        && claim["metadata"]["deletionTimestamp"].is_null()
}

fn is_released(volume: &Value) -> bool {
    volume["spec"]["storageClassName"] == CLASS
        && volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        && (volume["status"]["phase"] == "Released" || volume["status"]["phase"] == "Failed")
        && volume["metadata"]["deletionTimestamp"].is_null()
}

fn build_volume(claim: &Value, folder: &Path) -> Value {
    let (metadata, spec) = (&claim["metadata"], &claim["spec"]);
    let on_this_node = json!([{ "key": "kubernetes.io/hostname", "operator": "In", "values": [node::NAME] }]);
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {
            "name": format!("pvc-{}", metadata["uid"].as_str().unwrap_or_default()),
            "annotations": { "pv.kubernetes.io/provisioned-by": "rhizon.dev/local" },
        },
        "spec": {
            "storageClassName": CLASS, "persistentVolumeReclaimPolicy": "Delete",
            "capacity": { "storage": spec["resources"]["requests"]["storage"] },
            "accessModes": spec["accessModes"], "volumeMode": "Filesystem",
            "claimRef": { "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": metadata["namespace"],
                "name": metadata["name"], "uid": metadata["uid"] },
            "local": { "path": folder },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": on_this_node }] } },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_waits_until_it_names_a_volume() {
        let mut claim = json!({ "metadata": { "uid": "u" }, "spec": { "storageClassName": "standard" } });
        assert!(waits(&claim));
        claim["spec"]["volumeName"] = json!("pvc-u");
        assert!(!waits(&claim));
    }

    #[test]
    fn only_released_volumes_that_may_go_are_removed() {
        let volume = |policy: &str, phase: &str| {
            json!({ "metadata": {}, "status": { "phase": phase },
                "spec": { "storageClassName": "standard", "persistentVolumeReclaimPolicy": policy } })
        };
        assert!(is_released(&volume("Delete", "Released")));
        assert!(!is_released(&volume("Retain", "Released")));
        assert!(!is_released(&volume("Delete", "Bound")));
    }
}
