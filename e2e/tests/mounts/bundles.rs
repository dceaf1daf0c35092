//! `ClusterTrustBundle`s in the Secret that a Pod mounts.

use e2e::{
    bed::{Bed, apply},
    pki::Authority,
    programs::Release,
    story::{PATIENCE, Story, pod, uid_of},
    wait::{Seen, eventually},
};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject},
    core::GroupVersionKind,
};
use serde_json::{Value, json};

use crate::tokens::secret_of;

/// A certificate authority's certificate.
fn anchor(bed: &Bed, name: &str) -> anyhow::Result<String> {
    let dir = bed.dir().join(name);
    std::fs::create_dir_all(&dir)?;
    Ok(Authority::create(name, &dir)?.pem())
}

/// How the tenants' API servers call a bundle: by its newest version, which is new in 1.37.
fn kind_of(bed: &Bed) -> ApiResource {
    let version = if bed.tenant_release == Release::Newest { "v1" } else { "v1beta1" };
    ApiResource::from_gvk(&GroupVersionKind::gvk("certificates.k8s.io", version, "ClusterTrustBundle"))
}

fn trust_bundle(kind: &ApiResource, name: &str, signer: Option<&str>, anchors: &[&str]) -> Value {
    json!({
        "apiVersion": kind.api_version, "kind": "ClusterTrustBundle", "metadata": { "name": name, "labels": { "for": "pods" } },
        "spec": { "signerName": signer, "trustBundle": anchors.concat() },
    })
}

pub(crate) async fn followed(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let kind = kind_of(&story.bed);
    let api: Api<DynamicObject> = Api::all_with(tenant.client(), &kind);
    let (one, two, three) = (anchor(&story.bed, "one")?, anchor(&story.bed, "two")?, anchor(&story.bed, "three")?);
    apply(&api, "ours", &trust_bundle(&kind, "ours", None, &[&one])).await?;
    apply(&api, "a.b:c:both", &trust_bundle(&kind, "a.b:c:both", Some("a.b/c"), &[&one, &two])).await?;
    let source = |asked: Value| json!({ "clusterTrustBundle": asked });
    let by_label = json!({ "matchLabels": { "for": "pods" } });
    let mounted = json!({ "volumes": [{ "name": "trust", "projected": { "sources": [
        source(json!({ "name": "ours", "path": "ours.pem" })),
        source(json!({ "signerName": "a.b/c", "labelSelector": by_label, "path": "signed.pem" })),
        source(json!({ "name": "none", "optional": true, "path": "none.pem" })),
        source(json!({ "name": "later", "path": "later.pem" })),
    ] } }] });
    tenant.apply(&pod("trusting", &json!({}), &mounted)).await?;
    let holds = async |what: &str, expected: [Option<&[&str]>; 4]| -> anyhow::Result<()> {
        eventually(format!("the files hold {what}"), PATIENCE, async || {
            let Ok(secret) = secret_of(tenant, "trusting").await else { return Ok(Seen::NotYet("no Secret".to_owned())) };
            let data = secret.data.unwrap_or_default();
            let text = |i: usize| data.get(&format!("bundle-{i}")).map(|bytes| String::from_utf8_lossy(&bytes.0).replace('\r', ""));
            let found: Vec<_> = (0..4).map(text).collect();
            let is_right = found.iter().zip(expected).all(|(found, expected)| match (found, expected) {
                (None, None) => true,
                (Some(found), Some(anchors)) => {
                    let all = anchors.iter().all(|anchor| found.contains(anchor.replace('\r', "").trim()));
                    all && found.matches("BEGIN CERTIFICATE").count() == anchors.len()
                }
                (Some(_), None) | (None, Some(_)) => false,
            });
            Ok(Seen::when(is_right, found))
        })
        .await
        .map(drop)
    };
    holds("what is there", [Some(&[&one]), Some(&[&one, &two]), Some(&[]), None]).await?;
    let above: Pod = tenant.above("default").get("trusting").await?;
    tenant.warned("default", &uid_of(&above), "spec.volumes[0].projected.sources[3].clusterTrustBundle").await?;
    apply(&api, "later", &trust_bundle(&kind, "later", None, &[&two])).await?;
    apply(&api, "ours", &trust_bundle(&kind, "ours", None, &[&three])).await?;
    api.delete("a.b:c:both", &DeleteParams::default()).await?;
    apply(&api, "a.b:c:new", &trust_bundle(&kind, "a.b:c:new", Some("a.b/c"), &[&three])).await?;
    holds("what is there later", [Some(&[&three]), Some(&[&three]), Some(&[]), Some(&[&two])]).await?;
    let below: Pod = tenant.below("default").get("trusting").await?;
    let own = serde_json::to_string(&below.spec)?;
    anyhow::ensure!(!own.contains("clusterTrustBundle"), "a bundle of the super cluster is mounted: {own}");
    Ok(())
}
