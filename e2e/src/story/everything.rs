//! All that can be read from an API server, as text.

use anyhow::Context as _;
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
    discovery::{Discovery, verbs},
};

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
