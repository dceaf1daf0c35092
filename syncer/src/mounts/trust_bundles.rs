//! `ClusterTrustBundle`s of a tenant, for Pods that mount them: listed when such a Pod gets a node, and looked at again on patrol. They are not watched,
//! since few Pods mount any.
//!
//! *Sources*: KEP-3257; what a file holds is as the kubelet's `clustertrustbundle` manager makes it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::{Tenant, keys};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt as _};
use mirror::mounts::{BundleAsk, Bundles, TrustBundle};
use mirror::plan::value_hash;
use runtime::kubeconfig::Secret;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::secret::{Contents, too_large};
use crate::informer::page;
use crate::remote::{CallError, Remote};

/// Where they are served: since 1.37, and before where somebody has switched the beta on.
const COLLECTIONS: [&str; 2] =
    ["/apis/certificates.k8s.io/v1/clustertrustbundles", "/apis/certificates.k8s.io/v1beta1/clustertrustbundles"];
/// Bundles of a page, and of a tenant what they may have in bytes and pages: many times what the trust of a cluster has.
const PAGE: usize = 100;
const MOST_BYTES: usize = 8 << 20;
const PAGES: usize = 40;
/// Lists that are held at once, over all tenants, and how long one may take: a slow tenant keeps its place from others.
const AT_ONCE: usize = 8;
const LONGEST: Duration = Duration::from_secs(10);

/// What the trust bundles of one Pod may be together, in bytes: they must fit into one Secret (1 MiB) in base64, beside tokens and certificates.
const MOST_OF_A_POD: usize = 384 * 1024;

/// Trust bundles in hand: what each file holds, or nothing where there is no such bundle.
pub struct Anchors(Vec<(String, Option<String>)>);

impl Anchors {
    /// The hash of all; `None` if none is asked for.
    pub fn hash(&self) -> Option<u64> {
        (!self.0.is_empty()).then(|| value_hash(&json!(self.0)))
    }

    /// The first of those asked for that are not there.
    pub fn missing<'a>(&self, asks: &'a [BundleAsk]) -> Option<&'a BundleAsk> {
        asks.iter().zip(&self.0).find(|(_, (_, content))| content.is_none()).map(|(ask, _)| ask)
    }

    /// Puts them into a Secret.
    pub fn put_into(self, contents: &mut Contents) {
        if let Some(hash) = self.hash() {
            contents.note(keys::TRUST_BUNDLES, format!("{hash:016x}"));
        }
        for (key, content) in self.0 {
            contents.put(key, content.map(Secret::new));
        }
    }
}

/// Reads the bundles of tenants, a few at a time.
#[derive(Debug)]
pub struct Reader(Semaphore);

impl Default for Reader {
    fn default() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }
}

impl Reader {
    /// What each file that is asked for holds now, in their order.
    ///
    /// *Errors*: no answer, or more than a tenant or a Pod may have.
    pub async fn read(&self, tenant: &Remote<Tenant>, asks: &[BundleAsk]) -> Result<Anchors, CallError> {
        if asks.is_empty() {
            return Ok(Anchors(Vec::new()));
        }
        let Ok(_place) = self.0.acquire().await else { return Err(CallError::Fenced) };
        let endless = |_| CallError::Endless { side: "tenant" };
        let bundles = timeout(LONGEST, list(tenant)).await.map_err(endless)??;
        let mut room = MOST_OF_A_POD;
        let mut anchors = Vec::new();
        for ask in asks {
            let content = anchors_of(ask, &bundles);
            room = room.checked_sub(content.as_ref().map_or(0, String::len)).ok_or_else(|| too_large("trust bundles"))?;
            anchors.push((ask.key.clone(), content));
        }
        Ok(Anchors(anchors))
    }
}

async fn list(tenant: &Remote<Tenant>) -> Result<Vec<TrustBundle>, CallError> {
    for collection in COLLECTIONS {
        match list_at(tenant, collection).await {
            Err(error) if error.is_not_found() => {}
            answer => return answer,
        }
    }
    Ok(Vec::new())
}

/// What is read of one.
#[derive(Deserialize)]
struct Item {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    signer_name: String,
    trust_bundle: String,
}

async fn list_at(tenant: &Remote<Tenant>, collection: &str) -> Result<Vec<TrustBundle>, CallError> {
    let mut bundles = Vec::new();
    let first = format!("{collection}?limit={PAGE}");
    let (mut next, mut room) = (first.clone(), MOST_BYTES);
    for _ in 0..PAGES {
        let bytes = tenant.list(next, None).await?;
        room = room.checked_sub(bytes.len()).ok_or(CallError::Endless { side: "tenant" })?;
        let tell = |item: &RawValue| {
            // What cannot be read is no bundle.
            if let Ok(Item { metadata, spec }) = serde_json::from_str(item.get()) {
                let signer = Some(spec.signer_name).filter(|signer| !signer.is_empty());
                bundles.push(TrustBundle { name: metadata.name, labels: metadata.labels, signer, pem: spec.trust_bundle });
            }
        };
        let (meta, _) = page::read(&bytes, tell).map_err(|source| CallError::Unreadable { side: "tenant", source })?;
        if meta.next.is_empty() {
            return Ok(bundles);
        }
        next = format!("{first}&continue={}", meta.next);
    }
    Err(CallError::Endless { side: "tenant" })
}

/// The file's content: every certificate once. Nothing if the file is not optional and no bundle is what it asks for.
fn anchors_of(ask: &BundleAsk, bundles: &[TrustBundle]) -> Option<String> {
    let picked: Vec<&TrustBundle> = match &ask.of {
        Bundles::Named(name) => bundles.iter().filter(|bundle| bundle.name == *name).collect(),
        Bundles::Signed { signer, selector } => {
            let selector = selector.as_ref().and_then(selector_of);
            let is_picked = |bundle: &&TrustBundle| {
                bundle.signer.as_ref() == Some(signer) && selector.as_ref().is_some_and(|selector| selector.matches(&bundle.labels))
            };
            bundles.iter().filter(is_picked).collect()
        }
    };
    if picked.is_empty() {
        return ask.optional.then(String::new);
    }
    let parsed = picked.iter().flat_map(|bundle| pem::parse_many(&bundle.pem).unwrap_or_default());
    let certificates: BTreeSet<Vec<u8>> = parsed.map(pem::Pem::into_contents).collect();
    let all: Vec<_> = certificates.into_iter().map(|contents| pem::Pem::new("CERTIFICATE", contents)).collect();
    Some(encode(&all))
}

/// PEM, one after the other.
pub(super) fn encode(all: &[pem::Pem]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    all.iter().map(|one| pem::encode_config(one, config)).collect()
}

/// The selector, if it is one: what an API server would have refused picks nothing.
fn selector_of(selector: &Value) -> Option<Selector> {
    let selector: LabelSelector = serde_json::from_value(selector.clone()).ok()?;
    Selector::try_from(selector).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pem_of(contents: &[u8]) -> String {
        pem::encode_config(&pem::Pem::new("CERTIFICATE", contents), pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF))
    }

    fn bundle(name: &str, signer: Option<&str>, env: &str, contents: &[&[u8]]) -> TrustBundle {
        TrustBundle {
            name: name.to_owned(),
            labels: BTreeMap::from([("env".to_owned(), env.to_owned())]),
            signer: signer.map(str::to_owned),
            pem: contents.iter().map(|contents| pem_of(contents)).collect(),
        }
    }

    fn ask(of: Bundles, optional: bool) -> BundleAsk {
        BundleAsk { key: "bundle-0".to_owned(), field: String::new(), of, optional }
    }

    #[test]
    fn a_file_holds_every_certificate_once_of_the_bundles_that_it_asks_for() {
        let all = [
            bundle("one", None, "live", &[b"b", b"a"]),
            bundle("x:y:two", Some("x/y"), "live", &[b"b", b"c"]),
            bundle("x:y:three", Some("x/y"), "test", &[b"c", b"d"]),
            bundle("x:z:four", Some("x/z"), "live", &[b"e"]),
        ];
        let named = |name: &str| anchors_of(&ask(Bundles::Named(name.to_owned()), false), &all);
        let signed = |selector: Option<Value>| anchors_of(&ask(Bundles::Signed { signer: "x/y".to_owned(), selector }, false), &all);
        let text = |contents: &[&[u8]]| Some(contents.iter().map(|contents| pem_of(contents)).collect::<String>());
        assert_eq!(named("one"), text(&[b"a", b"b"]));
        assert_eq!(named("none"), None);
        assert_eq!(signed(Some(json!({}))), text(&[b"b", b"c", b"d"]), "an empty selector picks all of the signer");
        assert_eq!(signed(Some(json!({"matchLabels": {"env": "live"}}))), text(&[b"b", b"c"]));
        assert_eq!(
            signed(Some(json!({"matchExpressions": [{"key": "env", "operator": "NotIn", "values": ["live"]}]}))),
            text(&[b"c", b"d"])
        );
        assert_eq!(signed(None), None, "no selector picks nothing");
        assert_eq!(signed(Some(json!({"matchExpressions": [{"key": "env", "operator": "Like"}]}))), None);
        assert_eq!(anchors_of(&ask(Bundles::Named("none".to_owned()), true), &all), Some(String::new()), "an optional file is empty");
    }

    #[test]
    fn what_is_no_certificate_is_left_out() {
        let broken =
            TrustBundle { pem: "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----".to_owned(), ..bundle("a", None, "", &[]) };
        assert_eq!(anchors_of(&ask(Bundles::Named("a".to_owned()), false), &[broken]), Some(String::new()));
    }
}
