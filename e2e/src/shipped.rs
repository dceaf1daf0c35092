//! The images of our own programs: one program, run by nobody's user. `cargo xtask image` writes them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use serde_json::{Map, json};

use crate::{
    env,
    oci::{Entry, Image},
};

/// User and group that each runs as: nobody's, by the convention of distroless images.
pub const USER: &str = "65532:65532";

/// The syncer.
pub const SYNCER: Shipped = Shipped {
    program: "vc-syncer",
    package: "syncer",
    image: concat!("ghcr.io/virtualcluster/vc-syncer:", env!("CARGO_PKG_VERSION")),
    manifest: "deployment.yaml",
    variable: "VC_SYNCER",
    ports: &[8080],
};

/// What runs on every node.
pub const AGENT: Shipped = Shipped {
    program: "vn-agent",
    package: "vn-agent",
    image: concat!("ghcr.io/virtualcluster/vn-agent:", env!("CARGO_PKG_VERSION")),
    manifest: "vn-agent.yaml",
    variable: "VN_AGENT",
    ports: &[8080, 10550],
};

/// All of them.
pub const ALL: [&Shipped; 2] = [&SYNCER, &AGENT];

/// A program of ours and its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shipped {
    /// What the program is called.
    pub program: &'static str,
    /// The package that it is built from.
    pub package: &'static str,
    /// What the image is called.
    pub image: &'static str,
    /// Which file of `manifests/` runs it.
    pub manifest: &'static str,
    /// The variable that may name a program built elsewhere.
    pub variable: &'static str,
    ports: &'static [u16],
}

impl Shipped {
    /// The image with this program in it, and beside it what else it needs to start: nothing if it is static.
    pub fn image(&self, program: Vec<u8>, beside: Vec<(String, Entry)>) -> Image {
        let ports: Map<_, _> = self.ports.iter().map(|port| (format!("{port}/tcp"), json!({}))).collect();
        let mut entries = vec![(self.program.to_owned(), Entry::Program(program))];
        entries.extend(beside);
        Image {
            name: self.image.to_owned(),
            also: Vec::new(),
            entries,
            config: json!({ "User": USER, "Entrypoint": [format!("/{}", self.program)], "WorkingDir": "/", "ExposedPorts": ports }),
            created_by: "cargo xtask image".to_owned(),
            compressed: true,
        }
    }

    /// What cargo built beside the running program, or what the environment names.
    pub fn located(&self) -> anyhow::Result<PathBuf> {
        env::program(self.variable, self.program)
    }

    /// Writes the image of [`Shipped::located`] into a folder: what `cargo xtask image` writes, but for optimizations and libraries.
    pub(crate) fn write(&self, dir: &Path) -> anyhow::Result<PathBuf> {
        let program = self.located()?;
        let content = fs::read(&program).with_context(|| format!("could not read {}", program.display()))?;
        let image = Image { compressed: false, ..self.image(content, libraries(&program)?) };
        let path = dir.join(format!("{}.tar", self.program));
        fs::write(&path, image.archive()?).with_context(|| format!("could not write {}", path.display()))?;
        Ok(path)
    }
}

/// The loader and the libraries of a program, where it looks for them.
pub(crate) fn libraries(program: &Path) -> anyhow::Result<Vec<(String, Entry)>> {
    let output = Command::new("ldd").arg(program).output().context("could not run ldd")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "ldd {}: {said}{}", program.display(), String::from_utf8_lossy(&output.stderr));
    let paths = said.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    let read = |path: &str| {
        let content = fs::read(path).with_context(|| format!("could not read {path}"))?;
        Ok((path.trim_start_matches('/').to_owned(), Entry::Program(content)))
    };
    paths.map(read).collect()
}
