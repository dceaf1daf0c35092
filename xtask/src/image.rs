//! `cargo xtask image`: writes the image of the syncer as an OCI archive.
//!
//! One layer with one static program, no base image and no container engine. The same program gives the same bytes: no times,
//! no owners, sorted entries. `ctr images import`, `podman load` and `skopeo copy oci-archive:` read it.
//!
//! *Sources*: OCI image specification 1.1 (layout, manifest, config).

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::fs;
use std::io::{Read as _, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use flate2::read::GzDecoder;
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::syncer::{self, Build, PROGRAM};

/// The image's name, as `manifests/deployment.yaml` has it.
const NAME: &str = concat!("ghcr.io/virtualcluster/vc-syncer:", env!("CARGO_PKG_VERSION"));

/// User and group that the program runs as: nobody's, by the convention of distroless images.
const USER: &str = "65532:65532";

/// Nothing in the image says when it was made.
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// Writes the image with this program in it, or with one built first.
pub(crate) async fn run(binary: Option<&Path>) -> anyhow::Result<()> {
    let built;
    let binary = if let Some(given) = binary {
        given
    } else {
        built = syncer::build(Build::Static).await?;
        &built
    };
    let program = fs::read(binary).with_context(|| format!("could not read {}", binary.display()))?;
    needs_nothing(&program).with_context(|| format!("{} cannot run in an empty image", binary.display()))?;
    let path = crate::root().join("target/image/vc-syncer.tar");
    fs::create_dir_all(path.parent().context("the archive has a folder")?).context("could not create the folder of the image")?;
    let archive = archive(&program)?;
    fs::write(&path, &archive).with_context(|| format!("could not write {}", path.display()))?;
    eprintln!("wrote {} ({} KiB): {NAME}", path.display(), archive.len() / 1024);
    match start(&archive, &path.with_file_name("root"), "--help").context("the program does not start from the image")? {
        Some(said) => eprintln!("started it from there, as {USER}: {}", said.lines().next().unwrap_or_default()),
        None => eprintln!("not started from there: changing the root needs root"),
    }
    Ok(())
}

/// Unpacks the archive into `folder` as a container engine does, and starts the program there, where nothing else is, as the user of the
/// image; what it says, or `None` where we may not do that.
fn start(archive: &[u8], folder: &Path, argument: &str) -> anyhow::Result<Option<String>> {
    let files = unpacked(archive)?;
    let index = files.get("index.json").context("the archive has no index")?;
    let index: Value = serde_json::from_slice(index)?;
    let manifest: Value = serde_json::from_slice(blob(&files, index.pointer("/manifests/0"))?)?;
    let config: Value = serde_json::from_slice(blob(&files, manifest.get("config"))?)?;
    let layer = blob(&files, manifest.pointer("/layers/0"))?;
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("could not empty {}", folder.display()))?;
    }
    tar::Archive::new(GzDecoder::new(layer)).unpack(folder).with_context(|| format!("could not unpack into {}", folder.display()))?;
    let text = |pointer: &str| config.pointer(pointer).and_then(Value::as_str).with_context(|| format!("the config has no {pointer}"));
    let (program, user) = (text("/config/Entrypoint/0")?, text("/config/User")?);
    if fs::metadata("/proc/self").context("could not ask who we are")?.uid() != 0 {
        return Ok(None);
    }
    let output = Command::new("chroot")
        .arg(format!("--userspec={user}"))
        .arg(folder)
        .args([program, argument])
        .env_clear()
        // As container engines give it; `chroot` itself is found by it too.
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .output()
        .context("could not run chroot")?;
    ensure!(output.status.success(), "it ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// The files of a tar archive by their paths.
fn unpacked(bytes: &[u8]) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(bytes).entries()? {
        let mut entry = entry?;
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        files.insert(entry.path()?.display().to_string(), content);
    }
    Ok(files)
}

/// The blob that a descriptor leads to, if it is that one.
fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: Option<&Value>) -> anyhow::Result<&'a [u8]> {
    let digest = descriptor.and_then(|descriptor| descriptor.get("digest")?.as_str()?.strip_prefix("sha256:"));
    let digest = digest.context("a descriptor without a digest")?;
    let content = files.get(&format!("blobs/sha256/{digest}")).with_context(|| format!("there is no blob {digest}"))?;
    ensure!(sha256(content) == digest, "the blob {digest} is another one");
    Ok(content)
}

/// Refuses what would need a loader or libraries, which the image does not have.
fn needs_nothing(program: &[u8]) -> anyhow::Result<()> {
    /// Type of the program header that names a loader.
    const INTERP: u32 = 3;
    ensure!(program.starts_with(b"\x7fELF\x02\x01"), "it is no 64-bit little-endian ELF program");
    let table = usize::try_from(number(program, 0x20, 8)?).context("its program headers lie outside of it")?;
    let (size, count) = (number(program, 0x36, 2)?, number(program, 0x38, 2)?);
    for n in 0..count {
        let at =
            usize::try_from(n * size).ok().and_then(|offset| table.checked_add(offset)).context("a program header lies outside of it")?;
        if number(program, at, 4)? == u64::from(INTERP) {
            bail!("it is linked dynamically; build it with -Ctarget-feature=+crt-static");
        }
    }
    Ok(())
}

/// A little-endian number of `size` bytes.
fn number(bytes: &[u8], at: usize, size: usize) -> anyhow::Result<u64> {
    let end = at.checked_add(size).context("a header lies outside of it")?;
    let field = bytes.get(at..end).context("a header lies outside of it")?;
    Ok(field.iter().rev().fold(0, |sum, byte| (sum << 8) | u64::from(*byte)))
}

/// The image as an OCI layout in a tar archive.
fn archive(program: &[u8]) -> anyhow::Result<Vec<u8>> {
    let layer = tar(&[(PROGRAM.to_owned(), 0o755, program)])?;
    let packed = gzip(&layer)?;
    let config = serde_json::to_vec(&config(&layer))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &packed)],
    }))?;
    let index = serde_json::to_vec(&index(&manifest))?;
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
    let mut files: Vec<(String, u32, &[u8])> =
        [&packed, &config, &manifest].into_iter().map(|blob| (format!("blobs/sha256/{}", sha256(blob)), 0o644, blob.as_slice())).collect();
    files.sort();
    files.push(("index.json".to_owned(), 0o644, &index));
    files.push(("oci-layout".to_owned(), 0o644, layout));
    tar(&files)
}

/// How the image is run.
fn config(layer: &[u8]) -> Value {
    json!({
        "created": EPOCH,
        "architecture": architecture(),
        "os": "linux",
        "config": {"User": USER, "Entrypoint": [format!("/{PROGRAM}")], "WorkingDir": "/", "ExposedPorts": {"8080/tcp": {}}},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(layer))]},
        "history": [{"created": EPOCH, "created_by": "cargo xtask image"}],
    })
}

/// What the archive holds: one image under its name, for tools that go by either annotation.
fn index(manifest: &[u8]) -> Value {
    let mut image = descriptor("application/vnd.oci.image.manifest.v1+json", manifest);
    if let Some(image) = image.as_object_mut() {
        image.insert("platform".to_owned(), json!({"architecture": architecture(), "os": "linux"}));
        let names = json!({"io.containerd.image.name": NAME, "org.opencontainers.image.ref.name": NAME});
        image.insert("annotations".to_owned(), names);
    }
    json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [image]})
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": format!("sha256:{}", sha256(blob)), "size": blob.len()})
}

/// As OCI calls the machine this runs on.
fn architecture() -> &'static str {
    match ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Files as (path, mode, content), owned by root, of no time.
fn tar(files: &[(String, u32, &[u8])]) -> anyhow::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, mode, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(*mode);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, *content).with_context(|| format!("could not pack {path}"))?;
    }
    builder.into_inner().context("could not finish a tar archive")
}

fn gzip(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut packer = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
    packer.write_all(bytes).context("could not compress the layer")?;
    packer.finish().context("could not compress the layer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_leads_from_the_index_to_the_program() {
        let files = unpacked(&archive(b"a program").unwrap()).unwrap();
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let manifest: Value = serde_json::from_slice(blob(&files, Some(&index["manifests"][0])).unwrap()).unwrap();
        let config: Value = serde_json::from_slice(blob(&files, Some(&manifest["config"])).unwrap()).unwrap();
        let packed = blob(&files, Some(&manifest["layers"][0])).unwrap();
        assert_eq!(manifest["layers"][0]["size"], packed.len());
        let mut layer = Vec::new();
        GzDecoder::new(packed).read_to_end(&mut layer).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"], json!([format!("sha256:{}", sha256(&layer))]));
        assert_eq!(config["config"]["Entrypoint"], json!(["/vc-syncer"]));
        assert_eq!(config["config"]["User"], "65532:65532");
        assert_eq!(unpacked(&layer).unwrap(), BTreeMap::from([("vc-syncer".to_owned(), b"a program".to_vec())]));
    }

    /// The real program is tried by the task itself: to build it takes minutes.
    #[test]
    fn what_is_packed_starts_where_nothing_else_is_and_as_nobody() {
        let folder = crate::root().join("target/image-test");
        fs::create_dir_all(&folder).unwrap();
        let (source, program) = (folder.join("small.rs"), folder.join("small"));
        fs::write(&source, r#"fn main() { println!("{:?}", std::env::args().collect::<Vec<_>>()) }"#).unwrap();
        let flags = ["-Ctarget-feature=+crt-static", "-o"];
        assert!(Command::new("rustc").args(flags).arg(&program).arg(&source).status().unwrap().success());
        let program = fs::read(program).unwrap();
        needs_nothing(&program).unwrap();
        match start(&archive(&program).unwrap(), &folder.join("root"), "an argument").unwrap() {
            Some(said) => assert_eq!(said, "[\"/vc-syncer\", \"an argument\"]\n"),
            None => println!("not started: changing the root needs root"),
        }
        let mode = fs::metadata(folder.join("root/vc-syncer")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o755, "everybody may start it");
    }

    /// The Deployment's user, and the image that it names, are those of the image.
    #[test]
    fn the_deployment_runs_this_image_as_its_user() {
        let text = fs::read_to_string(crate::root().join("manifests/deployment.yaml")).unwrap();
        let (user, group) = USER.split_once(':').unwrap();
        for line in [format!("image: {NAME}"), format!("runAsUser: {user}"), format!("runAsGroup: {group}")] {
            assert!(text.contains(&line), "deployment.yaml does not say {line}");
        }
    }

    #[test]
    fn the_same_program_gives_the_same_bytes() {
        assert_eq!(archive(b"a program").unwrap(), archive(b"a program").unwrap());
        assert_ne!(archive(b"a program").unwrap(), archive(b"another").unwrap());
    }

    #[test]
    fn a_program_that_needs_a_loader_is_refused() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        let error = needs_nothing(&own).unwrap_err().to_string();
        assert!(error.contains("crt-static"), "{error}");
        let error = needs_nothing(b"#!/bin/sh").unwrap_err().to_string();
        assert!(error.contains("ELF"), "{error}");
    }

    #[test]
    fn a_truncated_program_is_refused() {
        assert!(needs_nothing(b"\x7fELF\x02\x01").is_err());
    }
}
