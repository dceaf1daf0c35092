//! Installs what `manifests/` says, as an administrator would, without the Deployment.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use kube::{
    Api, Client,
    api::DynamicObject,
    core::GroupVersionKind,
    discovery::{self, Scope},
};
use serde_json::Value;

use crate::{
    bed::apply,
    env,
    files::files,
    wait::{Seen, eventually},
};

/// What lets vn-agent have the super cluster's API server answer: not part of every installation.
const SUPER_AGENT: &str = "rbac-vn-agent-super.yaml";

/// Applies every object of `manifests/**/*.yaml` but Deployments, `DaemonSets`, samples, and the rights of vn-agent where no kubelet
/// answers: the test bed runs the programs itself.
pub async fn install(client: &Client) -> anyhow::Result<()> {
    install_from(&folder(), client).await
}

/// The manifests of this version.
pub fn folder() -> PathBuf {
    env::workspace().join("manifests")
}

/// As [`install`], of the manifests in a folder: those of another version.
pub async fn install_from(folder: &Path, client: &Client) -> anyhow::Result<()> {
    let mut objects = objects(folder)?;
    objects.sort_by_key(rank);
    for object in &objects {
        install_one(object, client).await?;
    }
    Ok(())
}

/// Gives vn-agent, and each tenant's identity, what they need where the super cluster's API server answers.
pub async fn install_super_agent(client: &Client) -> anyhow::Result<()> {
    let path = folder().join(SUPER_AGENT);
    let text = std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    install_text(&text, client).await.with_context(|| format!("from {}", path.display()))
}

/// Applies every object of `manifests/samples/<file>`, with these words replaced, as a person does who fills it in.
pub async fn install_sample(file: &str, words: &[(&str, &str)], client: &Client) -> anyhow::Result<()> {
    let path = folder().join("samples").join(file);
    let text = std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    let text = words.iter().fold(text, |text, (word, value)| text.replace(word, value));
    install_text(&text, client).await.with_context(|| format!("from {}", path.display()))
}

/// Applies every object of a text, as YAML.
pub async fn install_text(text: &str, client: &Client) -> anyhow::Result<()> {
    for object in parse(text).context("it is not YAML")? {
        install_one(&object, client).await?;
    }
    Ok(())
}

fn parse(text: &str) -> anyhow::Result<Vec<Value>> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(text)?;
    Ok(objects.into_iter().filter(Value::is_object).collect())
}

/// All objects under a folder, samples left out.
fn objects(dir: &Path) -> anyhow::Result<Vec<Value>> {
    let mut objects = Vec::new();
    for path in files(dir, ".yaml")?.into_iter().filter(|path| is_installed(path, dir)) {
        let text = std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
        let parsed = parse(&text).with_context(|| format!("{} is not YAML", path.display()))?;
        objects.extend(parsed.into_iter().filter(|object| !matches!(kind(object), "Deployment" | "DaemonSet")));
    }
    Ok(objects)
}

/// Whether what stands in a file of a folder is applied as it is.
fn is_installed(path: &Path, dir: &Path) -> bool {
    let mut inside = path.strip_prefix(dir).unwrap_or(path).components();
    let is_other = path.ends_with("Chart.yaml") || path.ends_with(SUPER_AGENT);
    !is_other && !inside.any(|part| ["templates", "samples"].iter().any(|other| part.as_os_str() == *other))
}

/// What others need comes first.
fn rank(object: &Value) -> u8 {
    match kind(object) {
        "Namespace" => 0,
        "CustomResourceDefinition" => 1,
        "ServiceAccount" | "ClusterRole" | "Role" => 2,
        _ => 3,
    }
}

fn kind(object: &Value) -> &str {
    text(object, "/kind")
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Applies one object of any kind that is served, or soon is.
pub(crate) async fn install_one(object: &Value, client: &Client) -> anyhow::Result<()> {
    let name = text(object, "/metadata/name");
    if name.is_empty() {
        bail!("a {} in manifests/ has no name", kind(object));
    }
    let (group, version) = text(object, "/apiVersion").rsplit_once('/').unwrap_or(("", text(object, "/apiVersion")));
    let wanted = GroupVersionKind::gvk(group, version, kind(object));
    // A kind that was defined a moment ago is served a moment later.
    let (resource, capabilities) = eventually(format!("{} is served", kind(object)), Duration::from_secs(30), async || {
        Ok(Seen::Done(discovery::pinned_kind(client, &wanted).await?))
    })
    .await?;
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => {
            let ns = text(object, "/metadata/namespace");
            Api::namespaced_with(client.clone(), if ns.is_empty() { "default" } else { ns }, &resource)
        }
    };
    apply(&api, name, object).await.with_context(|| format!("could not install {} {name}", kind(object)))?;
    if kind(object) == "CustomResourceDefinition" {
        established(name, &api).await?;
    }
    Ok(())
}

async fn established(name: &str, api: &Api<DynamicObject>) -> anyhow::Result<()> {
    eventually(format!("{name} is established"), Duration::from_secs(30), async || {
        let object = api.get(name).await?;
        let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let done = conditions.iter().any(|c| text(c, "/type") == "Established" && text(c, "/status") == "True");
        Ok(Seen::when(done, conditions))
    })
    .await?;
    Ok(())
}
