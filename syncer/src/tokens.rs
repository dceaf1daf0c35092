//! ServiceAccount tokens of the tenant for Pods that run in the super cluster: asked of the tenant's own API server, bound to the
//! tenant's Pod, and mounted through a Secret that lives and dies with the super Pod. The trust bundles that the Pod mounts stand in it too.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{Name, Namespace, Owner, Super, Uid, keys};
use jiff::Timestamp;
use mirror::facts::Seen;
use mirror::mounts::{BundleAsk, TokenAsk};
use runtime::kubeconfig::Secret;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::index::Tokens;
use crate::remote::{CallError, Patch, Remote};
use crate::tenant::Attached;
use crate::writer::{Fence, Issued, read_token};

/// The Pod that tokens are for.
pub struct PodOf<'a> {
    /// Its tenant namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its UID in the tenant.
    pub uid: Uid,
}

/// Tokens in hand, not yet written.
pub struct Batch {
    data: Vec<(String, Secret)>,
    issued: Timestamp,
    expires: Timestamp,
}

/// Trust bundles in hand: what each file holds, or nothing where there is no such bundle.
pub struct Anchors {
    data: Vec<(String, Option<String>)>,
    look: Duration,
}

impl Anchors {
    /// Those that are asked for, with their contents in the same order; to be looked at again after `look`.
    pub fn new(asks: &[BundleAsk], contents: Vec<Option<String>>, look: Duration) -> Result<Self, CallError> {
        let data: Vec<_> = asks.iter().map(|ask| ask.key.clone()).zip(contents).collect();
        let bytes: usize = data.iter().filter_map(|(_, content)| content.as_ref()).map(String::len).sum();
        if bytes > MOST_ANCHOR_BYTES { Err(too_large("trust bundles")) } else { Ok(Self { data, look }) }
    }

    /// The hash of all; `None` if none is asked for.
    pub fn hash(&self) -> Option<u64> {
        (!self.data.is_empty()).then(|| mirror::plan::value_hash(&json!(self.data)))
    }

    fn next(&self) -> Option<(Instant, u64)> {
        Some((Instant::now() + self.look, self.hash()?))
    }

    fn data(&self) -> impl Iterator<Item = (String, Value)> {
        let encoded = |content: &Option<String>| content.as_ref().map_or(Value::Null, |content| STANDARD.encode(content).into());
        self.data.iter().map(move |(key, content)| (key.clone(), encoded(content)))
    }

    fn annotation(&self) -> Option<(String, Value)> {
        Some((keys::TRUST_BUNDLES.to_owned(), format!("{:016x}", self.hash()?).into()))
    }
}

/// Asks the tenant's API server for each token, bound to the tenant's Pod.
pub async fn request(attached: &Attached, fence: &Fence, pod: &PodOf<'_>, asks: &[TokenAsk]) -> Result<Batch, CallError> {
    let issued = Timestamp::now();
    let mut batch = Batch { data: Vec::new(), issued, expires: Timestamp::MAX };
    let mut bytes = 0_usize;
    for ask in asks {
        fence.check()?;
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{}/token", pod.namespace, ask.service_account);
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {
                "audiences": ask.audience.iter().collect::<Vec<_>>(),
                "expirationSeconds": ask.expiration_seconds,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid.to_string()},
            },
        });
        let reply = attached.remote.create(&path, body.to_string().into_bytes(), None).await.map_err(|error| refused(error, ask))?;
        let Issued { token, expires } = read_token(&reply, "tenant")?;
        bytes = bytes.saturating_add(token.expose().len());
        if bytes > MOST_BYTES {
            return Err(too_large("tokens"));
        }
        batch.expires = batch.expires.min(expires);
        batch.data.push((ask.key.clone(), token));
    }
    Ok(batch)
}

/// What the tokens of one Pod may be together, and its trust bundles, in bytes: both must fit into one Secret (1 MiB).
const MOST_BYTES: usize = 384 * 1024;
const MOST_ANCHOR_BYTES: usize = 600 * 1024;

/// The reason of a token that there is no account for.
pub const REFUSED: &str = "TokenRefused";

/// A ServiceAccount that is not there is no namespace that is not there: its own reason says so.
fn refused(error: CallError, ask: &TokenAsk) -> CallError {
    if !error.is_not_found() {
        return error;
    }
    let message = format!("there is no token for the ServiceAccount {}; make it, or delete the Pod", ask.service_account);
    CallError::Status { side: "tenant", code: 404, reason: REFUSED.into(), message, retry_after: None }
}

fn too_large(what: &str) -> CallError {
    CallError::Status {
        side: "tenant",
        code: 413,
        reason: "TokensTooLarge".into(),
        message: format!("the {what} that this Pod mounts are too large for one Secret; mount fewer"),
        retry_after: None,
    }
}

/// The Secret in the super cluster that a Pod's tokens are mounted from.
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

/// Writes a batch into the Pod's Secret: made anew, or replaced where it is there already and belongs to this super Pod. One of an
/// earlier super Pod is deleted first.
pub async fn store(
    sup: &Remote<Super>,
    fence: &Fence,
    writer: &Secret,
    attached: &Attached,
    place: &Place<'_>,
    batch: &Batch,
    anchors: &Anchors,
    share: f64,
) -> Result<Tokens, CallError> {
    fence.check()?;
    let collection = format!("/api/v1/namespaces/{}/secrets", place.namespace);
    let path = format!("{collection}/{}", place.name);
    let body = body(attached, place, batch, anchors).to_string().into_bytes();
    let reply = match sup.create(&collection, body.clone(), Some(writer)).await {
        Err(error) if error.is_already_exists() => {
            let current = sup.get(&path, Some(writer)).await?;
            let uid = seen_uid(&current)?;
            if belongs_to(&current, place.pod.1) {
                return renew(sup, fence, writer, place, uid, batch, anchors, share).await;
            }
            fence.check()?;
            sup.delete(&path, uid, None, Some(writer)).await?;
            fence.check()?;
            sup.create(&collection, body, Some(writer)).await?
        }
        other => other?,
    };
    Ok(good(seen_uid(&reply)?, place.pod.1, batch, anchors, share))
}

/// Replaces the tokens in a Secret that is there, and its trust bundles.
#[expect(clippy::too_many_arguments, reason = "two that are written, where, and by whom")]
async fn renew(
    sup: &Remote<Super>,
    fence: &Fence,
    writer: &Secret,
    place: &Place<'_>,
    secret: Uid,
    batch: &Batch,
    anchors: &Anchors,
    share: f64,
) -> Result<Tokens, CallError> {
    fence.check()?;
    let path = format!("/api/v1/namespaces/{}/secrets/{}", place.namespace, place.name);
    let annotations: Map<_, _> = times(batch).into_iter().chain(anchors.annotation()).collect();
    let data: Map<_, _> = data(batch).chain(anchors.data()).collect();
    let change = json!({"metadata": {"uid": secret.to_string(), "annotations": annotations}, "data": data});
    let reply = sup.patch(&path, Patch::Merge, &change, Some(writer)).await?;
    Ok(good(seen_uid(&reply)?, place.pod.1, batch, anchors, share))
}

/// Replaces the trust bundles in a Secret that is there, if they are others than those in it.
pub async fn follow(
    sup: &Remote<Super>,
    fence: &Fence,
    writer: &Secret,
    place: &Place<'_>,
    secret: Uid,
    anchors: &Anchors,
) -> Result<(), CallError> {
    fence.check()?;
    let path = format!("/api/v1/namespaces/{}/secrets/{}", place.namespace, place.name);
    let annotations: Map<_, _> = anchors.annotation().into_iter().collect();
    let data: Map<_, _> = anchors.data().collect();
    let change = json!({"metadata": {"uid": secret.to_string(), "annotations": annotations}, "data": data});
    sup.patch(&path, Patch::Merge, &change, Some(writer)).await.map(drop)
}

fn body(attached: &Attached, place: &Place<'_>, batch: &Batch, anchors: &Anchors) -> Value {
    let mut annotations: Map<_, _> = times(batch).into_iter().chain(anchors.annotation()).collect();
    annotations.insert(keys::OWNER.to_owned(), place.owner.annotation().into());
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {
            "name": place.name.as_str(),
            "labels": {keys::TENANT: attached.id.as_str()},
            "annotations": annotations,
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": place.pod.0, "uid": place.pod.1.to_string()}],
        },
        "data": data(batch).chain(anchors.data().filter(|(_, content)| !content.is_null())).collect::<Map<_, _>>(),
    })
}

fn times(batch: &Batch) -> Map<String, Value> {
    let mut times = Map::new();
    times.insert(keys::TOKEN_ISSUED.to_owned(), batch.issued.to_string().into());
    times.insert(keys::TOKEN_EXPIRES.to_owned(), batch.expires.to_string().into());
    times
}

fn data(batch: &Batch) -> impl Iterator<Item = (String, Value)> {
    batch.data.iter().map(|(key, token)| (key.clone(), STANDARD.encode(token.expose()).into()))
}

fn seen_uid(bytes: &[u8]) -> Result<Uid, CallError> {
    Seen::of(bytes).map(|seen| seen.facts.uid).map_err(|source| CallError::Unreadable { side: "super", source })
}

fn belongs_to(bytes: &[u8], pod: Uid) -> bool {
    serde_json::from_slice::<Value>(bytes)
        .ok()
        .and_then(|secret| secret.pointer("/metadata/ownerReferences/0/uid").and_then(Value::as_str).map(|uid| uid == pod.to_string()))
        .unwrap_or(false)
}

fn good(secret: Uid, pod: Uid, batch: &Batch, anchors: &Anchors, share: f64) -> Tokens {
    Tokens::Good { renew: renewal(batch.issued, batch.expires, share), look: anchors.next(), secret, pod }
}

/// The shortest and the longest life that a token is believed to have, in seconds: no API server grants less; none needs more.
const LIVES: (f64, f64) = (600.0, 366.0 * 24.0 * 3600.0);

/// When tokens of this life are to be renewed: at `share` of it, by the monotonic clock from now.
///
/// *Guarantees*: never at once, whatever a hostile API server or a clock that is wrong says of the expiry: renewing costs a write in the
/// super cluster.
pub fn renewal(issued: Timestamp, expires: Timestamp, share: f64) -> Instant {
    let life = expires.duration_since(issued).as_secs_f64().clamp(LIVES.0, LIVES.1);
    let age = Timestamp::now().duration_since(issued).as_secs_f64().max(0.0);
    Instant::now() + Duration::from_secs_f64((life * share - age).max(1.0))
}

/// Reads what a token Secret says of itself, from its metadata: the super Pod's UID, when to renew, and which trust bundles are in it, which are looked
/// at again after `look`.
pub fn read(bytes: &[u8], share: f64, look: Duration) -> Option<Tokens> {
    let secret: Value = serde_json::from_slice(bytes).ok()?;
    let text = |pointer: &str| secret.pointer(pointer).and_then(Value::as_str);
    let annotations = secret.pointer("/metadata/annotations")?;
    let time = |key: &str| annotations.get(key).and_then(Value::as_str).and_then(|text| text.parse::<Timestamp>().ok());
    Some(Tokens::Good {
        renew: renewal(time(keys::TOKEN_ISSUED)?, time(keys::TOKEN_EXPIRES)?, share),
        look: annotations.get(keys::TRUST_BUNDLES).and_then(Value::as_str).map(|text| {
            // A hash that is none is no Secret's: the bundles are written anew.
            (Instant::now() + look, u64::from_str_radix(text, 16).unwrap_or_default())
        }),
        secret: Uid::parse(text("/metadata/uid")?).ok()?,
        pod: Uid::parse(text("/metadata/ownerReferences/0/uid")?).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_token_is_never_renewed_at_once_whatever_its_api_server_says_of_its_life() {
        let now = Timestamp::now();
        let second = Duration::from_secs(1);
        for expires in [Timestamp::MIN, now - second, now, now + second] {
            assert!(renewal(now, expires, 0.8) >= Instant::now() + Duration::from_secs(470), "{expires}");
        }
        assert!(renewal(now, Timestamp::MAX, 0.8) <= Instant::now() + Duration::from_hours(24 * 300));
        // Long due, after a restart; and issued in the future, by a clock that was wrong then.
        assert!(renewal(now - Duration::from_hours(10), now, 0.8) >= Instant::now() + second);
        assert!(renewal(Timestamp::MAX, now, 0.8) <= Instant::now() + Duration::from_mins(10));
    }
}
