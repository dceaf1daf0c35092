//! Which tenants there are now: the `VirtualCluster` objects of the super cluster, listed and watched.
//!
//! *Guarantees*: before the first list there is nobody. One that is deleted, or is being deleted, is gone.
//!
//! *Caveats*: while the super cluster's API server does not answer, what was known last holds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use common::{Uid, keys};
use runtime::log::Chain;
use runtime::serve::Condition;
use runtime::transport::{Call, Transport, TransportError};
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::identity::serial_number;
use crate::way::Way;

const PATH: &str = "/apis/tenancy.x-k8s.io/v1alpha1/virtualclusters";
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// Objects a page.
const PAGE: usize = 500;

/// Waits after a failed list: from a blink to what an operator bears.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The tenants at one moment, by the UID of each one's `VirtualCluster`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenants(HashMap<Uid, Known>);

/// What is known of one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    /// The name of its `VirtualCluster`.
    name: Arc<str>,
    /// The serial numbers of its certificates that count no more, as [`serial_number`] has them.
    revoked: Arc<[String]>,
}

impl Tenants {
    /// The name of a tenant's `VirtualCluster`; nothing if there is no such tenant.
    pub fn name(&self, tenant: Uid) -> Option<Arc<str>> {
        self.0.get(&tenant).map(|known| known.name.clone())
    }

    /// Whether a certificate of a tenant's, by its serial number, counts no more.
    pub fn has_revoked(&self, tenant: Uid, serial: &str) -> bool {
        self.0.get(&tenant).is_some_and(|known| known.revoked.iter().any(|revoked| revoked == serial))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn apply(&mut self, object: &Object) {
        let meta = &object.metadata;
        let Ok(uid) = Uid::parse(&meta.uid) else { return };
        if meta.deletion_timestamp.is_some() {
            self.0.remove(&uid);
        } else {
            self.0.insert(uid, Known { name: meta.name.as_str().into(), revoked: revoked(meta) });
        }
    }

    fn remove(&mut self, object: &Object) {
        if let Ok(uid) = Uid::parse(&object.metadata.uid) {
            self.0.remove(&uid);
        }
    }
}

impl FromIterator<(Uid, String)> for Tenants {
    fn from_iter<I: IntoIterator<Item = (Uid, String)>>(tenants: I) -> Self {
        let known = |name: String| Known { name: name.into(), revoked: Arc::default() };
        Self(tenants.into_iter().map(|(uid, name)| (uid, known(name))).collect())
    }
}

/// What the annotation says; a part of it that is no serial number is told of, and the others count.
fn revoked(meta: &Metadata) -> Arc<[String]> {
    let Some(text) = meta.annotations.get(keys::REVOKED_CERTIFICATES) else { return Arc::default() };
    let parts = text.split(',').filter(|part| !part.trim().is_empty());
    let serials: Vec<_> = parts.map(serial_number).collect();
    if serials.contains(&None) {
        let wrong = serials.iter().filter(|serial| serial.is_none()).count();
        warn!(
            virtual_cluster = meta.name,
            annotation = keys::REVOKED_CERTIFICATES,
            wrong,
            "not serial numbers in hexadecimal; they revoke nothing"
        );
    }
    serials.into_iter().flatten().collect()
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    name: String,
    uid: String,
    deletion_timestamp: Option<String>,
    annotations: HashMap<String, String>,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    metadata: ListMetadata,
    /// An API server says `null` where a list of metadata has none.
    items: Option<Vec<Object>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ListMetadata {
    resource_version: String,
    #[serde(rename = "continue")]
    next: String,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: serde_json::Value,
}

/// Why the tenants are not known.
#[derive(Debug, thiserror::Error)]
enum TenantsError {
    #[error("could not ask the super cluster's API server for VirtualClusters")]
    Transport(#[from] TransportError),
    #[error("the super cluster's API server answered {0} to a list of VirtualClusters")]
    Status(http::StatusCode),
    #[error("the super cluster's API server answered something else than VirtualClusters")]
    Unreadable(#[from] serde_json::Error),
    #[error("the watch of VirtualClusters is to be begun anew")]
    Expired,
}

/// Keeps `tenants` as the super cluster has them, until `stop`; asks anew when the way there has changed.
pub async fn follow(mut ways: watch::Receiver<Arc<Way>>, tenants: watch::Sender<Arc<Tenants>>, ready: Condition, stop: CancellationToken) {
    let mut wait = FIRST_WAIT;
    loop {
        let transport = ways.borrow_and_update().transport.clone();
        let once = async {
            let (known, version) = list(&transport).await?;
            info!(tenants = known.len(), "tenants are known");
            publish(&tenants, known);
            ready.set_ready();
            watch(&transport, &tenants, version).await
        };
        let result = tokio::select! {
            () = stop.cancelled() => return,
            result = once => result,
            // Whoever publishes is gone only when the process ends.
            Ok(()) = ways.changed() => continue,
        };
        match result {
            Ok(()) | Err(TenantsError::Expired) => {
                debug!("listing VirtualClusters again");
                wait = FIRST_WAIT;
            }
            Err(error) => {
                warn!(error = %Chain(&error), "VirtualClusters are not known anew");
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            Ok(()) = ways.changed() => {}
        }
    }
}

fn publish(tenants: &watch::Sender<Arc<Tenants>>, known: Tenants) {
    tenants.send_if_modified(|current| {
        let is_news = **current != known;
        if is_news {
            *current = Arc::new(known);
        }
        is_news
    });
}

async fn list(transport: &Transport) -> Result<(Tenants, String), TenantsError> {
    let mut known = Tenants::default();
    let mut next = String::new();
    loop {
        let mut call =
            Call::list(format!("{PATH}?limit={PAGE}{}", if next.is_empty() { String::new() } else { format!("&continue={next}") }));
        call.accept = METADATA_LIST;
        let reply = transport.call(call).await?;
        if reply.status == http::StatusCode::GONE {
            return Err(TenantsError::Expired);
        }
        if reply.status != http::StatusCode::OK {
            return Err(TenantsError::Status(reply.status));
        }
        let page: List = serde_json::from_slice(&reply.body)?;
        page.items.iter().flatten().for_each(|object| known.apply(object));
        if page.metadata.next.is_empty() {
            return Ok((known, page.metadata.resource_version));
        }
        next = encoded(&page.metadata.next);
    }
}

/// A continue token as it may stand in a query.
fn encoded(text: &str) -> String {
    let mut query = crate::route::query::Query::default();
    query.push("c", text.as_bytes());
    query.after("").trim_start_matches("?c=").to_owned()
}

/// Ends well when the server ends the watch: the next one begins with a list, which is short.
async fn watch(transport: &Transport, tenants: &watch::Sender<Arc<Tenants>>, version: String) -> Result<(), TenantsError> {
    let path = format!("{PATH}?watch=true&allowWatchBookmarks=true&resourceVersion={}", encoded(&version));
    let mut lines = transport.watch_as(&path, METADATA, None).await?;
    while let Some(line) = lines.next().await {
        let event: Event = serde_json::from_slice(&line?)?;
        if event.kind == "ERROR" {
            return Err(TenantsError::Expired);
        }
        if event.kind == "BOOKMARK" {
            continue;
        }
        let object: Object = serde_json::from_value(event.object)?;
        let mut known = Tenants::clone(&tenants.borrow());
        if event.kind == "DELETED" {
            known.remove(&object);
        } else {
            known.apply(&object);
        }
        publish(tenants, known);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(uid: u128, deleted: Option<&str>) -> Object {
        serde_json::from_value(json!({"metadata": {"name": "acme", "uid": Uid::from_bits(uid).to_string(), "deletionTimestamp": deleted}}))
            .unwrap()
    }

    #[test]
    fn one_that_is_being_deleted_is_gone() {
        let mut tenants = Tenants::default();
        tenants.apply(&object(1, None));
        tenants.apply(&object(2, None));
        assert_eq!(tenants.name(Uid::from_bits(1)).as_deref(), Some("acme"));
        tenants.apply(&object(1, Some("2026-01-01T00:00:00Z")));
        assert_eq!(tenants.name(Uid::from_bits(1)), None);
        tenants.remove(&object(2, None));
        assert!(tenants.is_empty());
    }

    #[test]
    fn s61_certificates_are_revoked_by_an_annotation() {
        let mut tenants = Tenants::default();
        let annotated = |text: &str| -> Object {
            let uid = Uid::from_bits(1).to_string();
            let annotations = json!({keys::REVOKED_CERTIFICATES: text});
            serde_json::from_value(json!({"metadata": {"name": "acme", "uid": uid, "annotations": annotations}})).unwrap()
        };
        tenants.apply(&annotated("0A:1B, serial=FF, nonsense,"));
        let revoked = |tenants: &Tenants, serial| tenants.has_revoked(Uid::from_bits(1), serial);
        assert!(revoked(&tenants, "a1b") && revoked(&tenants, "ff"));
        assert!(!revoked(&tenants, "1b") && !tenants.has_revoked(Uid::from_bits(2), "a1b"));
        tenants.apply(&annotated(""));
        assert!(!revoked(&tenants, "ff"));
    }

    /// As Kubernetes 1.37 answers where no tenant is there yet, or the last one is gone.
    #[test]
    fn a_list_of_nobody_is_a_list() {
        for items in ["null", "[]"] {
            let page: List = serde_json::from_str(&format!(r#"{{"metadata": {{"resourceVersion": "7"}}, "items": {items}}}"#)).unwrap();
            assert_eq!((page.items.into_iter().flatten().count(), page.metadata.resource_version.as_str()), (0, "7"), "{items}");
        }
    }

    #[test]
    fn a_continue_token_is_encoded() {
        assert_eq!(encoded("a+b/c="), "a%2Bb%2Fc%3D");
    }
}
