//! Certificates of Pods, with the test in the place of the signer.

use anyhow::Context as _;
use e2e::{
    pki::Authority,
    story::{Actor, PATIENCE, Story, pod, uid_of},
    wait::{Seen, eventually},
};
use jiff::{Timestamp, ToSpan as _};
use k8s_openapi::api::{certificates::v1::PodCertificateRequest, core::v1::Pod};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::{Value, json};

use crate::tokens::secret_of;

const SIGNER: &str = "virtualcluster.test/pods";

fn mounting(key_type: &str) -> Value {
    json!({ "volumes": [{ "name": "own", "projected": { "sources": [{ "podCertificate": {
        "signerName": SIGNER, "keyType": key_type, "maxExpirationSeconds": 86400, "credentialBundlePath": "bundle.pem",
        "userAnnotations": { "virtualcluster.test/for": key_type },
    } }] } }] })
}

/// Waits for the request of a Pod.
async fn request_of(tenant: &Actor, name: &str) -> anyhow::Result<PodCertificateRequest> {
    let api: Api<PodCertificateRequest> = tenant.above("default");
    eventually(format!("{name} asks its signer"), PATIENCE, async || {
        let all = api.list(&ListParams::default()).await?.items;
        let count = all.len();
        let own = all.into_iter().find(|request| request.spec.pod_name == name);
        Ok(own.map_or_else(|| Seen::NotYet(format!("{count} requests")), Seen::Done))
    })
    .await
}

async fn answer(tenant: &Actor, request: &PodCertificateRequest, status: Value) -> anyhow::Result<()> {
    let api: Api<PodCertificateRequest> = tenant.above("default");
    let name = request.metadata.name.as_deref().context("a request without a name")?;
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(&json!({ "status": status }))).await?;
    Ok(())
}

fn condition(kind: &str, message: &str) -> Value {
    json!([{ "type": kind, "status": "True", "reason": "Test", "message": message, "lastTransitionTime": Timestamp::now().to_string() }])
}

pub(crate) async fn issued(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    tenant.apply(&pod("named", &json!({}), &mounting("ECDSAP256"))).await?;
    let request = request_of(tenant, "named").await?;
    let above: Pod = tenant.above("default").get("named").await?;
    let spec = &request.spec;
    anyhow::ensure!(spec.pod_uid == uid_of(&above) && spec.signer_name == SIGNER, "{spec:?}");
    let node = above.spec.as_ref().and_then(|spec| spec.node_name.clone()).context("no node")?;
    anyhow::ensure!(spec.node_name == node && spec.max_expiration_seconds == Some(86_400), "{spec:?}");
    let told = spec.unverified_user_annotations.clone().unwrap_or_default();
    anyhow::ensure!(told.get("virtualcluster.test/for").map(String::as_str) == Some("ECDSAP256"), "{told:?}");
    // Nothing is mounted before the signer has answered.
    anyhow::ensure!(secret_of(tenant, "named").await.is_err(), "the Secret is there before the certificate");
    let dir = story.bed.dir().join("signer");
    std::fs::create_dir_all(&dir)?;
    let stub = &spec.stub_pkc_s10_request;
    // What the status says of times must be the certificate's own, to the second.
    let now = Timestamp::from_second(Timestamp::now().as_second())?;
    let (from, refresh, until) = (now - 1.minute(), now + 20.hours(), now + 23.hours());
    let chain = Authority::create("signer", &dir)?.sign(&stub.0, from.into(), until.into())?;
    let status = json!({
        "conditions": condition("Issued", "so be it"), "certificateChain": chain,
        "notBefore": from.to_string(), "beginRefreshAt": refresh.to_string(), "notAfter": until.to_string(),
    });
    answer(tenant, &request, status).await?;
    let secret = eventually("the certificate is mounted", PATIENCE, async || {
        Ok(match secret_of(tenant, "named").await {
            Ok(secret) => Seen::Done(secret),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    })
    .await?;
    let data = secret.data.unwrap_or_default();
    let text = |key: &str| data.get(key).map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).with_context(|| format!("no {key}"));
    let (bundle, key) = (text("certificate-0")?, text("certificate-0.key")?);
    anyhow::ensure!(bundle.starts_with(&key) && bundle.contains("BEGIN CERTIFICATE"), "key and chain are not one after the other");
    let key = KeyPair::from_pem(&key)?;
    let asked = rcgen::CertificateSigningRequestParams::from_der(&stub.0.clone().into())?;
    anyhow::ensure!(asked.public_key.der_bytes() == key.der_bytes(), "the key is not the one that was asked for");
    anyhow::ensure!(data.contains_key("token-0"), "the token is missing");
    Ok(())
}

pub(crate) async fn refused(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    tenant.apply(&pod("unloved", &json!({}), &mounting("ED25519"))).await?;
    let request = request_of(tenant, "unloved").await?;
    answer(tenant, &request, json!({ "conditions": condition("Denied", "not you") })).await?;
    let above: Pod = tenant.above("default").get("unloved").await?;
    tenant.warned("default", &uid_of(&above), "not you").await?;
    anyhow::ensure!(secret_of(tenant, "unloved").await.is_err(), "something is mounted");
    let all = tenant.above::<PodCertificateRequest>("default").list(&ListParams::default()).await?.items;
    let own = all.iter().filter(|request| request.spec.pod_name == "unloved").count();
    anyhow::ensure!(own == 1, "{own} requests");
    tenant.apply(&pod("too-dear", &json!({}), &mounting("RSA4096"))).await?;
    let above: Pod = tenant.above("default").get("too-dear").await?;
    tenant.warned("default", &uid_of(&above), "spec.volumes[0].projected.sources[0].podCertificate").await.map(drop)
}
