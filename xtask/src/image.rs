//! `cargo xtask image`: writes the images of our programs as OCI archives.
//!
//! One layer with one static program each, see [`Shipped`].

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use clap::Args;
use e2e::{
    oci::{needs_nothing, sha256},
    shipped::{self, Shipped, USER},
};
use flate2::read::GzDecoder;
use serde_json::Value;

use crate::program::{self, Build};

/// Which images to write.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The program whose image is written; all if not given.
    #[arg(value_parser = shipped::ALL.map(|shipped| shipped.program))]
    program: Option<String>,
    /// What to put into the image, in place of what this task builds.
    #[arg(long, requires = "program", value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// Writes the images.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    for shipped in shipped::ALL {
        if options.program.as_ref().is_none_or(|wanted| wanted == shipped.program) {
            write(shipped, options.binary.as_deref()).await?;
        }
    }
    Ok(())
}

/// Writes one image, with this program in it or with one built first.
async fn write(shipped: &Shipped, binary: Option<&Path>) -> anyhow::Result<()> {
    let built;
    let binary = if let Some(given) = binary {
        given
    } else {
        built = program::build(shipped, Build::Static).await?;
        &built
    };
    let program = fs::read(binary).with_context(|| format!("could not read {}", binary.display()))?;
    needs_nothing(&program).with_context(|| format!("{} cannot run in an empty image", binary.display()))?;
    let path = crate::root().join("target/image").join(format!("{}.tar", shipped.program));
    fs::create_dir_all(path.parent().context("the archive has a folder")?).context("could not create the folder of the image")?;
    let archive = shipped.image(program, Vec::new()).archive()?;
    fs::write(&path, &archive).with_context(|| format!("could not write {}", path.display()))?;
    eprintln!("wrote {} ({} KiB): {}", path.display(), archive.len() / 1024, shipped.image);
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
        let archive = shipped::SYNCER.image(program, Vec::new()).archive().unwrap();
        match start(&archive, &folder.join("root"), "an argument").unwrap() {
            Some(said) => assert_eq!(said, "[\"/vc-syncer\", \"an argument\"]\n"),
            None => println!("not started: changing the root needs root"),
        }
        let mode = fs::metadata(folder.join("root/vc-syncer")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o755, "everybody may start it");
    }

    /// User and image that the manifests name are those that are written.
    #[test]
    fn the_manifests_run_these_images_as_their_user() {
        let (user, group) = USER.split_once(':').unwrap();
        for shipped in shipped::ALL {
            let text = fs::read_to_string(crate::root().join("manifests").join(shipped.manifest)).unwrap();
            for line in [format!("image: {}", shipped.image), format!("runAsUser: {user}"), format!("runAsGroup: {group}")] {
                assert!(text.contains(&line), "{} does not say {line}", shipped.manifest);
            }
        }
    }
}
