//! `ClusterTrustBundle`s of a tenant, for Pods that mount them: listed when such a Pod gets a node, and looked at again now and then. They are not watched,
//! since few Pods mount any.
//!
//! *Sources*: KEP-3257; what a file holds is as the kubelet's `clustertrustbundle` manager makes it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use common::keys;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt as _};
use mirror::mounts::{BundleAsk, Bundles};
use mirror::plan::value_hash;
use parking_lot::Mutex;
use runtime::kubeconfig::Secret;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::encode;
use super::secret::{Contents, too_large};
use crate::informer::page;
use crate::remote::CallError;
use crate::tenant::Attached;

/// Where they are served: since 1.37, and before where somebody has switched the beta on.
const COLLECTIONS: [&str; 2] =
    ["/apis/certificates.k8s.io/v1/clustertrustbundles", "/apis/certificates.k8s.io/v1beta1/clustertrustbundles"];
/// Bundles of a page, and of a tenant what they may have in bytes and pages: many times what the trust of a cluster has.
const PAGE: usize = 100;
const MOST_BYTES: usize = 4 << 20;
const PAGES: usize = 40;
/// Lists that are read at once, over all tenants, one of each; how long one may take; and lists that are kept for the next Pod, for how long.
const AT_ONCE: usize = 32;
const LONGEST: Duration = Duration::from_secs(10);
const KEPT: usize = 8;
const FRESH: Duration = Duration::from_secs(1);

/// What the trust bundles of one Pod may be together, in bytes: they must fit into one Secret (1 MiB) in base64, beside tokens and certificates.
const MOST_OF_A_POD: usize = 256 * 1024;
/// What may be picked for one Pod before each certificate counts once, in bytes.
const MOST_PICKED: usize = 4 << 20;

/// One bundle, read.
#[derive(Debug)]
struct TrustBundle {
    name: String,
    labels: BTreeMap<String, String>,
    signer: String,
    certificates: Vec<Vec<u8>>,
}

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

type Bundled = Arc<Vec<TrustBundle>>;

/// Reads the bundles of tenants.
#[derive(Debug)]
pub struct Reader {
    places: Semaphore,
    /// The lists that were read last, by tenant.
    kept: Mutex<VecDeque<(String, Instant, Bundled)>>,
}

impl Default for Reader {
    fn default() -> Self {
        Self { places: Semaphore::new(AT_ONCE), kept: Mutex::default() }
    }
}

impl Reader {
    /// What each file that is asked for holds now, in their order.
    ///
    /// *Errors*: no answer, all places taken, or more than a tenant or a Pod may have (status 413, for the tenant to read).
    pub async fn read(&self, attached: &Attached, asks: &[BundleAsk]) -> Result<Anchors, CallError> {
        if asks.is_empty() {
            return Ok(Anchors(Vec::new()));
        }
        let bundles = self.bundles(attached).await?;
        let (mut room, mut picked) = (MOST_OF_A_POD, MOST_PICKED);
        let mut anchors = Vec::new();
        for ask in asks {
            let content = anchors_of(ask, &bundles, &mut picked)?;
            room = room.checked_sub(content.as_ref().map_or(0, String::len)).ok_or_else(|| too_large(OF_A_POD))?;
            anchors.push((ask.key.clone(), content));
        }
        Ok(Anchors(anchors))
    }

    /// All of a tenant, as they were a moment ago at most. One list of a tenant's is read at a time.
    async fn bundles(&self, attached: &Attached) -> Result<Bundled, CallError> {
        let _turn = attached.reading_bundles.lock().await;
        let id = attached.id.as_str();
        if let Some(kept) = self.kept(id) {
            return Ok(kept);
        }
        let Ok(_place) = self.places.try_acquire() else { return Err(busy()) };
        let answer = timeout(LONGEST, list(attached)).await.unwrap_or_else(|_| Err(slow()));
        attached.note_answer(answer.as_ref().err());
        let bundles = Arc::new(answer?);
        let mut kept = self.kept.lock();
        kept.retain(|(tenant, ..)| tenant != id);
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back((id.to_owned(), Instant::now(), bundles.clone()));
        Ok(bundles)
    }

    fn kept(&self, id: &str) -> Option<Bundled> {
        let mut kept = self.kept.lock();
        kept.retain(|(_, at, _)| at.elapsed() < FRESH);
        kept.iter().find(|(tenant, ..)| tenant == id).map(|(_, _, bundles)| bundles.clone())
    }
}

const OF_A_POD: &str = "trust bundles that this Pod mounts are";
const OF_A_TENANT: &str = "trust bundles of this control plane are";

fn busy() -> CallError {
    wait("vc-syncer", 503, "other control planes' trust bundles are being read")
}

fn slow() -> CallError {
    wait("tenant", 504, "the trust bundles were not listed in time")
}

fn wait(side: &'static str, code: u16, message: &str) -> CallError {
    CallError::Status { side, code, reason: String::new(), message: message.to_owned(), retry_after: Some(Duration::from_secs(1)) }
}

async fn list(attached: &Attached) -> Result<Vec<TrustBundle>, CallError> {
    for collection in COLLECTIONS {
        match list_at(attached, collection).await {
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

async fn list_at(attached: &Attached, collection: &str) -> Result<Vec<TrustBundle>, CallError> {
    let mut bundles = Vec::new();
    let first = format!("{collection}?limit={PAGE}");
    let (mut next, mut room) = (first.clone(), MOST_BYTES);
    for _ in 0..PAGES {
        let bytes = attached.remote.list(next, None).await?;
        room = room.checked_sub(bytes.len()).ok_or_else(|| too_large(OF_A_TENANT))?;
        // What cannot be read is no bundle.
        let tell = |item: &RawValue| bundles.extend(serde_json::from_str(item.get()).ok().map(bundle));
        let (meta, _) =
            page::read(&bytes, "ClusterTrustBundle", tell).map_err(|source| CallError::Unreadable { side: "tenant", source })?;
        if meta.next.is_empty() {
            return Ok(bundles);
        }
        next = format!("{first}&continue={}", meta.next);
        tokio::task::yield_now().await;
    }
    Err(too_large(OF_A_TENANT))
}

fn bundle(Item { metadata, spec }: Item) -> TrustBundle {
    let certificates = pem::parse_many(&spec.trust_bundle).unwrap_or_default().into_iter().map(pem::Pem::into_contents).collect();
    TrustBundle { name: metadata.name, labels: metadata.labels, signer: spec.signer_name, certificates }
}

/// The file's content: every certificate once. Nothing if the file is not optional and no bundle is what it asks for. What is picked is taken off `room`.
fn anchors_of(ask: &BundleAsk, bundles: &[TrustBundle], room: &mut usize) -> Result<Option<String>, CallError> {
    let picked: Vec<&TrustBundle> = match &ask.of {
        Bundles::Named(name) => bundles.iter().filter(|bundle| bundle.name == *name).collect(),
        Bundles::Signed { signer, selector } => {
            let selector = selector.as_deref().and_then(selector_of);
            let is_picked = |bundle: &&TrustBundle| {
                !signer.is_empty() && bundle.signer == *signer && selector.as_ref().is_some_and(|selector| selector.matches(&bundle.labels))
            };
            bundles.iter().filter(is_picked).collect()
        }
    };
    if picked.is_empty() {
        return Ok(ask.optional.then(String::new));
    }
    let certificates = || picked.iter().flat_map(|bundle| &bundle.certificates);
    let bytes = certificates().map(Vec::len).sum();
    *room = room.checked_sub(bytes).ok_or_else(|| too_large(OF_A_POD))?;
    let certificates: BTreeSet<&Vec<u8>> = certificates().collect();
    Ok(Some(encode(certificates.into_iter().cloned())))
}

/// The selector, if it is one: what an API server would have refused picks nothing.
fn selector_of(selector: &str) -> Option<Selector> {
    let selector: LabelSelector = serde_json::from_str(selector).ok()?;
    Selector::try_from(selector).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle_of(name: &str, signer: &str, env: &str, contents: &[&[u8]]) -> TrustBundle {
        TrustBundle {
            name: name.to_owned(),
            labels: BTreeMap::from([("env".to_owned(), env.to_owned())]),
            signer: signer.to_owned(),
            certificates: contents.iter().map(|contents| contents.to_vec()).collect(),
        }
    }

    fn ask(of: Bundles, optional: bool) -> BundleAsk {
        BundleAsk { key: "bundle-0".to_owned(), field: String::new(), of, optional }
    }

    fn text(contents: &[&[u8]]) -> String {
        encode(contents.iter().map(|contents| contents.to_vec()))
    }

    #[test]
    fn a_file_holds_every_certificate_once_of_the_bundles_that_it_asks_for() {
        let all = [
            bundle_of("one", "", "live", &[b"b", b"a"]),
            bundle_of("x:y:two", "x/y", "live", &[b"b", b"c"]),
            bundle_of("x:y:three", "x/y", "test", &[b"c", b"d"]),
            bundle_of("x:z:four", "x/z", "live", &[b"e"]),
        ];
        let read = |of, optional| anchors_of(&ask(of, optional), &all, &mut MOST_PICKED.clone()).unwrap();
        let named = |name: &str| read(Bundles::Named(name.to_owned()), false);
        let signed =
            |selector: Option<&str>| read(Bundles::Signed { signer: "x/y".to_owned(), selector: selector.map(str::to_owned) }, false);
        assert_eq!(named("one"), Some(text(&[b"a", b"b"])));
        assert_eq!(named("none"), None);
        assert_eq!(signed(Some("{}")), Some(text(&[b"b", b"c", b"d"])), "an empty selector picks all of the signer");
        assert_eq!(signed(Some(r#"{"matchLabels": {"env": "live"}}"#)), Some(text(&[b"b", b"c"])));
        assert_eq!(
            signed(Some(r#"{"matchExpressions": [{"key": "env", "operator": "NotIn", "values": ["live"]}]}"#)),
            Some(text(&[b"c", b"d"]))
        );
        assert_eq!(signed(None), None, "no selector picks nothing");
        assert_eq!(signed(Some(r#"{"matchExpressions": [{"key": "env", "operator": "Like"}]}"#)), None);
        assert_eq!(read(Bundles::Named("none".to_owned()), true), Some(String::new()), "an optional file is empty");
        assert_eq!(read(Bundles::Signed { signer: String::new(), selector: Some("{}".to_owned()) }, false), None);
    }

    #[test]
    fn s33_what_is_picked_again_and_again_counts_each_time() {
        let all = [bundle_of("x:y:one", "x/y", "", &vec![[b'a'; 1024].as_slice(); 1024])];
        let every = ask(Bundles::Signed { signer: "x/y".to_owned(), selector: Some("{}".to_owned()) }, false);
        let mut room = MOST_PICKED;
        for _ in 0..MOST_PICKED / (1 << 20) {
            assert_eq!(anchors_of(&every, &all, &mut room).unwrap().unwrap().matches("BEGIN").count(), 1);
        }
        assert!(anchors_of(&every, &all, &mut room).is_err_and(|error| error.code() == Some(413)));
    }

    #[test]
    fn what_is_no_certificate_is_left_out() {
        let item = r#"{"metadata": {"name": "a"}, "spec": {"trustBundle": "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----"}}"#;
        let broken = bundle(serde_json::from_str(item).unwrap());
        let named = ask(Bundles::Named("a".to_owned()), false);
        assert_eq!(anchors_of(&named, &[broken], &mut MOST_PICKED.clone()).unwrap(), Some(String::new()));
    }
}
