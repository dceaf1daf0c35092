//! Ingresses: under hosts that are registered for their tenant and a class that is published, with certificates; all else is refused.
//!
//! The super cluster's controller is this test: it writes the status that one would write. Rows S23 and S24 of `docs/threats.md`.

use anyhow::{Context as _, ensure};
use common::keys;
use e2e::{
    bed::{TENANT_USER, apply},
    story::{Actor, PATIENCE, Plot, Standing, Story, chapter, owner_of, reveals_nothing, uid_of},
    wait::{Seen, eventually},
};
use k8s_openapi::api::{
    core::v1::{Event, Secret},
    networking::v1::{Ingress, IngressClass},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn each_host_leads_to_the_tenant_that_it_is_registered_for() {
    // Nothing is left to the patrol.
    let story = Story::play(
        Plot::new("ingress", 2).flag("--patrol-interval=10m").flag("--annotations-down=nginx.ingress.kubernetes.io/,note.example/"),
    )
    .await
    .unwrap();
    prepare(&story).await.unwrap();
    story
        .tell(vec![chapter("the same Ingress in two tenants, each under its own host, with its own certificate", twins(&story))])
        .await
        .unwrap();
    let chapters = vec![
        chapter("what could take another's host is refused, and nothing of it is below", refused_hosts(&story)),
        chapter("so is what could configure the proxy", refused_settings(&story)),
        chapter("the addresses of the proxy come up, and what a tenant forges is put right", addressed(&story)),
    ];
    story.tell(chapters).await.unwrap();
    story.tell(vec![chapter("what a controller says of an Ingress comes up, without its words", told(&story))]).await.unwrap();
    story.tell(vec![chapter("of rules only so many go down, and the next when there is room", bounded(&story))]).await.unwrap();
    story.tell(vec![chapter("a change into what is refused changes nothing below", spoiled(&story))]).await.unwrap();
    story.tell(vec![chapter("a certificate goes with the last Ingress that needs it", certificates(&story))]).await.unwrap();
    story.tell(vec![chapter("a host that is taken from a tenant is its no longer, and comes back", withdrawn(&story))]).await.unwrap();
    story
        .tell(vec![chapter("it ends where its tenant is paused, or not reached, too: another may have it by now", unattended(&story))])
        .await
        .unwrap();
    story
        .tell(vec![chapter("nothing of the super cluster stands in a tenant", reveals_nothing(&story, &["platform-lb", OVERHEARD]))])
        .await
        .unwrap();
    story
        .tell(vec![chapter("of two registrations the older counts, and the younger once that is gone", overlapping(&story))])
        .await
        .unwrap();
    story.tell(vec![chapter("no write of all these changed nothing", story.syncer.wrote_nothing_in_vain())]).await.unwrap();
}

/// A name that a controller speaks of, which is no tenant's to know.
const OVERHEARD: &str = "shop.elsewhere.example.net";

/// A class that is published and one that is not, and a range of hosts for each tenant.
async fn prepare(story: &Story) -> anyhow::Result<()> {
    let classes: Api<IngressClass> = Api::all(story.bed.sup.client());
    for (name, labels, default) in [("public", json!({ keys::PUBLIC: "true" }), "true"), ("internal", json!({}), "false")] {
        let class = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
            "metadata": { "name": name, "labels": labels, "annotations": { "ingressclass.kubernetes.io/is-default-class": default } },
            "spec": { "controller": "example.com/proxy", "parameters": { "apiGroup": "k8s.example.com", "kind": "Proxy", "name": "platform-lb" } },
        });
        apply(&classes, name, &class).await?;
    }
    for (i, tenant) in story.tenants.iter().enumerate() {
        story.standing(i)?.change(&json!({ "spec": { "ingressHosts": [host(tenant, "*")] } })).await?;
        let classes: Api<IngressClass> = Api::all(tenant.client());
        let class = eventually(format!("{}: the class is there", tenant.name), PATIENCE, async || {
            Ok(classes.get_opt("public").await?.map_or_else(|| Seen::NotYet("none".to_owned()), Seen::Done))
        })
        .await?;
        let default = class.annotations().get("ingressclass.kubernetes.io/is-default-class").map(String::as_str);
        let spec = class.spec.clone().context("no spec")?;
        ensure!(
            default == Some("true") && spec.controller.as_deref() == Some("example.com/proxy") && spec.parameters.is_none(),
            "{spec:?}"
        );
        ensure!(classes.get_opt("internal").await?.is_none(), "{} sees what is not published", tenant.name);
    }
    Ok(())
}

/// What is registered for a tenant. Its own name would be a secret kept from the others.
fn domain(tenant: &Actor) -> String {
    format!("{}.example.com", tenant.name.replace("tenant-", "team"))
}

fn host(tenant: &Actor, first: &str) -> String {
    format!("{first}.{}", domain(tenant))
}

fn rule(host: &str, path: &str, path_type: &str) -> Value {
    json!({ "host": host, "http": { "paths": [
        { "path": path, "pathType": path_type, "backend": { "service": { "name": "web", "port": { "number": 80 } } } },
    ] } })
}

/// An Ingress of the published class with this rule; `change` is merged into its spec.
fn ingress(name: &str, rule: &Value, change: &Value) -> Value {
    let mut spec = json!({ "ingressClassName": "public", "rules": [rule] });
    if let (Some(spec), Some(change)) = (spec.as_object_mut(), change.as_object()) {
        spec.extend(change.clone());
    }
    json!({ "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": { "name": name }, "spec": spec })
}

fn annotated(name: &str, tenant: &Actor, annotations: &Value) -> Value {
    let mut object = ingress(name, &rule(&host(tenant, "www"), "/", "Prefix"), &json!({}));
    if let Some(meta) = object.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        meta.insert("annotations".to_owned(), annotations.clone());
    }
    object
}

/// A certificate for hosts, by the name of its Secret.
fn tls(hosts: &[&str], secret: &str) -> Value {
    json!({ "tls": [{ "hosts": hosts, "secretName": secret }] })
}

fn certificate(name: &str, of: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "type": "kubernetes.io/tls", "stringData": { "tls.crt": of, "tls.key": of } })
}

fn hosts(ingress: &Ingress) -> Vec<String> {
    let rules = ingress.spec.as_ref().and_then(|spec| spec.rules.clone()).unwrap_or_default();
    rules.into_iter().map(|rule| rule.host.unwrap_or_default()).collect()
}

async fn twins(story: &Story) -> anyhow::Result<()> {
    for tenant in &story.tenants {
        tenant.apply(&json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" }, "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] } })).await?;
        tenant.apply(&certificate("certificate", &tenant.name)).await?;
        let www = host(tenant, "www");
        // Its own class is the default, so that it need not be named.
        let mut object = ingress("web", &rule(&www, "/", "Prefix"), &tls(&[&www], "certificate"));
        object.pointer_mut("/spec").and_then(Value::as_object_mut).context("no spec")?.remove("ingressClassName");
        let notes = json!({ "note.example/a": "b", "cert-manager.io/issuer": "mine" });
        object.pointer_mut("/metadata").and_then(Value::as_object_mut).context("no metadata")?.insert("annotations".to_owned(), notes);
        tenant.apply(&object).await?;
    }
    for tenant in &story.tenants {
        let below = tenant.holds_below::<Ingress>("it is there", "default", "web", |_| true).await?;
        ensure!(hosts(&below) == [host(tenant, "www")], "{below:?}");
        let foreign: Vec<_> = below.annotations().keys().filter(|key| !key.starts_with(keys::GROUP)).collect();
        ensure!(foreign.is_empty() && owner_of(&below)?.tenant == tenant.id.uid(), "{foreign:?} went down");
        let spec = below.spec.context("no spec")?;
        ensure!(spec.ingress_class_name.as_deref() == Some("public"), "{:?}", spec.ingress_class_name);
        let secret = tenant.holds_below::<Secret>("its certificate is there", "default", "certificate", |_| true).await?;
        let held = secret.data.and_then(|data| data.get("tls.crt").map(|bytes| bytes.0.clone()));
        ensure!(held.as_deref() == Some(tenant.name.as_bytes()), "it has another's certificate");
    }
    Ok(())
}

/// Applies each, waits for the Event that names the field, and sees that nothing of it is below.
async fn are_refused(tenant: &Actor, tries: Vec<(&str, Value, &str)>) -> anyhow::Result<()> {
    for (name, object, said) in tries {
        let made = tenant.apply(&object).await?;
        tenant.warned("default", &uid_of(&made), said).await.with_context(|| format!("{name} is not refused"))?;
        let below = tenant.below::<Ingress>("default").get_opt(name).await?;
        ensure!(below.is_none(), "{name} went down: {below:?}");
    }
    Ok(())
}

async fn refused_hosts(story: &Story) -> anyhow::Result<()> {
    let (tenant, other) = (story.tenant(0)?, story.tenant(1)?);
    tenant.apply(&certificate("unneeded", "nobody")).await?;
    let (www, theirs) = (host(tenant, "www"), host(other, "www"));
    let of = |name: &str, host: &str| ingress(name, &rule(host, "/", "Prefix"), &json!({}));
    let tries = vec![
        ("outside", of("outside", "www.example.com"), "spec.rules[0].host: www.example.com is not registered"),
        ("theirs", of("theirs", &theirs), "spec.rules[0].host: www."),
        ("above", of("above", "*.example.com"), "spec.rules[0].host: *.example.com is not registered"),
        (
            "no-host",
            ingress("no-host", &json!({ "http": rule("", "/", "Prefix").get("http") }), &tls(&[&www], "unneeded")),
            "spec.rules[0].host: without a host",
        ),
        ("tls-theirs", ingress("tls-theirs", &rule(&www, "/", "Prefix"), &tls(&[&www, &theirs], "unneeded")), "spec.tls[0].hosts[1]"),
        ("tls-all", ingress("tls-all", &rule(&www, "/", "Prefix"), &json!({ "tls": [{ "secretName": "unneeded" }] })), "spec.tls[0].hosts"),
        (
            "default",
            ingress(
                "default",
                &rule(&www, "/", "Prefix"),
                &json!({ "defaultBackend": { "service": { "name": "web", "port": { "number": 80 } } } }),
            ),
            "spec.defaultBackend",
        ),
        ("platform", ingress("platform", &rule(&www, "/", "Prefix"), &json!({ "ingressClassName": "internal" })), "spec.ingressClassName"),
    ];
    are_refused(tenant, tries).await?;
    let secret = tenant.below::<Secret>("default").get_opt("unneeded").await?;
    ensure!(secret.is_none(), "the certificate of what is refused went down");
    // A wildcard that is wholly the tenant's is not.
    tenant.apply(&of("wild", &host(tenant, "*"))).await?;
    tenant.holds_below::<Ingress>("a wildcard of its own is there", "default", "wild", |_| true).await?;
    hostile_server(tenant).await
}

/// Hosts that no API server takes as it is shipped, and a hostile one does: they are tried where it looks less closely, in `tls`, and the rest is up
/// to the tables of `mirror/src/host.rs`.
async fn hostile_server(tenant: &Actor) -> anyhow::Result<()> {
    let www = host(tenant, "www");
    for (name, odd) in [("capitals", www.to_uppercase()), ("dot", format!("{www}."))] {
        let object = ingress(name, &rule(&www, "/", "Prefix"), &tls(&[&odd], "unneeded"));
        match tenant.apply(&object).await {
            Ok(made) => {
                tenant.warned("default", &uid_of(&made), "spec.tls[0].hosts[0]").await?;
                let below = tenant.below::<Ingress>("default").get_opt(name).await?;
                ensure!(below.is_none(), "{name} went down: {below:?}");
            }
            Err(error) => ensure!(format!("{error:#}").contains("is invalid"), "{error:#}"),
        }
    }
    Ok(())
}

async fn refused_settings(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(1)?;
    let www = host(tenant, "www");
    let of = |name: &str, path: &str, path_type: &str| ingress(name, &rule(&www, path, path_type), &json!({}));
    let snippet = json!({ "nginx.ingress.kubernetes.io/configuration-snippet": "return 200;" });
    let tries = vec![
        ("pattern", of("pattern", "/(.*)", "ImplementationSpecific"), "spec.rules[0].http.paths[0].path"),
        ("block", of("block", "/a{return 200;}", "Prefix"), "spec.rules[0].http.paths[0].path"),
        ("line", of("line", "/a\n", "Exact"), "spec.rules[0].http.paths[0].path"),
        ("snippet", annotated("snippet", tenant, &snippet), "metadata.annotations[nginx.ingress.kubernetes.io/configuration-snippet]"),
        ("alb", annotated("alb", tenant, &json!({ "alb.ingress.kubernetes.io/group.name": "all" })), "metadata.annotations[alb.ingress"),
        (
            "traefik",
            annotated("traefik", tenant, &json!({ "traefik.ingress.kubernetes.io/router.rule": "all" })),
            "metadata.annotations[traefik.",
        ),
    ];
    are_refused(tenant, tries).await
}

async fn addressed(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let balancer = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.7" }] } } });
    tenant.below::<Ingress>("default").patch_status("web", &PatchParams::default(), &Patch::Merge(&balancer)).await?;
    let address = |ingress: &Ingress| {
        let found = ingress.status.clone()?.load_balancer?.ingress?;
        found.first().and_then(|first| first.ip.clone())
    };
    let is_told = |ingress: &Ingress| address(ingress).as_deref() == Some("192.0.2.7");
    tenant.sees("it has the address", "default", "web", is_told).await?;
    let forged = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "198.51.100.1" }] } } });
    tenant.above::<Ingress>("default").patch_status("web", &PatchParams::default(), &Patch::Merge(&forged)).await?;
    tenant.sees("it has the address again", "default", "web", is_told).await?;
    let below = tenant.below::<Ingress>("default").get("web").await?;
    ensure!(is_told(&below), "the forged one went down: {:?}", below.status);
    Ok(())
}

/// One proxy serves everybody, and what its controller says of one's Ingress may be about another's.
async fn told(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(1)?;
    let (mine, below) = (tenant.above::<Ingress>("default").get("web").await?, tenant.below::<Ingress>("default").get("web").await?);
    let namespace = below.namespace().context("no namespace")?;
    let events: Api<Event> = Api::namespaced(story.bed.sup.client(), &namespace);
    // The first is about an earlier object of the name, and said to nobody.
    for (reason, uid) in [("Earlier", "00000000-0000-4000-8000-000000000001".to_owned()), ("Rejected", uid_of(&below))] {
        let event = json!({
            "metadata": { "generateName": "web.", "namespace": namespace },
            "involvedObject": { "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "namespace": namespace, "name": "web", "uid": uid },
            "type": "Warning", "reason": reason, "message": format!("the host \"{OVERHEARD}\" is defined already"), "count": 1,
            "source": { "component": "proxy-controller" },
        });
        events.create(&PostParams::default(), &serde_json::from_value(event)?).await?;
    }
    let heard = tenant.warned("default", &uid_of(&mine), "its words are for the administrator").await?;
    ensure!(heard.reason.as_deref() == Some("Rejected") && heard.involved_object.name.as_deref() == Some("web"), "{heard:?}");
    let all = tenant.above::<Event>("default").list(&ListParams::default()).await?;
    ensure!(all.iter().all(|event| event.reason.as_deref() != Some("Earlier")), "what was said of another object is said of this one");
    Ok(())
}

/// Ten times as much as one Ingress may have is all that a tenant may, and it has some already.
async fn bounded(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let above = tenant.above::<Ingress>("default");
    let paths: Vec<Value> = (0..499).filter_map(|i| rule("", &format!("/{i}"), "Exact").pointer("/http/paths/0").cloned()).collect();
    let large = json!({ "host": host(tenant, "www"), "http": { "paths": paths } });
    let name = |i: usize| format!("many-{i}");
    for i in 0..9 {
        tenant.apply(&ingress(&name(i), &large, &json!({}))).await?;
        tenant.holds_below::<Ingress>("there is room", "default", &name(i), |_| true).await?;
    }
    let made = tenant.apply(&ingress(&name(9), &large, &json!({}))).await?;
    let event = tenant.warned("default", &uid_of(&made), "of at most 5000").await?;
    ensure!(event.reason.as_deref() == Some("TooManyRules"), "{event:?}");
    ensure!(tenant.below::<Ingress>("default").get_opt(&name(9)).await?.is_none(), "it went down");
    above.delete(&name(0), &DeleteParams::default()).await?;
    tenant.holds_below::<Ingress>("there is room again", "default", &name(9), |_| true).await?;
    for i in 1..10 {
        above.delete(&name(i), &DeleteParams::default()).await?;
    }
    Ok(())
}

async fn spoiled(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(1)?;
    let (above, theirs) = (tenant.above::<Ingress>("default"), host(story.tenant(0)?, "www"));
    let before = tenant.below::<Ingress>("default").get("web").await?;
    let snippet = json!({ "nginx.ingress.kubernetes.io/server-snippet": "return 200;" });
    for (change, said) in [
        (json!({ "spec": { "rules": [rule(&theirs, "/", "Prefix")] } }), "spec.rules[0].host"),
        (json!({ "spec": { "tls": [{ "hosts": [&theirs], "secretName": "other" }] } }), "spec.tls[0].hosts[0]"),
        (json!({ "metadata": { "annotations": snippet } }), "metadata.annotations[nginx.ingress.kubernetes.io/server-snippet]"),
    ] {
        let good = above.get("web").await?;
        let bad = above.patch("web", &PatchParams::default(), &Patch::Merge(&change)).await?;
        tenant.warned("default", &uid_of(&bad), said).await?;
        let now = tenant.below::<Ingress>("default").get("web").await?;
        ensure!(now.uid() == before.uid() && now.spec == before.spec, "it is another below: {now:?}");
        let secret = tenant.below::<Secret>("default").get_opt("certificate").await?;
        ensure!(secret.is_some(), "what runs has lost its certificate");
        let back = json!({ "metadata": { "annotations": { "nginx.ingress.kubernetes.io/server-snippet": null } }, "spec": good.spec });
        above.patch("web", &PatchParams::default(), &Patch::Merge(&back)).await?;
    }
    let more = json!({ "spec": { "rules": [rule(&host(tenant, "www"), "/v2", "Exact")] } });
    above.patch("web", &PatchParams::default(), &Patch::Merge(&more)).await?;
    let path = |ingress: &Ingress| serde_json::to_value(ingress).ok()?.pointer("/spec/rules/0/http/paths/0/path").cloned();
    tenant.holds_below("what is allowed is changed", "default", "web", |ingress| path(ingress) == Some(json!("/v2"))).await.map(drop)
}

async fn certificates(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let shop = host(tenant, "shop");
    tenant.apply(&ingress("shop", &rule(&shop, "/", "Prefix"), &tls(&[&shop], "certificate"))).await?;
    tenant.holds_below::<Ingress>("a second one is there", "default", "shop", |_| true).await?;
    let above: Api<Ingress> = tenant.above("default");
    above.delete("web", &DeleteParams::default()).await?;
    tenant.gone_everywhere::<Ingress>("default", "web").await?;
    ensure!(tenant.below::<Secret>("default").get_opt("certificate").await?.is_some(), "the second one has lost its certificate");
    above.patch("shop", &PatchParams::default(), &Patch::Merge(&json!({ "spec": { "tls": null } }))).await?;
    tenant.gone_below::<Secret>("default", "certificate").await?;
    ensure!(tenant.above::<Secret>("default").get_opt("certificate").await?.is_some(), "the tenant's own is gone");
    Ok(())
}

async fn withdrawn(story: &Story) -> anyhow::Result<()> {
    let (tenant, standing) = (story.tenant(0)?, story.standing(0)?);
    let shop = host(tenant, "shop");
    let uid = uid_of(&tenant.above::<Ingress>("default").get("shop").await?);
    tenant.apply(&ingress("late", &rule("late.example.org", "/", "Prefix"), &json!({}))).await?;
    standing.change(&json!({ "spec": { "ingressHosts": ["late.example.org"] } })).await?;
    tenant.gone_below::<Ingress>("default", "shop").await?;
    tenant.warned("default", &uid, &format!("spec.rules[0].host: {shop} is not registered")).await?;
    tenant.holds_below::<Ingress>("what is registered now is there", "default", "late", |_| true).await?;
    standing.change(&json!({ "spec": { "ingressHosts": [host(tenant, "*"), "late.example.org"] } })).await?;
    tenant.holds_below::<Ingress>("it is back", "default", "shop", |ingress| hosts(ingress) == [shop.clone()]).await.map(drop)
}

/// A tenant for which nothing is written keeps no host by that.
async fn unattended(story: &Story) -> anyhow::Result<()> {
    let (tenant, standing) = (story.tenant(0)?, story.standing(0)?);
    let (all, www) = (host(tenant, "*"), host(tenant, "www"));
    let uid = uid_of(&tenant.above::<Ingress>("default").get("shop").await?);
    let register = async |hosts: &[&str]| standing.change(&json!({ "spec": { "ingressHosts": hosts } })).await;
    standing.change(&json!({ "spec": { "paused": true } })).await?;
    standing.says("Ready", "False", "Paused").await?;
    register(&[&www, "late.example.org"]).await?;
    tenant.gone_below::<Ingress>("default", "shop").await?;
    ensure!(tenant.below::<Ingress>("default").get_opt("late").await?.is_some(), "what is still the tenant's is gone");
    story.bed.put_kubeconfig(&tenant.name, "none").await?;
    standing.change(&json!({ "spec": { "weight": 2 } })).await?;
    standing.says("Ready", "False", "KubeconfigRefused").await?;
    register(&[&www]).await?;
    tenant.gone_below::<Ingress>("default", "late").await?;
    let kubeconfig = story.bed.tenant(0)?.kubeconfig_for(TENANT_USER, Some("system:masters"))?;
    story.bed.put_kubeconfig(&tenant.name, &kubeconfig).await?;
    standing.change(&json!({ "spec": { "paused": false } })).await?;
    standing.says("Ready", "True", "Synced").await?;
    tenant.warned("default", &uid, "spec.rules[0].host: shop.").await?;
    register(&[&all, "late.example.org"]).await?;
    for name in ["shop", "late"] {
        tenant.holds_below::<Ingress>("it is back", "default", name, |_| true).await?;
    }
    Ok(())
}

/// Which of the two tenants is older, and which younger.
pub(crate) async fn by_age(story: &Story) -> anyhow::Result<[usize; 2]> {
    let age = async |i: usize| -> anyhow::Result<_> {
        let object = story.standing(i)?.object().await?;
        Ok((object.creation_timestamp().map(|time| time.0), object.namespace(), object.name_any()))
    };
    Ok(if age(0).await? < age(1).await? { [0, 1] } else { [1, 0] })
}

async fn overlapping(story: &Story) -> anyhow::Result<()> {
    let [older, younger] = by_age(story).await?;
    let ((first, first_standing), (second, second_standing)) =
        ((story.tenant(older)?, story.standing(older)?), (story.tenant(younger)?, story.standing(younger)?));
    // The younger has it first, and uses it.
    let register = async |standing: &Standing, hosts: &[&str]| standing.change(&json!({ "spec": { "ingressHosts": hosts } })).await;
    register(&second_standing, &["*.shared.example.com", "own.example.com"]).await?;
    for (name, host) in [("shared", "app.shared.example.com"), ("whole", "*.shared.example.com"), ("own", "own.example.com")] {
        second.apply(&ingress(name, &rule(host, "/", "Prefix"), &json!({}))).await?;
        second.holds_below::<Ingress>("it is there", "default", name, |_| true).await?;
    }
    register(&first_standing, &["app.shared.example.com"]).await?;
    for name in ["shared", "whole"] {
        second.gone_below::<Ingress>("default", name).await?;
        let uid = uid_of(&second.above::<Ingress>("default").get(name).await?);
        let event = second.warned("default", &uid, "was registered for another control plane before").await?;
        ensure!(!event.message.unwrap_or_default().contains(&first.name), "it says whose it is");
    }
    let said = second_standing.says("Ready", "True", "IngressHostTaken").await?;
    ensure!(said.contains("app.shared.example.com") && said.contains(&first.name), "{said}");
    first.apply(&ingress("shared", &rule("app.shared.example.com", "/", "Prefix"), &json!({}))).await?;
    let held = first.holds_below::<Ingress>("the older has it", "default", "shared", |_| true).await?;
    first_standing.says("Ready", "True", "Synced").await?;
    let others = second.below::<Ingress>("default").list(&ListParams::default()).await?;
    ensure!(others.iter().any(|other| other.name_any() == "own"), "what overlaps nothing is gone");
    // What the younger does touches nothing of the older.
    register(&second_standing, &["*.shared.example.com", "own.example.com", "app.shared.example.com"]).await?;
    second.apply(&ingress("again", &rule("app.shared.example.com", "/again", "Prefix"), &json!({}))).await?;
    let uid = uid_of(&second.above::<Ingress>("default").get("again").await?);
    second.warned("default", &uid, "was registered for another control plane before").await?;
    ensure!(first.below::<Ingress>("default").get("shared").await?.uid() == held.uid(), "it was touched");
    first_standing.delete().await?;
    for name in ["shared", "whole", "again"] {
        second.holds_below::<Ingress>("the younger has it now", "default", name, |_| true).await?;
    }
    second_standing.says("Ready", "True", "Synced").await.map(drop)
}
