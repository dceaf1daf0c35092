//! `cargo xtask image`: writes the image of the syncer as an OCI archive.
//!
//! One layer with one static program, see [`Image`].

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use e2e::oci::{Entry, Image, needs_nothing, sha256};
use flate2::read::GzDecoder;
use serde_json::{Value, json};

use crate::syncer::{self, Build, PROGRAM};

/// The image's name, as `manifests/deployment.yaml` has it.
const NAME: &str = concat!("ghcr.io/virtualcluster/vc-syncer:", env!("CARGO_PKG_VERSION"));

/// User and group that the program runs as: nobody's, by the convention of distroless images.
const USER: &str = "65532:65532";

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
    let archive = archive(program)?;
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

/// The image of a program, as an archive.
fn archive(program: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    let image = Image {
        name: NAME.to_owned(),
        entries: vec![(PROGRAM.to_owned(), Entry::Program(program))],
        config: json!({"User": USER, "Entrypoint": [format!("/{PROGRAM}")], "WorkingDir": "/", "ExposedPorts": {"8080/tcp": {}}}),
        created_by: "cargo xtask image".to_owned(),
        compressed: true,
    };
    image.archive()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        match start(&archive(program).unwrap(), &folder.join("root"), "an argument").unwrap() {
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
}
