//! The images that real nodes run: made here from programs of ours and the machine's, each written once into our cache.

pub mod conformance;

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::{
    env,
    oci::{Entry, Image, needs_nothing},
    programs::{NodePrograms, Programs},
};

/// What holds a Pod's namespaces. Every node has it.
pub const PAUSE: &str = "virtualcluster.test/pause:1";
/// A shell and small tools; every node has it. Runs `sleep` for ever unless told otherwise.
pub const TOOLS: &str = "virtualcluster.test/tools:1";
/// As [`TOOLS`], with an unmodified kubectl, which inside a cluster finds the API server as every client does.
pub const KUBECTL: &str = "virtualcluster.test/kubectl:1";
/// `CoreDNS`.
pub const COREDNS: &str = "virtualcluster.test/coredns:1";
/// metrics-server.
pub const METRICS_SERVER: &str = "virtualcluster.test/metrics-server:1";
/// local-path-provisioner.
pub const LOCAL_PATH_PROVISIONER: &str = "virtualcluster.test/local-path-provisioner:1";

/// Where Debian's package `busybox-static` puts its program, and others a static one.
pub(crate) const BUSYBOX: &str = "/bin/busybox";

/// For ever, as busybox's `sleep` counts.
const FOREVER: [&str; 3] = ["/bin/busybox", "sleep", "2147483647"];

/// The archive of an image of that name, written into our cache if it is not there.
pub(crate) async fn archive(name: &'static str, programs: &Programs, node: &NodePrograms) -> anyhow::Result<PathBuf> {
    let program = match name {
        PAUSE | TOOLS => None,
        KUBECTL => Some(programs.kubectl()),
        COREDNS => Some(node.coredns.clone()),
        METRICS_SERVER => Some(node.metrics_server.clone()),
        LOCAL_PATH_PROVISIONER => Some(node.local_path_provisioner.clone()),
        other => anyhow::bail!("there is no recipe for {other}"),
    };
    let sources: Vec<_> = [PathBuf::from(BUSYBOX)].into_iter().chain(program.clone()).collect();
    written(name, name, &sources, move || image(name, program.as_deref())).await
}

/// The archive of an image that is made of these files by this recipe, made and written into our cache if it is not there.
async fn written(
    name: &str,
    recipe: &str,
    sources: &[PathBuf],
    make: impl FnOnce() -> anyhow::Result<Image> + Send + 'static,
) -> anyhow::Result<PathBuf> {
    let path = place(name, recipe, sources).with_context(|| format!("could not make the image {name}"))?;
    let write = move || {
        if !path.is_file() {
            fs::create_dir_all(path.parent().context("the cache of images has no folder")?).context("could not make it")?;
            let archive = make()?.archive()?;
            let unfinished = path.with_extension(std::process::id().to_string());
            fs::write(&unfinished, archive).and_then(|()| fs::rename(&unfinished, &path)).context("could not write an image")?;
        }
        anyhow::Ok(path)
    };
    tokio::task::spawn_blocking(write).await?.with_context(|| format!("could not make the image {name}"))
}

/// Named by what it is made of: how, which files, their size and their time.
fn place(name: &str, recipe: &str, sources: &[PathBuf]) -> anyhow::Result<PathBuf> {
    let mut made_of = recipe.to_owned();
    for path in sources {
        let about = fs::metadata(path).with_context(|| format!("could not read {}", path.display()))?;
        write!(made_of, " {} {} {} {}", path.display(), about.size(), about.mtime(), about.mtime_nsec())?;
    }
    let mut file = name.rsplit('/').next().unwrap_or(name).replace(':', "-") + "-";
    for byte in Sha256::digest(made_of.as_bytes()).iter().take(6) {
        write!(file, "{byte:02x}")?;
    }
    Ok(env::cache_dir()?.join("images").join(file + ".tar"))
}

fn image(name: &str, program: Option<&Path>) -> anyhow::Result<Image> {
    let mut image = Image { name: name.to_owned(), created_by: "the test bed".to_owned(), ..Image::default() };
    if matches!(name, PAUSE | TOOLS | KUBECTL) {
        image.entries = shell(name == PAUSE)?;
    }
    let path = "PATH=/bin";
    image.config = json!({ "Cmd": FOREVER, "Env": [path] });
    if let Some(program) = program {
        let file = program.file_name().and_then(|file| file.to_str()).context("the program has no name")?;
        image.entries.push((format!("bin/{file}"), Entry::Program(standalone(program)?)));
        if image.entries.len() == 1 {
            image.config = json!({ "Entrypoint": [format!("/bin/{file}")], "Env": [path] });
        }
    }
    Ok(image)
}

/// busybox, and unless alone, a link for each of its tools and what a shell expects to find.
fn shell(alone: bool) -> anyhow::Result<Vec<(String, Entry)>> {
    let busybox = standalone(Path::new(BUSYBOX)).context("the shell must be a static one; install busybox-static")?;
    let mut entries = vec![("bin/busybox".to_owned(), Entry::Program(busybox))];
    if alone {
        return Ok(entries);
    }
    let list = std::process::Command::new(BUSYBOX).arg("--list").output().context("could not run busybox")?;
    let tools = String::from_utf8_lossy(&list.stdout).into_owned();
    entries.extend(tools.lines().filter(|tool| *tool != "busybox").map(|tool| (format!("bin/{tool}"), Entry::Link("busybox".to_owned()))));
    let passwd = "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    entries.extend([
        ("etc".to_owned(), Entry::Folder(0o755)),
        ("etc/passwd".to_owned(), Entry::File(passwd.into())),
        ("etc/group".to_owned(), Entry::File("root:x:0:\nnogroup:x:65534:\n".into())),
        ("tmp".to_owned(), Entry::Folder(0o1777)),
    ]);
    Ok(entries)
}

fn standalone(program: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = fs::read(program).with_context(|| format!("could not read {}", program.display()))?;
    needs_nothing(&bytes).with_context(|| format!("{} cannot run in an image", program.display()))?;
    Ok(bytes)
}
