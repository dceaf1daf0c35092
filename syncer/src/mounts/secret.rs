//! The Secret in the super cluster that a Pod's mounts stand in: it lives and dies with the super Pod, and says of itself when it is to be looked at again.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{Name, Namespace, Owner, Super, Uid, keys};
use jiff::Timestamp;
use mirror::facts::Seen;
use runtime::kubeconfig::Secret;
use serde_json::{Map, Value, json};

use super::{certificates, tokens};
use crate::index::{Look, Mounted};
use crate::remote::{CallError, Patch, Remote};
use crate::tenant::Attached;
use crate::writer::Fence;

/// Where it is, and whose.
pub struct Place<'a> {
    /// The super namespace.
    pub namespace: &'a Namespace<Super>,
    /// The Secret's name.
    pub name: &'a Name<Super>,
    /// The super Pod: name and UID.
    pub pod: (&'a str, Uid),
    /// The record of the super Pod.
    pub owner: &'a Owner,
}

impl Place<'_> {
    fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/secrets/{}", self.namespace, self.name)
    }
}

/// What is to stand in it, or to be changed in it.
#[derive(Default)]
pub struct Contents {
    data: Vec<(String, Option<Secret>)>,
    annotations: Vec<(&'static str, String)>,
}

impl Contents {
    /// The content of one key; without any, there is to be none.
    pub fn put(&mut self, key: String, content: Option<Secret>) {
        self.data.push((key, content));
    }

    /// What it is to say of itself.
    pub fn note(&mut self, key: &'static str, text: String) {
        self.annotations.push((key, text));
    }

    /// Whether nothing is to be changed.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty() && self.annotations.is_empty()
    }

    fn annotations(&self) -> Map<String, Value> {
        self.annotations.iter().map(|(key, text)| ((*key).to_owned(), text.as_str().into())).collect()
    }

    fn data(&self) -> impl Iterator<Item = (String, Option<String>)> {
        self.data.iter().map(|(key, content)| (key.clone(), content.as_ref().map(|content| STANDARD.encode(content.expose()))))
    }

    fn body(&self, attached: &Attached, place: &Place<'_>) -> Value {
        let mut annotations = self.annotations();
        annotations.insert(keys::OWNER.to_owned(), place.owner.annotation().into());
        let data: Map<_, _> = self.data().filter_map(|(key, content)| Some((key, content?.into()))).collect();
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {
                "name": place.name.as_str(),
                "labels": {keys::TENANT: attached.id.as_str()},
                "annotations": annotations,
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": place.pod.0, "uid": place.pod.1.to_string()}],
            },
            "data": data,
        })
    }
}

/// More than fits into one Secret.
pub(super) fn too_large(what: &str) -> CallError {
    CallError::Status {
        side: "tenant",
        code: 413,
        reason: "MountsTooLarge".into(),
        message: format!("the {what} too large to be mounted; make them fewer"),
        retry_after: None,
    }
}

/// Writes the Secret: made anew, or changed where it is there already and belongs to this super Pod. One of an earlier super Pod is deleted first; one
/// that does not bear the record of this Pod is left alone. Gives its UID and version.
///
/// *Errors*: status 409 with the reason [`NAME_TAKEN`], beside those of requests.
pub async fn store(
    sup: &Remote<Super>,
    fence: &Fence,
    writer: &Secret,
    attached: &Attached,
    place: &Place<'_>,
    contents: &Contents,
) -> Result<(Uid, u64), CallError> {
    fence.check()?;
    let collection = format!("/api/v1/namespaces/{}/secrets", place.namespace);
    let body = contents.body(attached, place).to_string().into_bytes();
    let reply = match sup.create(&collection, body.clone(), Some(writer)).await {
        Err(error) if error.is_already_exists() => {
            let current = sup.get(&place.path(), Some(writer)).await?;
            let seen = seen(&current)?;
            if !bears_the_record(&seen, attached, place.owner) {
                return Err(taken());
            }
            if belongs_to(&current, place.pod.1) {
                return change(sup, fence, writer, place, (seen.facts.uid, seen.facts.version), contents).await;
            }
            fence.check()?;
            sup.delete(&place.path(), seen.facts.uid, None, Some(writer)).await?;
            fence.check()?;
            sup.create(&collection, body, Some(writer)).await?
        }
        other => other?,
    };
    uid_and_version(&reply)
}

/// Changes the Secret of this UID and version; keys that are not named stay. Gives its UID and version.
///
/// *Errors*: status 409 where somebody else wrote it since, beside those of requests.
pub async fn change(
    sup: &Remote<Super>,
    fence: &Fence,
    writer: &Secret,
    place: &Place<'_>,
    (secret, version): (Uid, u64),
    contents: &Contents,
) -> Result<(Uid, u64), CallError> {
    fence.check()?;
    let data: Map<_, _> = contents.data().map(|(key, content)| (key, content.into())).collect();
    let known = json!({"uid": secret.to_string(), "resourceVersion": version.to_string(), "annotations": contents.annotations()});
    let change = json!({"metadata": known, "data": data});
    uid_and_version(&sup.patch(&place.path(), Patch::Merge, &change, Some(writer)).await?)
}

/// The reason where the name is an object's that is not the tenant's.
pub const NAME_TAKEN: &str = "NameTaken";

fn taken() -> CallError {
    CallError::Status {
        side: "super",
        code: 409,
        reason: NAME_TAKEN.into(),
        message: "what this Pod mounts cannot be kept: an object without the record of this Pod has its name in the super cluster; ask the administrator \
                  to remove that, or make the Pod anew"
            .into(),
        retry_after: None,
    }
}

fn bears_the_record(seen: &Seen<'_>, attached: &Attached, owner: &Owner) -> bool {
    seen.tenant_label.as_deref() == Some(attached.id.as_str()) && seen.owner.as_ref().is_ok_and(|found| found.uid == owner.uid)
}

fn seen(bytes: &[u8]) -> Result<Seen<'_>, CallError> {
    Seen::of(bytes).map_err(|source| CallError::Unreadable { side: "super", source })
}

fn uid_and_version(bytes: &[u8]) -> Result<(Uid, u64), CallError> {
    seen(bytes).map(|seen| (seen.facts.uid, seen.facts.version))
}

fn belongs_to(bytes: &[u8], pod: Uid) -> bool {
    serde_json::from_slice::<Value>(bytes)
        .ok()
        .and_then(|secret| secret.pointer("/metadata/ownerReferences/0/uid").and_then(Value::as_str).map(|uid| uid == pod.to_string()))
        .unwrap_or(false)
}

/// Reads what a Secret says of itself, from its metadata: the super Pod's UID, and what is to be done when. Trust bundles are looked at again after `look`.
pub fn read(bytes: &[u8], version: u64, share: f64, look: Duration) -> Option<Mounted> {
    let secret: Value = serde_json::from_slice(bytes).ok()?;
    let text = |pointer: &str| secret.pointer(pointer).and_then(Value::as_str);
    let annotations = secret.pointer("/metadata/annotations")?;
    let says = |key: &str| annotations.get(key).and_then(Value::as_str);
    let time = |key: &str| says(key).and_then(|text| text.parse::<Timestamp>().ok());
    Some(Mounted::Good {
        renew: time(keys::TOKEN_ISSUED).zip(time(keys::TOKEN_EXPIRES)).map(|(issued, expires)| tokens::renewal(issued, expires, share)),
        // A hash that is none is no Secret's: the bundles are written anew.
        look: says(keys::TRUST_BUNDLES).map(|text| Look::first(u64::from_str_radix(text, 16).unwrap_or_default(), look)),
        refresh: time(keys::REFRESH_CERTIFICATES).map(certificates::at),
        secret: Uid::parse(text("/metadata/uid")?).ok()?,
        version,
        spoilt: is_spoilt(&secret),
        pod: Uid::parse(text("/metadata/ownerReferences/0/uid")?).ok()?,
    })
}

/// Whether somebody else wrote what is in it, by its managed fields, also while nobody watched. A value that we write over is ours again.
///
/// *Caveats*: a key that somebody took out leaves no trace there.
fn is_spoilt(secret: &Value) -> bool {
    let entries = secret.pointer("/metadata/managedFields").and_then(Value::as_array);
    entries.into_iter().flatten().any(|entry| {
        let is_ours = entry.get("manager").and_then(Value::as_str) == Some(keys::SYNCER);
        !is_ours && entry.pointer("/fieldsV1/f:data").is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_else_wrote_into_it_is_seen_in_its_metadata() {
        let spoilt = |manager: &str, fields: &Value| {
            let ours = json!({"manager": keys::SYNCER, "fieldsV1": {"f:data": {"f:token": {}}}});
            let secret = json!({"metadata": {
                "uid": Uid::from_bits(1).to_string(), "annotations": {}, "ownerReferences": [{"uid": Uid::from_bits(2).to_string()}],
                "managedFields": [ours, {"manager": manager, "fieldsV1": fields}],
            }});
            matches!(read(secret.to_string().as_bytes(), 1, 0.8, Duration::from_secs(1)), Some(Mounted::Good { spoilt: true, .. }))
        };
        let data = json!({"f:data": {"f:token": {}}});
        assert!(spoilt("kubectl-edit", &data));
        assert!(!spoilt(keys::SYNCER, &data), "we wrote it before");
        assert!(!spoilt("labeller", &json!({"f:metadata": {"f:labels": {}}})), "what is in it is as it was");
    }
}
