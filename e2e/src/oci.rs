//! Images as OCI archives: one layer of files of ours, no base image, no registry and no container engine.
//!
//! The same files give the same bytes: no times, no owners, entries in the given order. `ctr images import`, `podman load` and
//! `skopeo copy oci-archive:` read them.
//!
//! *Sources*: OCI image specification 1.1 (layout, manifest, config).

use std::{env::consts::ARCH, fmt::Write as _, io::Write as _};

use anyhow::{Context as _, bail, ensure};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Nothing in an image says when it was made.
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// What an image is made of.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Its name with a tag.
    pub name: String,
    /// Further names of the same image.
    pub also: Vec<String>,
    /// What is in it: paths without a slash at the start, parents before what is in them.
    pub entries: Vec<(String, Entry)>,
    /// How it is run, as the specification's `config`.
    pub config: Value,
    /// What made it, for its history.
    pub created_by: String,
    /// Whether the layer is compressed: smaller, and slower to write and to read.
    pub compressed: bool,
}

/// One entry of a layer.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A file that everybody may read and run.
    Program(Vec<u8>),
    /// One that runs as its owner, root, whoever starts it.
    SetUserId(Vec<u8>),
    /// A file that everybody may read.
    File(Vec<u8>),
    /// A folder, with its mode.
    Folder(u32),
    /// A symbolic link to that path.
    Link(String),
}

impl Image {
    /// The image as an OCI layout in a tar archive.
    pub fn archive(&self) -> anyhow::Result<Vec<u8>> {
        let layer = tar(&self.entries)?;
        let diff = sha256(&layer);
        let (layer, suffix) = if self.compressed { (gzip(&layer)?, "+gzip") } else { (layer, "") };
        let config = serde_json::to_vec(&self.config(&diff))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor(&format!("application/vnd.oci.image.layer.v1.tar{suffix}"), &layer)],
        }))?;
        let index = serde_json::to_vec(&self.index(&manifest))?;
        let layout = br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec();
        let blobs = [layer, config, manifest].map(|blob| (format!("blobs/sha256/{}", sha256(&blob)), Entry::File(blob)));
        let mut files = Vec::from(blobs);
        files.sort_by(|a, b| a.0.cmp(&b.0));
        files.push(("index.json".to_owned(), Entry::File(index)));
        files.push(("oci-layout".to_owned(), Entry::File(layout)));
        tar(&files)
    }

    fn config(&self, diff: &str) -> Value {
        json!({
            "created": EPOCH,
            "architecture": architecture(),
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff}")]},
            "history": [{"created": EPOCH, "created_by": self.created_by}],
        })
    }

    /// What the archive holds: one image under each of its names, for tools that go by either annotation.
    fn index(&self, manifest: &[u8]) -> Value {
        let named = |name: &String| {
            let mut image = descriptor("application/vnd.oci.image.manifest.v1+json", manifest);
            if let Some(image) = image.as_object_mut() {
                image.insert("platform".to_owned(), json!({"architecture": architecture(), "os": "linux"}));
                let names = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name});
                image.insert("annotations".to_owned(), names);
            }
            image
        };
        let images: Vec<_> = [&self.name].into_iter().chain(&self.also).map(named).collect();
        json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": images})
    }
}

/// Refuses a program that would need a loader or libraries, which such an image does not have.
pub fn needs_nothing(program: &[u8]) -> anyhow::Result<()> {
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

/// As a digest has it, without what it is called.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Entries owned by root, of no time.
fn tar(entries: &[(String, Entry)]) -> anyhow::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, entry) in entries {
        let mut header = tar::Header::new_ustar();
        let (mode, content): (u32, &[u8]) = match entry {
            Entry::Program(content) => (0o755, content),
            Entry::SetUserId(content) => (0o4755, content),
            Entry::File(content) => (0o644, content),
            Entry::Folder(mode) => (*mode, &[]),
            Entry::Link(_) => (0o777, &[]),
        };
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        let packed = match entry {
            Entry::Program(_) | Entry::SetUserId(_) | Entry::File(_) => builder.append_data(&mut header, path, content),
            Entry::Folder(_) => {
                header.set_entry_type(tar::EntryType::Directory);
                builder.append_data(&mut header, path, content)
            }
            Entry::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                builder.append_link(&mut header, path, target)
            }
        };
        packed.with_context(|| format!("could not pack {path}"))?;
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
    use std::{collections::BTreeMap, io::Read as _};

    use flate2::read::GzDecoder;

    use super::*;

    fn image(content: &[u8]) -> Image {
        Image {
            name: "x/program:1".to_owned(),
            also: vec!["x/program:2".to_owned()],
            entries: vec![
                ("bin".to_owned(), Entry::Folder(0o755)),
                ("bin/program".to_owned(), Entry::Program(content.to_vec())),
                ("bin/other".to_owned(), Entry::Link("program".to_owned())),
            ],
            config: json!({"Entrypoint": ["/bin/program"]}),
            created_by: "a test".to_owned(),
            compressed: true,
        }
    }

    /// Mode, time and content, or the target of a link.
    fn unpacked(bytes: &[u8]) -> BTreeMap<String, (u32, u64, Vec<u8>)> {
        let mut archive = tar::Archive::new(bytes);
        let mut files = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            content.extend(entry.link_name_bytes().into_iter().flat_map(|name| name.to_vec()));
            let path = entry.path().unwrap().display().to_string();
            files.insert(path, (entry.header().mode().unwrap(), entry.header().mtime().unwrap(), content));
        }
        files
    }

    fn blob(files: &BTreeMap<String, (u32, u64, Vec<u8>)>, descriptor: &Value) -> Vec<u8> {
        let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let content = files[&format!("blobs/sha256/{digest}")].2.clone();
        assert_eq!(sha256(&content), digest);
        assert_eq!(descriptor["size"], content.len());
        content
    }

    #[test]
    fn the_archive_leads_from_the_index_to_the_files() {
        let files = unpacked(&image(b"a program").archive().unwrap());
        let index: Value = serde_json::from_slice(&files["index.json"].2).unwrap();
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "x/program:1");
        let other = &index["manifests"][1];
        assert_eq!(
            (&other["annotations"]["io.containerd.image.name"], &other["digest"]),
            (&json!("x/program:2"), &index["manifests"][0]["digest"])
        );
        let manifest: Value = serde_json::from_slice(&blob(&files, &index["manifests"][0])).unwrap();
        let config: Value = serde_json::from_slice(&blob(&files, &manifest["config"])).unwrap();
        let mut layer = Vec::new();
        GzDecoder::new(blob(&files, &manifest["layers"][0]).as_slice()).read_to_end(&mut layer).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"], json!([format!("sha256:{}", sha256(&layer))]));
        assert_eq!(config["config"]["Entrypoint"], json!(["/bin/program"]));
        let expected = [
            ("bin".to_owned(), (0o755, 0, Vec::new())),
            ("bin/other".to_owned(), (0o777, 0, b"program".to_vec())),
            ("bin/program".to_owned(), (0o755, 0, b"a program".to_vec())),
        ];
        assert_eq!(unpacked(&layer), BTreeMap::from(expected));
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        assert_eq!(image(b"a program").archive().unwrap(), image(b"a program").archive().unwrap());
        assert_ne!(image(b"a program").archive().unwrap(), image(b"another").archive().unwrap());
    }

    #[test]
    fn a_program_that_needs_a_loader_is_refused() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
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
