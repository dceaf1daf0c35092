//! The images that Kubernetes' own tests name, made of the same programs or of such as behave alike for these tests.
//!
//! Upstream's are Alpine or Debian with programs beside them. Here they are busybox, what few programs of this machine's Debian a test
//! calls by name, with their libraries, and agnhost from the same module as the tests.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use futures::future::try_join_all;
use serde_json::{Value, json};

use super::{BUSYBOX, shell, standalone, written};
use crate::{
    oci::{Entry, Image},
    pki::self_signed,
    programs::{ConformancePrograms, Programs},
    shipped::libraries,
};

/// Changed with what is below, so that no image of an earlier recipe is taken from the cache.
const RECIPE: &str = "4";

/// Programs of this machine that tests call in agnhost or in what looks names up, and the packages of Debian that bring them.
const TOOLS: [(&str, &str); 6] = [
    ("/usr/bin/bash", "bash"),
    ("/usr/bin/curl", "curl"),
    ("/usr/bin/dig", "bind9-dnsutils"),
    ("/usr/bin/getent", "libc-bin"),
    ("/usr/bin/nc.openbsd", "netcat-openbsd"),
    ("/usr/bin/ss", "iproute2"),
];

/// A shell that ends when it is told to, which the first process of a container does only if it says so.
const UNTIL_TOLD: &str = "trap 'exit 0' TERM INT QUIT; while :; do sleep 3600 & wait; done";

/// What an image is made of and how it is run.
type Made = anyhow::Result<(Vec<(String, Entry)>, Value)>;

/// Which files images are made of.
#[derive(Clone)]
struct Sources {
    etcd: PathBuf,
    tests: ConformancePrograms,
}

/// How an image is made that has names of this kind.
struct Recipe {
    /// The name without a tag.
    name: &'static str,
    make: fn(&Sources) -> Made,
}

const RECIPES: [Recipe; 11] = [
    Recipe { name: "registry.k8s.io/e2e-test-images/agnhost", make: agnhost },
    Recipe { name: "registry.k8s.io/e2e-test-images/busybox", make: busybox },
    Recipe { name: "registry.k8s.io/e2e-test-images/glibc-dns-testing", make: busybox },
    Recipe { name: "registry.k8s.io/e2e-test-images/kitten", make: |sources| pictured("kitten", sources) },
    Recipe { name: "registry.k8s.io/e2e-test-images/nautilus", make: |sources| pictured("nautilus", sources) },
    Recipe { name: "registry.k8s.io/e2e-test-images/nginx", make: nginx },
    Recipe { name: "registry.k8s.io/e2e-test-images/nonewprivs", make: nonewprivs },
    Recipe { name: "registry.k8s.io/e2e-test-images/nonroot", make: nonroot },
    Recipe { name: "registry.k8s.io/e2e-test-images/sample-apiserver", make: sample_apiserver },
    Recipe { name: "registry.k8s.io/etcd", make: etcd },
    Recipe { name: "registry.k8s.io/pause", make: pause },
];

impl Recipe {
    fn is_for(&self, name: &str) -> bool {
        name.rsplit_once(':').is_some_and(|(name, _)| name == self.name)
    }
}

/// All programs of this machine that go into the images, with their packages.
fn needed() -> impl Iterator<Item = (&'static str, &'static str)> {
    [(BUSYBOX, "busybox-static")].into_iter().chain(TOOLS)
}

/// Fails if a program of this machine that goes into the images is missing; names all that are, with their packages.
pub fn tools_are_here() -> anyhow::Result<()> {
    let missing = needed().filter(|(path, _)| !Path::new(path).is_file());
    let (paths, packages): (Vec<_>, Vec<_>) = missing.unzip();
    ensure!(paths.is_empty(), "not on this machine: {}; install {}", paths.join(", "), packages.join(" "));
    Ok(())
}

/// The archives of those of these images that can be made, each under all its names.
pub async fn archives(names: &[String], programs: &Programs, tests: &ConformancePrograms) -> anyhow::Result<Vec<PathBuf>> {
    let sources = Sources { etcd: programs.etcd(), tests: tests.clone() };
    let built = [&sources.etcd, &tests.agnhost, &tests.nnp, &tests.sample_apiserver].map(Clone::clone);
    let files: Vec<_> = needed().map(|(path, _)| PathBuf::from(path)).chain(built).collect();
    let made = RECIPES.iter().filter_map(|recipe| {
        let mut names = names.iter().filter(|name| recipe.is_for(name)).cloned();
        let (name, also): (String, Vec<_>) = (names.next()?, names.collect());
        let (make, sources, files) = (recipe.make, sources.clone(), &files);
        Some(async move {
            let key = format!("{RECIPE} {name} {}", also.join(" "));
            let own = name.clone();
            let image = move || {
                let (entries, config) = make(&sources)?;
                Ok(Image { name: own, also, entries, config, created_by: "the test bed".to_owned(), compressed: false })
            };
            written(&name, &key, files, image).await
        })
    });
    try_join_all(made).await
}

fn run(entrypoint: &[&str], command: &[&str]) -> Value {
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    json!({ "Entrypoint": entrypoint, "Cmd": command, "Env": [path] })
}

/// What busybox has, what names the users that tests ask for, and where they write.
fn base() -> anyhow::Result<Vec<(String, Entry)>> {
    let mut entries = shell(false)?;
    entries.retain(|(path, _)| !matches!(path.as_str(), "etc/passwd" | "etc/group"));
    let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n\
                  user-defined-in-image:x:1000:1000::/:/bin/sh\n";
    let group = "root:x:0:\nnogroup:x:65534:\nuser-defined-in-image:x:1000:\n\
                 group-defined-in-image:x:50000:user-defined-in-image\n";
    entries.extend([
        ("etc/passwd".to_owned(), Entry::File(passwd.into())),
        ("etc/group".to_owned(), Entry::File(group.into())),
        ("etc/nsswitch.conf".to_owned(), Entry::File("passwd: files\ngroup: files\nhosts: files dns\n".into())),
        ("root".to_owned(), Entry::Folder(0o700)),
        ("var".to_owned(), Entry::Folder(0o755)),
    ]);
    Ok(entries)
}

/// The same with the programs of this machine and their libraries. bash is the shell: busybox's runs what it has itself in place of programs
/// that are called the same, and Debian's build of it lets no variable through whose name a shell could not set.
fn with_tools() -> anyhow::Result<Vec<(String, Entry)>> {
    let mut entries = base()?;
    entries.retain(|(path, _)| path != "bin/sh");
    entries.push(("bin/sh".to_owned(), Entry::Link("/usr/bin/bash".to_owned())));
    let mut found = BTreeMap::new();
    for (path, _) in TOOLS {
        let program = Path::new(path);
        let name = program.file_stem().and_then(|name| name.to_str()).context("a tool has no name")?;
        let content = std::fs::read(program).with_context(|| format!("could not read {path}"))?;
        found.insert(format!("usr/bin/{name}"), Entry::Program(content));
        found.extend(libraries(program)?);
    }
    entries.extend(found);
    Ok(entries)
}

fn placed(path: &str, program: &Path) -> anyhow::Result<(String, Entry)> {
    Ok((path.to_owned(), Entry::Program(standalone(program)?)))
}

fn agnhost(sources: &Sources) -> Made {
    let mut entries = with_tools()?;
    // Some tests serve TLS with it, others look for the file.
    let own = self_signed(&["localhost"])?;
    entries.extend([
        placed("agnhost", &sources.tests.agnhost)?,
        ("agnhost-2".to_owned(), Entry::Link("agnhost".to_owned())),
        ("uploads".to_owned(), Entry::Folder(0o755)),
        ("localhost.crt".to_owned(), Entry::File(own.certificate.into())),
        ("localhost.key".to_owned(), Entry::File(own.key.into())),
    ]);
    Ok((entries, run(&["/agnhost"], &["pause"])))
}

/// Serves its own name as a picture.
fn pictured(name: &str, sources: &Sources) -> Made {
    let (mut entries, _) = agnhost(sources)?;
    let picture = format!("{name}.jpg");
    let data = format!("{{\n  \"image\": \"{picture}\"\n}}\n");
    entries.extend([(picture, Entry::File(name.into())), ("data.json".to_owned(), Entry::File(data.into()))]);
    Ok((entries, run(&["/agnhost"], &["test-webserver"])))
}

fn busybox(_: &Sources) -> Made {
    Ok((with_tools()?, run(&[], &["sh"])))
}

/// busybox's web server where nginx serves from.
fn nginx(_: &Sources) -> Made {
    let mut entries = base()?;
    let page = "<html><head><title>Welcome to nginx!</title></head><body>Welcome to nginx!</body></html>\n";
    entries.extend([
        ("usr/share/nginx/html".to_owned(), Entry::Folder(0o755)),
        ("usr/share/nginx/html/index.html".to_owned(), Entry::File(page.into())),
    ]);
    let serve = format!("httpd -f -p 80 -h /usr/share/nginx/html & {UNTIL_TOLD}");
    Ok((entries, run(&[], &["/bin/sh", "-c", &serve])))
}

fn nonewprivs(sources: &Sources) -> Made {
    let mut entries = base()?;
    entries.push(("usr/local/bin/nnp".to_owned(), Entry::SetUserId(standalone(&sources.tests.nnp)?)));
    Ok((entries, run(&[], &["nnp"])))
}

fn nonroot(_: &Sources) -> Made {
    let mut config = run(&[], &["sh"]);
    if let Some(config) = config.as_object_mut() {
        config.insert("User".to_owned(), json!("1234"));
    }
    Ok((base()?, config))
}

fn sample_apiserver(sources: &Sources) -> Made {
    let mut entries = base()?;
    entries.push(placed("sample-apiserver", &sources.tests.sample_apiserver)?);
    Ok((entries, run(&["/sample-apiserver"], &[])))
}

fn etcd(sources: &Sources) -> Made {
    let mut entries = base()?;
    entries.push(placed("usr/local/bin/etcd", &sources.etcd)?);
    Ok((entries, run(&[], &["etcd"])))
}

fn pause(_: &Sources) -> Made {
    Ok((base()?, run(&["/bin/sh", "-c", UNTIL_TOLD], &[])))
}
