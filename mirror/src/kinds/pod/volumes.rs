//! Downward API files: a Pod reads its tenant's namespace, UID, labels and annotations, from annotations that we put on the super Pod. And
//! volumes that live as long as their Pod.
//!
//! Names of Secrets, `ConfigMap`s and claims are [`super::names`]'s, tokens and trust bundles [`super::mounts`]'s.

use std::collections::BTreeMap;

use common::keys;
use common::name::hash26;
use serde_json::{Value, json};

use super::{Fields, Own, object, object_mut, objects_mut, text};

/// Has every ephemeral volume mount the claim that the tenant's own controller makes for it: that goes down like any other, and the super
/// cluster's controller has none to make.
///
/// *Sources*: `k8s.io/component-helpers/storage/ephemeral`, `VolumeClaimName`.
pub(super) fn mount_claims(spec: &mut Fields, pod: &str) {
    for volume in objects_mut(spec, "volumes") {
        if volume.remove("ephemeral").is_some() {
            let claim = format!("{pod}-{}", text(volume, "name").unwrap_or_default());
            volume.insert("persistentVolumeClaim".to_owned(), json!({"claimName": claim}));
        }
    }
}

/// Points every downward API file about metadata at an annotation with the tenant's value.
pub(super) fn apply(spec: &mut Fields, own: &Own<'_>, annotations: &mut BTreeMap<String, String>) {
    for volume in objects_mut(spec, "volumes") {
        if let Some(downward) = object_mut(volume, "downwardAPI") {
            files(downward, own, annotations);
        }
        let sources = object_mut(volume, "projected").into_iter().flat_map(|projected| objects_mut(projected, "sources"));
        for downward in sources.filter_map(|source| object_mut(source, "downwardAPI")) {
            files(downward, own, annotations);
        }
    }
}

fn files(downward: &mut Fields, own: &Own<'_>, annotations: &mut BTreeMap<String, String>) {
    for file in objects_mut(downward, "items") {
        let path = object(file, "fieldRef").and_then(|field| text(field, "fieldPath"));
        if let Some(served) = path.and_then(|path| served(path, own, annotations)) {
            file.insert("fieldRef".to_owned(), served);
        }
    }
}

/// What refers to the annotation that serves a field path of metadata, which is put there.
pub(super) fn served(path: &str, own: &Own<'_>, annotations: &mut BTreeMap<String, String>) -> Option<Value> {
    let (key, value) = (annotation(path), own.field(path)?);
    let served = json!({"apiVersion": "v1", "fieldPath": format!("metadata.annotations['{key}']")});
    annotations.insert(key, value);
    Some(served)
}

/// The annotation that serves a field path: readable where the path is a plain one, else hashed, since it holds a key of the user's.
fn annotation(path: &str) -> String {
    let plain = path.strip_prefix("metadata.").filter(|field| field.bytes().all(|b| b.is_ascii_lowercase()));
    let suffix = plain.map_or_else(|| hash26(&["vc-downward-v1", path]), str::to_owned);
    format!("{}{suffix}", keys::DOWNWARD_PREFIX)
}

#[cfg(test)]
mod tests {
    use common::Uid;

    use super::*;

    #[test]
    fn files_about_metadata_are_served_from_annotations() {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let own = Own {
            namespace: "default",
            name: "web-0",
            uid: Uid::default(),
            service_account: "default",
            labels: &labels,
            annotations: BTreeMap::new(),
        };
        let file = |path: &str| json!({"path": "f", "fieldRef": {"fieldPath": path}});
        let cpu = json!({"path": "cpu", "resourceFieldRef": {"resource": "limits.cpu", "containerName": "a"}});
        let given = json!({"volumes": [
            {"name": "a", "downwardAPI": {"items": [file("metadata.namespace"), file("metadata.labels"), cpu]}},
            {"name": "b", "projected": {"sources": [{"downwardAPI": {"items": [file("metadata.labels['app']")]}}]}},
        ]});
        let mut spec = given.as_object().cloned().unwrap();
        let mut annotations = BTreeMap::new();
        apply(&mut spec, &own, &mut annotations);

        let hashed = annotation("metadata.labels['app']");
        assert_eq!(annotations[&format!("{}namespace", keys::DOWNWARD_PREFIX)], "default");
        assert_eq!(annotations[&format!("{}labels", keys::DOWNWARD_PREFIX)], "app=\"web\"");
        assert_eq!(annotations[&hashed], "web");
        let items = &spec["volumes"][0]["downwardAPI"]["items"];
        assert_eq!(items[0]["fieldRef"]["fieldPath"], format!("metadata.annotations['{}namespace']", keys::DOWNWARD_PREFIX));
        assert_eq!(items[2], cpu);
        let nested = &spec["volumes"][1]["projected"]["sources"][0]["downwardAPI"]["items"][0]["fieldRef"]["fieldPath"];
        assert_eq!(*nested, Value::String(format!("metadata.annotations['{hashed}']")));
    }
}
