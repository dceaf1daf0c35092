//! Ranges of Service addresses: a tenant's API server gives a Service the super cluster's address only if it serves that, so that it is told to.
//!
//! *Sources*: KEP-1880 (`ServiceCIDR`).

use std::net::IpAddr;
use std::time::Duration;

use common::name::hash26;
use common::{Super, Tenant};
use runtime::address::Cidr;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::informer::page;
use crate::remote::{CallError, Remote};

const COLLECTION: &str = "/apis/networking.k8s.io/v1/servicecidrs";
/// Ranges that are looked at: nobody has as many.
const PAGE: usize = 500;
/// How soon it is looked at first whether a range that was made is served.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Deserialize)]
struct Range {
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    cidrs: Vec<String>,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

impl Range {
    /// The one of its networks that the address lies in.
    fn around(&self, address: IpAddr) -> Option<&str> {
        self.spec.cidrs.iter().map(String::as_str).find(|cidr| cidr.parse::<Cidr>().is_ok_and(|cidr| cidr.contains(address)))
    }

    fn is_ready(&self) -> bool {
        self.status.conditions.iter().any(|condition| condition.r#type == "Ready" && condition.status == "True")
    }
}

/// Has the tenant's API server serve the range that the super cluster has this address from.
///
/// *Errors*: it does not, for good (status 422), or not yet (status 503): a range that was just made takes a moment, after which to try again.
pub(crate) async fn serve(sup: &Remote<Super>, tenant: &Remote<Tenant>, address: IpAddr) -> Result<(), CallError> {
    let served = parse(&tenant.list(first_page(), None).await.map_err(unserved)?, "tenant")?;
    let around: Vec<&Range> = served.iter().filter(|range| range.around(address).is_some()).collect();
    if around.iter().any(|range| range.is_ready()) {
        return Ok(());
    }
    if around.is_empty() {
        make(sup, tenant, address).await?;
    }
    let message = format!("the range of the address {address} is not served yet");
    Err(CallError::Status { side: "tenant", code: 503, reason: "NotReady".into(), message, retry_after: Some(LOOK) })
}

async fn make(sup: &Remote<Super>, tenant: &Remote<Tenant>, address: IpAddr) -> Result<(), CallError> {
    let ranges = parse(&sup.list(first_page(), None).await?, "super")?;
    let Some(cidr) = ranges.iter().find_map(|range| range.around(address)) else {
        return Err(never("NoRange", format!("no ServiceCIDR of the super cluster holds the address {address}")));
    };
    let body = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": format!("vc-{}", hash26(&["vc-service-range-v1", cidr]))},
        "spec": {"cidrs": [cidr]},
    });
    match tenant.create(COLLECTION, body.to_string().into_bytes(), None).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_already_exists() => Ok(()),
        Err(error) => Err(unserved(error)),
    }
}

fn first_page() -> String {
    format!("{COLLECTION}?limit={PAGE}")
}

fn parse(bytes: &[u8], side: &'static str) -> Result<Vec<Range>, CallError> {
    let mut ranges = Vec::new();
    // What cannot be read is no range.
    let tell = |item: &RawValue| ranges.extend(serde_json::from_str::<Range>(item.get()).ok());
    page::read(bytes, "ServiceCIDR", tell).map_err(|source| CallError::Unreadable { side, source })?;
    Ok(ranges)
}

/// What is not there is not served, for good.
fn unserved(error: CallError) -> CallError {
    if error.is_not_found() {
        let message = "this API server knows no ServiceCIDR (networking.k8s.io/v1, since Kubernetes 1.33)".to_owned();
        return never("NoServiceCIDR", message);
    }
    error
}

fn never(reason: &str, message: String) -> CallError {
    CallError::Status { side: "tenant", code: 422, reason: reason.into(), message, retry_after: None }
}
