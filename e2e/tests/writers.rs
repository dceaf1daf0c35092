//! Every write for a tenant carries that tenant's own identity, which means nothing in another's namespaces; the syncer reads no Secrets.

use anyhow::Context as _;
use common::keys;
use e2e::{
    audit::Mark,
    bed::Bed,
    plane::client,
    story::{Actor, PATIENCE, Plot, Story, chapter, is_running, owner_of, pod},
    syncer::{IDENTITY, SyncerOptions, SyncerProcess},
    wait::{Seen, eventually},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::Request;
use k8s_openapi::api::{
    authentication::v1::TokenRequest,
    core::v1::{ConfigMap, Namespace, ServiceAccount},
    rbac::v1::ClusterRole,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, PostParams},
};
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
    story.tell(vec![chapter("whose weight is nine times as large is served nine times as often", weighed(&story))]).await.unwrap();
}

/// Objects of a tenant that wait at once.
const CROWD: usize = 150;

/// One worker, and work for many turns on both sides: then what the audit log of the super cluster shows is the order of turns.
async fn weighed(story: &Story) -> anyhow::Result<()> {
    story.syncer.process.stop().await?;
    let args = ["--workers=1", "--workers-per-tenant=1", "--sync-unreferenced"].map(str::to_owned).to_vec();
    let syncer = SyncerProcess::start_installed(&story.bed, SyncerOptions { args, ..Plot::syncer("weighed") }).await?;
    let told = async {
        turns(story, &syncer, "first", [1, 9]).await?;
        turns(story, &syncer, "second", [9, 1]).await
    };
    syncer.kept_alive(told).await
}

/// Gives the tenants their weights while the syncer runs, and both something to do while nothing can be written: then counts whose turn it was.
async fn turns(story: &Story, syncer: &SyncerProcess, round: &str, weights: [u8; 2]) -> anyhow::Result<()> {
    for (i, weight) in weights.into_iter().enumerate() {
        story.standing(i)?.change(&json!({ "spec": { "weight": weight } })).await?;
    }
    for tenant in &story.tenants {
        // Whatever comes after has the weight.
        tenant.apply(&map(&format!("{round}-before"))).await?;
        tenant.holds_below::<ConfigMap>("it went down", "default", &format!("{round}-before"), |_| true).await?;
    }
    story.standing(0)?.is_ready().await?;
    story.standing(1)?.is_ready().await?;
    let mark = story.bed.sup.audit().mark();
    // The super cluster takes nothing until all wait: whose events come first is no matter then.
    story.bed.sup.api_server.pause()?;
    let crowd = story.tenants.iter().flat_map(|tenant| (0..CROWD).map(move |i| (tenant, format!("{round}-{i}"))));
    let made = stream::iter(crowd).map(async |(tenant, name)| tenant.apply(&map(&name)).await.map(drop)).buffer_unordered(8);
    let wait = async {
        made.try_collect::<()>().await?;
        eventually("all wait", PATIENCE, async || {
            let waiting = syncer.metric("vc_queue_length", "").await?;
            Ok(Seen::when(waiting >= 0.95 * f64::from(u32::try_from(2 * CROWD)?), waiting))
        })
        .await
    };
    let waited = wait.await;
    story.bed.sup.api_server.resume()?;
    waited?;
    for tenant in &story.tenants {
        let maps: Api<ConfigMap> = tenant.below("default");
        eventually("all went down", PATIENCE, async || {
            let there = maps.list_metadata(&ListParams::default()).await?.iter().filter(|map| map.name_any().starts_with(round)).count();
            Ok(Seen::when(there == CROWD + 1, there))
        })
        .await?;
    }
    let heavy = usize::from(weights[1] > weights[0]);
    let calls = story.bed.sup.audit().since(mark)?.filter(|call| call.verb == "create" && call.resource == "configmaps");
    let of = |i: usize| story.tenant(i).map(|tenant| tenant.id.writer());
    let (heavy, light) = (of(heavy)?, of(1 - heavy)?);
    let turns: Vec<bool> = calls
        .0
        .iter()
        .filter(|call| call.is_successful())
        .filter_map(|call| if call.user.ends_with(&heavy) { Some(true) } else { call.user.ends_with(&light).then_some(false) })
        .collect();
    // While both have something to do.
    let both = turns.iter().skip_while(|is_heavy| !**is_heavy).take(CROWD / 2);
    let lights = both.filter(|is_heavy| !**is_heavy).count();
    anyhow::ensure!((1..=CROWD / 2 / 5).contains(&lights), "of {} turns, {lights} were the light one's: {turns:?}", CROWD / 2);
    Ok(())
}

fn map(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "is": "there" } })
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
    let sup = story.bed.sup.client();
    let tries = tries(&sup).await?;
    let spaces = Api::<Namespace>::all(sup).list(&ListParams::default()).await?.items;
    let mut count = 0;
    for tenant in &story.tenants {
        let writer = as_account(&story.bed, keys::WRITERS_NAMESPACE, &tenant.id.writer()).await?;
        // By the record: the label is there for informers.
        let whose = |space: &Namespace| owner_of(space).ok().map(|owner| owner.tenant);
        let (own, others): (Vec<_>, Vec<_>) = spaces.iter().partition(|space| whose(space) == Some(tenant.id.uid()));
        let of_tenants = others.iter().filter(|space| whose(space).is_some()).count();
        anyhow::ensure!(own.len() == NAMESPACES.len() && of_tenants == NAMESPACES.len(), "{} and {of_tenants}", own.len());
        for space in own {
            let path = format!("/api/v1/namespaces/{}/pods/web", space.name_any());
            let code = code(&writer, "GET", &path, &Value::Null).await?;
            anyhow::ensure!(code == 200, "{}: {code} for its own Pod", tenant.name);
        }
        for space in others {
            for (method, start, rest) in &tries {
                let path = format!("{start}/namespaces/{}/{rest}", space.name_any());
                let code = code(&writer, method, &path, &json!({})).await?;
                anyhow::ensure!(code == 403, "{}: {method} {path} ended with {code}", tenant.name);
                count += 1;
            }
        }
    }
    eprintln!("    {count} requests ended with 403, {} of each writer in each namespace", tries.len());
    Ok(())
}

/// What a writer may do in its own namespaces, by its role, and some more: method, what stands before the namespace, and behind it.
async fn tries(sup: &Client) -> anyhow::Result<Vec<(&'static str, String, String)>> {
    let role = Api::<ClusterRole>::all(sup.clone()).get(keys::WRITER_ROLE).await?;
    let mut tries = vec![("POST", "/api/v1".to_owned(), "serviceaccounts/default/token".to_owned())];
    for rule in role.rules.unwrap_or_default() {
        let group = rule.api_groups.unwrap_or_default().into_iter().next().unwrap_or_default();
        let start = if group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{}", newest(sup, &group).await?) };
        for resource in rule.resources.unwrap_or_default() {
            let one = resource.split_once('/').map_or_else(|| format!("{resource}/web"), |(plural, sub)| format!("{plural}/web/{sub}"));
            let of_one = ["GET", "PUT", "PATCH", "DELETE"].map(|method| (method, start.clone(), one.clone()));
            let watched = format!("{resource}?watch=true&timeoutSeconds=1");
            let of_all = [("GET", resource.clone()), ("GET", watched), ("POST", resource.clone()), ("DELETE", resource.clone())];
            tries.extend(of_one);
            tries.extend(of_all.into_iter().filter(|_| !resource.contains('/')).map(|(method, rest)| (method, start.clone(), rest)));
        }
    }
    // Each kind that goes down, and what of a Pod has a right of its own.
    let has = |rest: &str| tries.iter().any(|(_, _, known)| known == rest);
    let known =
        ["pods/web/ephemeralcontainers", "pods/web/resize", "pods/web/status", "secrets/web", "ingresses/web", "endpointslices/web"];
    anyhow::ensure!(known.iter().all(|rest| has(rest)) && tries.len() > 70, "only {} requests: {tries:?}", tries.len());
    Ok(tries)
}

/// A group with the version that its API server prefers.
async fn newest(sup: &Client, group: &str) -> anyhow::Result<String> {
    let groups = sup.list_api_groups().await?.groups;
    let found = groups.into_iter().find(|known| known.name == group).with_context(|| format!("no group {group}"))?;
    Ok(found.preferred_version.or_else(|| found.versions.into_iter().next()).context("no version")?.group_version)
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
