//! What the fuzz targets check, as functions of bytes: the same laws run over the kept corpus in every ordinary test run.
//!
//! Each panics where a law is broken.

use std::sync::Arc;

use common::{Namespace, TenantId, Uid};
use http::Method;

use crate::filter::{Filter, Passed, Unreadable, View};
use crate::identity::Caller;
use crate::pods::Pods;
use crate::route::{Page, Place, Route};

/// A request line `GET /path?query`: what is accepted is sent on as plain ASCII and reads back as the same route.
pub fn route(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (method, target) = text.split_once(' ').unwrap_or(("GET", text));
    let Ok(method) = Method::from_bytes(method.as_bytes()) else { return };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let Ok(route) = Route::parse(&method, path, query) else { return };
    let place = match route.pod() {
        Some(pod) => Place { namespace: pod.namespace.as_str(), name: pod.name.as_str(), uid: pod.uid.unwrap_or_default() },
        None => Place { namespace: "a", name: "b", uid: Uid::default() },
    };
    let sent = route.at_kubelet(place);
    assert!(sent.bytes().all(|byte| byte.is_ascii_graphic()), "sent on as it came: {sent:?}");
    let (path, query) = sent.split_once('?').unwrap_or((&sent, ""));
    let again = Route::parse(&method, path, query).expect("what is sent on can be parsed");
    assert_eq!(again.at_kubelet(place), sent, "what is sent on means the same");
    assert!(route.at_api_server(place).is_none_or(|sent| sent.bytes().all(|byte| byte.is_ascii_graphic())));
}

/// The tenant that the filters are tried for.
const TENANT: Uid = Uid::from_bits(1);

/// One that must not show.
const OTHER: Uid = Uid::from_bits(2);

/// The super namespace of a tenant's `default`.
pub fn super_namespace(tenant: Uid) -> String {
    let default = Namespace::parse("default").expect("a plain word is a name");
    TenantId::new(tenant, "acme").namespace(&default).to_string()
}

/// The tenant's Pod: its name, and its UID on either side.
const OWN: (&str, Uid) = ("web", Uid::from_bits(7));

/// The other's. No word of the tenant's is in it.
const THEIRS: (&str, Uid) = ("theirs", Uid::from_bits(8));

/// A node with a Pod of each of two tenants in their namespaces `default`, as one of them may see it.
pub fn view() -> View {
    let pod = |tenant: Uid, (name, uid): (&str, Uid)| {
        let id = TenantId::new(tenant, "acme");
        let owner = serde_json::json!({"v": 1, "tenant": tenant.to_string(), "namespace": "default", "name": name, "uid": uid.to_string()});
        serde_json::json!({"metadata": {
            "namespace": super_namespace(tenant), "name": name, "uid": uid.to_string(),
            "labels": {common::keys::TENANT: id.as_str()},
            "annotations": {common::keys::OWNER: owner.to_string(), common::keys::CONTAINERS: "app"},
        }})
    };
    let list = serde_json::json!({"items": [pod(TENANT, OWN), pod(OTHER, THEIRS)]});
    let pods = Pods::read(list.to_string().as_bytes()).expect("a list that was just written is read");
    View::new(Arc::new(pods), TENANT)
}

/// What passes of a page in pieces; where it is cut makes no difference. The first byte says how large the pieces are.
fn filtered(page: Page, data: &[u8]) -> Result<Vec<u8>, Unreadable> {
    let (size, bytes) = data.split_first().map_or((1, data), |(size, bytes)| (usize::from(*size).max(1), bytes));
    let in_pieces = |size: usize| {
        let (mut filter, mut out) = (Filter::new(page, view()), Passed::default());
        bytes.chunks(size).try_for_each(|piece| filter.push(piece, &mut out))?;
        filter.finish(&mut out)?;
        let mut passed = out.release(filter.separator(), |_| true);
        passed.extend_from_slice(filter.closing(out.totals()).as_bytes());
        Ok(passed)
    };
    let whole = in_pieces(usize::MAX);
    assert_eq!(in_pieces(size), whole, "where the page was cut makes no difference");
    whole
}

/// A page of metrics: each line that passes is one of the tenant's, whatever stands on the page.
pub fn prometheus_page(data: &[u8]) {
    let out = filtered(Page::Resource, data).expect("a page of text can always be read");
    let out = String::from_utf8(out).expect("what passes is text");
    for sample in out.lines().filter(|line| !line.starts_with('#') && !line.starts_with("node_")) {
        assert!(sample.contains("namespace=\"default\"") && sample.contains("pod=\"web\""), "a sample of somebody: {sample}");
    }
}

/// A summary: what passes is of the tenant's Pod.
pub fn stats_page(data: &[u8]) {
    let Ok(out) = filtered(Page::Summary { only_cpu_and_memory: false }, data) else { return };
    let out: serde_json::Value = serde_json::from_slice(&out).expect("what passes is JSON");
    assert!(own(&out, "pods", "podRef"), "{out}");
}

/// A list of Pods, likewise; and as the list that Pods are learned from.
pub fn pods_page(data: &[u8]) {
    let _ = Pods::read(data);
    let Ok(out) = filtered(Page::Pods, data) else { return };
    let out: serde_json::Value = serde_json::from_slice(&out).expect("what passes is JSON");
    assert!(own(&out, "items", "metadata"), "{out}");
}

fn own(out: &serde_json::Value, list: &str, reference: &str) -> bool {
    let says =
        |item: &serde_json::Value, key: &str, value: &str| item.pointer(&format!("/{reference}/{key}")).is_some_and(|held| held == value);
    let items = out.get(list).and_then(serde_json::Value::as_array).into_iter().flatten();
    let (name, uid) = (OWN.0, OWN.1.to_string());
    items.into_iter().all(|item| says(item, "namespace", "default") && says(item, "name", name) && says(item, "uid", &uid))
}

/// A page as a kubelet of that node writes it: the tenant's Pod passes, and the other's is named nowhere, not even in passing.
///
/// No law for any bytes: what a kubelet says about the tenant's own Pod may hold any word.
pub fn genuine(page: Page, data: &[u8]) {
    let out = String::from_utf8(filtered(page, data).expect("the page can be read")).expect("what passes is text");
    assert!(out.contains(OWN.0), "nothing passes: {out}");
    for hidden in [THEIRS.0.to_owned(), THEIRS.1.to_string(), super_namespace(OTHER), super_namespace(TENANT)] {
        assert!(!out.contains(&hidden), "{hidden} is named: {out}");
    }
}

/// A certificate.
pub fn certificate(data: &[u8]) {
    if let Ok(caller) = Caller::of_certificate(data) {
        assert_eq!(Caller::of_uris(&[&caller.to_string()]), Ok(caller));
    }
}
