//! What a tenant sees of a node's pages: its own Pods under its own names, and nothing of anybody else.
//!
//! ```text
//! bytes of a page ─► Filter: which Pod is it about, and is that the tenant's? ─► Passed: held until that very Pod is known to be the
//!   tenant's still ─► bytes for the tenant
//! ```
//!
//! Built, not copied: a field or a label passes because it is named here. What is not known is left out.

pub mod elements;
mod fields;
mod passed;
pub mod pods;
pub mod prometheus;
pub mod stats;

use std::sync::Arc;

use common::Uid;

pub use self::passed::{Passed, Totals};
use crate::pods::{Pods, SuperPod};
use crate::route::Page;

/// A page that is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the page cannot be read")]
pub struct Unreadable;

/// The Pods of a node as one tenant may see them.
#[derive(Clone)]
pub struct View {
    pods: Arc<Pods>,
    tenant: Uid,
}

impl View {
    /// Of this tenant.
    pub fn new(pods: Arc<Pods>, tenant: Uid) -> Self {
        Self { pods, tenant }
    }

    /// The Pod at a place of the super cluster, if it is the tenant's.
    pub fn at(&self, namespace: &str, name: &str) -> Option<&SuperPod> {
        self.pods.at(self.tenant, namespace, name)
    }
}

/// What passes of one page, as it comes.
pub enum Filter {
    /// Metrics in the text format of Prometheus.
    Text(prometheus::Filter),
    /// `stats/summary`.
    Summary(stats::Filter),
    /// `pods`.
    Pods(pods::Filter),
}

impl Filter {
    /// Of this page, for one tenant.
    pub fn new(page: Page, view: View) -> Self {
        match page {
            Page::Summary { .. } => Self::Summary(stats::Filter::new(view)),
            Page::Pods => Self::Pods(pods::Filter::new(view)),
            Page::Resource => Self::Text(prometheus::Filter::with_totals(view)),
            Page::Cadvisor | Page::Probes => Self::Text(prometheus::Filter::new(view)),
        }
    }

    /// What the page is for who reads it.
    pub const fn content_type(&self) -> &'static str {
        match self {
            Self::Text(_) => "text/plain; version=0.0.4; charset=utf-8",
            Self::Summary(_) | Self::Pods(_) => "application/json",
        }
    }

    /// Takes the next bytes of the page and adds what passes to `out`.
    pub fn push(&mut self, bytes: &[u8], out: &mut Passed) -> Result<(), Unreadable> {
        match self {
            Self::Text(filter) => {
                filter.push(bytes, out);
                Ok(())
            }
            Self::Summary(filter) => filter.push(bytes, out),
            Self::Pods(filter) => filter.push(bytes, out),
        }
    }

    /// The page has ended.
    pub fn finish(&mut self, out: &mut Passed) -> Result<(), Unreadable> {
        match self {
            // What follows the last line's end is a line that was cut off.
            Self::Text(_) => Ok(()),
            Self::Summary(filter) => filter.finish(out),
            Self::Pods(filter) => filter.finish(out),
        }
    }

    /// What stands between two pieces about Pods.
    pub const fn separator(&self) -> &'static str {
        match self {
            Self::Text(_) => "",
            Self::Summary(_) | Self::Pods(_) => ",",
        }
    }

    /// What follows the last piece that was released.
    pub fn closing(&self, totals: Totals) -> String {
        match self {
            Self::Text(filter) => filter.closing(totals),
            Self::Summary(_) | Self::Pods(_) => String::new(),
        }
    }

    /// All that passes of a page that is all there, from a node on which nothing changes.
    pub fn whole(mut self, page: &[u8]) -> Result<Vec<u8>, Unreadable> {
        let mut out = Passed::default();
        self.push(page, &mut out)?;
        self.finish(&mut out)?;
        let mut passed = out.release(self.separator(), |_| true);
        passed.extend_from_slice(self.closing(out.totals()).as_bytes());
        Ok(passed)
    }
}

/// A text that holds no name of the super cluster any more: the Pod's UID and namespace become the tenant's.
///
/// Also in the form that systemd's cgroups have, where `-` is `_`.
pub fn renamed(text: &str, pod: &SuperPod) -> String {
    let (sup, tenant) = (pod.uid.to_string(), pod.owner.uid.to_string());
    let text = text.replace(&pod.namespace, pod.tenant_namespace.as_str());
    let text = if pod.name == pod.owner.name.as_str() { text } else { text.replace(&pod.name, pod.owner.name.as_str()) };
    text.replace(&sup, &tenant).replace(&sup.replace('-', "_"), &tenant.replace('-', "_"))
}
