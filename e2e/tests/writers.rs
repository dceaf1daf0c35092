//! Every write for a tenant carries that tenant's own identity, which means nothing in another's namespaces; the syncer reads no Secrets.

use anyhow::Context as _;
use common::keys;
use e2e::{
    audit::Mark,
    bed::Bed,
    plane::client,
    story::{Actor, Story, chapter, is_running, pod},
    syncer::IDENTITY,
};
use http::Request;
use k8s_openapi::api::{authentication::v1::TokenRequest, core::v1::ServiceAccount};
use kube::{Api, Client, api::PostParams};
use serde_json::{Value, json};

const NAMESPACES: [&str; 2] = ["default", "shop"];

#[tokio::test(flavor = "multi_thread")]
async fn identities_reach_no_further_than_their_tenant() {
    let story = Story::begin("writers", 2).await.unwrap();
    for tenant in &story.tenants {
        tenant.make_namespace("shop").await.unwrap();
        for namespace in NAMESPACES {
            busy(tenant, namespace).await.unwrap();
        }
    }
    for tenant in &story.tenants {
        for namespace in NAMESPACES {
            tenant.sees("the Pod runs", namespace, "web", is_running).await.unwrap();
        }
    }
    let chapters = vec![
        chapter("a writer gets 403 in every namespace of the other tenant", strangers(&story)),
        chapter("each write for a tenant was its writer's", async { own_identity(&story) }),
        chapter("the syncer itself reads no tenant's Secret, nor anybody's", no_secrets(&story)),
    ];
    story.tell(chapters).await.unwrap();
}

/// A Pod with all that goes down beside one.
async fn busy(tenant: &Actor, namespace: &str) -> anyhow::Result<()> {
    let named = |kind: &str| json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": "web", "namespace": namespace } });
    tenant.apply(&named("ConfigMap")).await?;
    tenant.apply(&named("Secret")).await?;
    let mut service = named("Service");
    let mut pod = pod(
        "web",
        &json!({ "app": "web" }),
        &json!({ "volumes": [
        { "name": "s", "secret": { "secretName": "web" } }, { "name": "c", "configMap": { "name": "web" } }
    ] }),
    );
    if let (Some(service), Some(pod)) = (service.as_object_mut(), pod.pointer_mut("/metadata").and_then(Value::as_object_mut)) {
        service.insert("spec".to_owned(), json!({ "selector": { "app": "web" }, "ports": [{ "port": 80 }] }));
        pod.insert("namespace".to_owned(), json!(namespace));
    }
    tenant.apply(&service).await?;
    tenant.apply(&pod).await?;
    Ok(())
}

/// A client of the super cluster that is an account there.
async fn as_account(bed: &Bed, namespace: &str, name: &str) -> anyhow::Result<Client> {
    let accounts: Api<ServiceAccount> = Api::namespaced(bed.sup.client(), namespace);
    let answer = accounts.create_token_request(name, &PostParams::default(), &TokenRequest::default()).await;
    let answer = answer.with_context(|| format!("{namespace}/{name}"))?;
    let token = answer.status.and_then(|status| status.token).context("no token")?;
    let path = bed.dir().join(format!("as-{name}.kubeconfig"));
    std::fs::write(&path, bed.sup.kubeconfig_with_token(&token))?;
    client(&path).await
}

/// The status code that one request ends with.
async fn code(client: &Client, method: &str, path: &str, body: &Value) -> anyhow::Result<u16> {
    let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let bytes = if method == "GET" { Vec::new() } else { body.to_string().into_bytes() };
    let request = Request::builder().method(method).uri(path).header("content-type", content).body(bytes)?;
    match client.request::<Value>(request).await {
        Ok(_) => Ok(200),
        Err(kube::Error::Api(status)) => Ok(status.code),
        Err(error) => Err(error.into()),
    }
}

async fn strangers(story: &Story) -> anyhow::Result<()> {
    let mut tried = 0;
    for (at, tenant) in story.tenants.iter().enumerate() {
        let writer = as_account(&story.bed, keys::WRITERS_NAMESPACE, &tenant.id.writer()).await?;
        for own in NAMESPACES {
            let path = format!("/api/v1/namespaces/{}/pods/web", tenant.namespace_below(own));
            let code = code(&writer, "GET", &path, &Value::Null).await?;
            anyhow::ensure!(code == 200, "{}: {code} for its own Pod", tenant.name);
        }
        let others = story
            .tenants
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != at)
            .flat_map(|(_, other)| NAMESPACES.iter().map(|namespace| other.namespace_below(namespace)).collect::<Vec<_>>());
        let elsewhere = ["default", "kube-system", keys::SYSTEM_NAMESPACE, keys::WRITERS_NAMESPACE].map(str::to_owned);
        for namespace in others.chain(elsewhere) {
            for (method, rest, body) in tries(tenant) {
                let path = format!("/api/v1/namespaces/{namespace}/{rest}");
                let code = code(&writer, method, &path, &body).await?;
                anyhow::ensure!(code == 403, "{}: {method} {path} ended with {code}", tenant.name);
                tried += 1;
            }
        }
    }
    eprintln!("    {tried} requests ended with 403");
    Ok(())
}

/// What a writer may do in its own namespaces, and some more.
fn tries(tenant: &Actor) -> Vec<(&'static str, String, Value)> {
    let mut tries = Vec::new();
    for (plural, kind) in [("pods", "Pod"), ("services", "Service"), ("configmaps", "ConfigMap"), ("secrets", "Secret")] {
        let new =
            json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": "new", "labels": { keys::TENANT: tenant.id.as_str() } } });
        tries.extend([
            ("GET", format!("{plural}/web"), Value::Null),
            ("GET", plural.to_owned(), Value::Null),
            ("POST", plural.to_owned(), new),
            ("PATCH", format!("{plural}/web"), json!({ "metadata": { "labels": { "a": "b" } } })),
            ("DELETE", format!("{plural}/web"), json!({})),
            ("DELETE", plural.to_owned(), json!({})),
        ]);
    }
    tries.push(("PATCH", "pods/web/status".to_owned(), json!({ "status": { "message": "x" } })));
    tries.push((
        "POST",
        "serviceaccounts/default/token".to_owned(),
        json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {} }),
    ));
    tries
}

/// By the audit log: Pods, Services, `ConfigMaps`, Secrets in a tenant's namespaces were written by its writer and by nobody else of ours.
fn own_identity(story: &Story) -> anyhow::Result<()> {
    let calls = story.bed.sup.audit().since(Mark::default())?.writes();
    for tenant in &story.tenants {
        let own: Vec<_> = NAMESPACES.iter().map(|namespace| tenant.namespace_below(namespace)).collect();
        let kinds = ["pods", "services", "configmaps", "secrets"];
        let ours =
            calls.filter(|call| own.contains(&call.namespace) && kinds.contains(&call.resource.as_str()) && call.is_successful()).by("vc-");
        let account = format!("system:serviceaccount:{}:{}", keys::WRITERS_NAMESPACE, tenant.id.writer());
        let strange = ours.filter(|call| call.user != account);
        anyhow::ensure!(strange.is_empty(), "{}: not by {account}:\n{strange}", tenant.name);
        anyhow::ensure!(ours.len() >= 5 * NAMESPACES.len(), "{}: only\n{ours}", tenant.name);
    }
    Ok(())
}

async fn no_secrets(story: &Story) -> anyhow::Result<()> {
    let syncer = as_account(&story.bed, IDENTITY.0, IDENTITY.1).await?;
    let mut namespaces: Vec<_> =
        story.tenants.iter().flat_map(|tenant| NAMESPACES.map(|namespace| tenant.namespace_below(namespace))).collect();
    namespaces.extend(["default", "kube-system", keys::WRITERS_NAMESPACE].map(str::to_owned));
    let mut paths = vec!["/api/v1/secrets".to_owned(), "/api/v1/secrets?watch=true&timeoutSeconds=1".to_owned()];
    paths.extend(
        namespaces.iter().flat_map(|namespace| {
            [format!("/api/v1/namespaces/{namespace}/secrets"), format!("/api/v1/namespaces/{namespace}/secrets/web")]
        }),
    );
    for path in paths {
        let code = code(&syncer, "GET", &path, &Value::Null).await?;
        anyhow::ensure!(code == 403, "GET {path} ended with {code}");
    }
    // Nor did it try.
    let calls = story.bed.sup.audit().since(Mark::default())?.by(IDENTITY.1);
    let own = calls.filter(|call| call.resource == "secrets" && call.verb != "get" && call.is_successful());
    anyhow::ensure!(own.is_empty(), "the syncer itself did\n{own}");
    Ok(())
}
