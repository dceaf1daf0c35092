//! Pages about the node: fetched whole, filtered, answered.
//!
//! *Guarantees*: one page at a time is held for filtering per node; what a page may be is bounded where it is read.

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

use crate::answer::{Failure, Hop};
use crate::backend::{Backend, Tenant};
use crate::filter::{View, pods, prometheus, stats};
use crate::route::Page;

/// What passes of a page, with its headers.
pub(crate) async fn answer(backend: &Backend, tenant: &Tenant, page: Page) -> Result<(HeaderMap, Vec<u8>), Failure> {
    let Backend::Kubelet(kubelet) = backend else {
        let message = "pages about a node need the kubelet as back end (--backend=kubelet)";
        return Err(Failure::new(StatusCode::NOT_FOUND, Hop::Agent, message));
    };
    let bytes = kubelet.page(page).await?;
    // Whose Pods are on the page is known by a list that is younger than the page: a name that meanwhile belongs to another is not shown.
    let view = View::new(kubelet.fresh().await?, tenant.uid);
    let (content_type, body) = match page {
        Page::Summary { .. } => ("application/json", stats::filter(&bytes, &view).map_err(|_| unreadable())?),
        Page::Pods => ("application/json", pods::filter(&bytes, &view).map_err(|_| unreadable())?),
        Page::Resource | Page::Cadvisor | Page::Probes => {
            let mut filter = prometheus::Filter::new(view);
            let mut out = String::new();
            filter.push(&bytes, &mut out);
            ("text/plain; version=0.0.4; charset=utf-8", out.into_bytes())
        }
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok((headers, body))
}

fn unreadable() -> Failure {
    Failure::new(StatusCode::BAD_GATEWAY, Hop::Kubelet, "the kubelet's page cannot be read")
}
