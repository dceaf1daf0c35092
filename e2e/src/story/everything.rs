//! All that can be read from an API server, as text.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use common::keys;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
    discovery::{Discovery, verbs},
};
use serde_json::Value;

use super::{Actor, Story};

/// Every object of every kind that the client may list, Events among them: where each stands, and all its text with managed fields.
pub async fn everything(client: &Client) -> anyhow::Result<Vec<(String, String)>> {
    let found = Discovery::new(client.clone()).run().await.context("could not ask which kinds there are")?;
    let mut pages = Vec::new();
    for group in found.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            if !capabilities.supports_operation(verbs::LIST) {
                continue;
            }
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
            let list = api.list(&ListParams::default()).await.with_context(|| format!("could not list {}", resource.plural))?;
            for object in list {
                let meta = &object.metadata;
                let place =
                    [resource.plural.as_str(), meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default()];
                pages.push((place.join("/"), serde_json::to_string(&object).context("could not write an object down")?));
            }
        }
    }
    Ok(pages)
}

/// That nothing which any tenant can read names anything of the super cluster: no UID, none of our namespaces, roles, identities and names
/// of objects, no other tenant, and none of `more`.
pub async fn reveals_nothing(story: &Story, more: &[&str]) -> anyhow::Result<()> {
    let sup = story.bed.sup.client();
    let mut secrets = BTreeSet::from([keys::TOKEN_SECRET_PREFIX.to_owned()]);
    for (place, text) in everything(&sup).await? {
        secrets.extend(uid_in(&text));
        let name = place.rsplit('/').next().unwrap_or_default();
        secrets.extend(name.starts_with(keys::RESERVED_NAME_PREFIX).then(|| name.to_owned()));
    }
    let namespaces = Api::<Namespace>::all(sup).list(&ListParams::default()).await?;
    secrets.extend(namespaces.iter().map(kube::ResourceExt::name_any).filter(|name| name.starts_with("vc-")));
    secrets.extend(more.iter().map(|word| (*word).to_owned()));
    secrets.insert(keys::WRITER_ROLE.to_owned());
    for tenant in &story.tenants {
        secrets.extend([tenant.id.as_str().to_owned(), tenant.id.uid().to_string(), tenant.id.writer()]);
    }
    for (at, tenant) in story.tenants.iter().enumerate() {
        let others = story.tenants.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, other)| other.name.clone());
        hides(tenant, &secrets.iter().cloned().chain(others).collect()).await?;
    }
    Ok(())
}

/// That nothing which a tenant can read holds any of these words.
pub async fn hides(tenant: &Actor, words: &BTreeSet<String>) -> anyhow::Result<()> {
    let pages = everything(&tenant.client()).await?;
    ensure!(pages.iter().any(|(place, _)| place.starts_with("events/")), "{} has no Events to look at", tenant.name);
    for (place, text) in &pages {
        let found: Vec<_> = words.iter().filter(|word| text.contains(word.as_str())).collect();
        ensure!(found.is_empty(), "{}: {place} says {found:?}:\n{text}", tenant.name);
    }
    eprintln!("    {}: {} objects, none of {} words", tenant.name, pages.len(), words.len());
    Ok(())
}

fn uid_in(text: &str) -> Option<String> {
    serde_json::from_str::<Value>(text).ok()?.pointer("/metadata/uid")?.as_str().map(str::to_owned)
}
