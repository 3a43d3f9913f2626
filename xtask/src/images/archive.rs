//! Packs files into an image archive (`docker save`'s format), without Docker and without a registry. The same files give the same image.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Image, rootfs};
use crate::{exec, tools};

/// A tar file and the SHA-256 of its bytes.
pub(super) struct Layer {
    pub tar: PathBuf,
    pub digest: String,
}

pub(super) struct Packed {
    pub name: String,
    /// SHA-256 of the image's config, which names its layers: what the container runtime calls the image's id.
    pub digest: String,
    config: String,
    layers: Vec<Layer>,
}

/// Makes the layers and config of an image, in a folder that the caller removes.
pub(super) fn pack(image: &Image, folder: &Path) -> Result<Packed> {
    let mut layers = Vec::new();
    if let Some(base) = image.base {
        layers.push(rootfs::layer(base)?);
    }
    layers.push(pack_files(image, folder)?);
    let config = config(image, &layers).to_string();
    let digest = tools::hex(&Sha256::digest(config.as_bytes()));
    Ok(Packed { name: image.name.clone(), digest, config, layers })
}

/// Writes one archive with all of them; layers that several use are in it once.
pub(super) fn write(packed: &[&Packed], archive: &Path) -> Result<()> {
    let folder = archive.with_extension("folder");
    fs::create_dir_all(&folder)?;
    let mut manifest = Vec::new();
    for image in packed {
        fs::write(folder.join(format!("{}.json", image.digest)), &image.config)?;
        for layer in &image.layers {
            let place = folder.join(format!("{}.tar", layer.digest));
            if !place.exists() && fs::hard_link(&layer.tar, &place).is_err() {
                fs::copy(&layer.tar, &place)?;
            }
        }
        let layers: Vec<String> = image.layers.iter().map(|layer| format!("{}.tar", layer.digest)).collect();
        manifest
            .push(json!({ "Config": format!("{}.json", image.digest), "RepoTags": [image.name], "Layers": layers }));
    }
    fs::write(folder.join("manifest.json"), serde_json::to_string(&manifest)?)?;
    exec::run(
        exec::command("tar", ["--create", "--hard-dereference", "--file"]).arg(archive).arg("-C").arg(&folder).arg("."),
    )?;
    fs::remove_dir_all(&folder)?;
    Ok(())
}

fn pack_files(image: &Image, folder: &Path) -> Result<Layer> {
    let name = image.name.replace(['/', ':'], "_");
    let (root, tar) = (folder.join(&name), folder.join(format!("{name}.tar")));
    // World-writable like everywhere; nothing else in an image is.
    fs::create_dir_all(root.join("tmp"))?;
    for (source, place) in &image.files {
        let target = root.join(place.trim_start_matches('/'));
        fs::create_dir_all(target.parent().context("a file in an image has a folder")?)?;
        fs::copy(source, &target).with_context(|| format!("cannot copy {} into {}", source.display(), image.name))?;
        fs::set_permissions(&target, fs::Permissions::from_mode(0o755))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    let args = [
        "--create",
        "--sort=name",
        "--mtime=@0",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--format=gnu",
        "--file",
    ];
    exec::run(exec::command("tar", args).arg(&tar).arg("-C").arg(&root).args(tar_entries(&root)?))?;
    fs::remove_dir_all(&root)?;
    let digest = digest(&tar)?;
    Ok(Layer { tar, digest })
}

/// The names in the root, so that the root itself is no entry of the layer and keeps the base's mode.
fn tar_entries(root: &Path) -> Result<Vec<std::ffi::OsString>> {
    let mut names = fs::read_dir(root)?.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

pub(super) fn digest(path: &Path) -> Result<String> {
    let mut file = fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(tools::hex(&hash.finalize()));
        }
        hash.update(&buffer[..read]);
    }
}

fn config(image: &Image, layers: &[Layer]) -> Value {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let layers: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", layer.digest)).collect();
    json!({
        "architecture": architecture, "os": "linux",
        "config": {
            "User": image.user, "Entrypoint": image.entrypoint, "WorkingDir": "/",
            "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/tmp", "USER=nonroot"],
        },
        "rootfs": { "type": "layers", "diff_ids": layers },
    })
}
