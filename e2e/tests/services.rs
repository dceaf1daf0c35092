//! Services: what the super cluster chose stands in the tenant's own copy, and what a tenant may not have is refused.

use anyhow::Context as _;
use common::keys;
use e2e::{
    bed::{BedOptions, Families, TENANT_USER},
    story::{Actor, NO_PATROL, PATIENCE, Plot, Story, chapter, is_running, owner_of, pod, reveals_nothing, uid_of},
    wait::{Seen, eventually},
};
use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    core::v1::{ConfigMap, Event, Pod, Service, ServicePort},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn node_ports_are_the_same_on_both_sides() {
    let story = Story::play(Plot::new("services-ports", 1).flag(NO_PATROL)).await.unwrap();
    let chapters = vec![
        chapter("a node port that the tenant asked for becomes the one that the super cluster gave", given_ports(&story)),
        chapter("where the tenant's server refuses it, a condition and an Event say so, until it does not", refused_ports(&story)),
        chapter("all that a load balancer says of its addresses comes up", balancers(&story)),
    ];
    story.tell(chapters).await.unwrap();
}

/// Both sides serve both families.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_has_addresses_of_both_families() {
    let plot = Plot::new("services-families", 1).flag("--external-endpoints=2001:db8::/64").flag(NO_PATROL);
    let bed = BedOptions { families: Families::Both, ..plot.bed.clone() };
    let story = Story::play(Plot { bed, ..plot }).await.unwrap();
    let chapters = vec![
        chapter("the tenant's own addresses are the super cluster's, in its order", both_kept(&story)),
        chapter("a second address comes and goes with the policy", second(&story)),
        chapter("where one of two is another's, the tenant is given others", one_taken(&story)),
        chapter("a slice of IPv6 addresses leads where it may", slice_of_ipv6(&story)),
    ];
    story.tell(chapters).await.unwrap();
    story.tell(vec![chapter("of other ranges the tenant is given both addresses", both_adopted(&story))]).await.unwrap();
    story.tell(vec![chapter("no write of all these changed nothing", story.syncer.wrote_nothing_in_vain())]).await.unwrap();
}

fn all_addresses(service: &Service) -> Vec<String> {
    service.spec.as_ref().and_then(|spec| spec.cluster_ips.clone()).unwrap_or_default()
}

/// What an API server says of families: how many a Service asks for, and which it has.
fn families(service: &Service) -> (Option<&str>, Vec<&str>) {
    let spec = service.spec.as_ref();
    let has = spec.and_then(|spec| spec.ip_families.as_ref()).into_iter().flatten().map(String::as_str).collect();
    (spec.and_then(|spec| spec.ip_family_policy.as_deref()), has)
}

/// Waits until both copies have the same addresses, families and policy, and those are these; gives the addresses.
async fn agree_on_families(tenant: &Actor, name: &str, policy: &str, wanted: &[&str]) -> anyhow::Result<Vec<String>> {
    let (above, below): (Api<Service>, Api<Service>) = (tenant.above("default"), tenant.below("default"));
    eventually(format!("{name} has {wanted:?} on both sides"), PATIENCE, async || {
        let (mine, held) = (above.get(name).await?, below.get_opt(name).await?);
        let Some(held) = held else { return Ok(Seen::NotYet("nothing is below".to_owned())) };
        let said = |service: &Service| format!("{:?} {:?}", families(service), all_addresses(service));
        let agreed = families(&mine) == (Some(policy), wanted.to_vec()) && said(&mine) == said(&held) && is_whole(&mine, "ClusterIP");
        Ok(if agreed { Seen::Done(all_addresses(&mine)) } else { Seen::NotYet(format!("{} above, {} below", said(&mine), said(&held))) })
    })
    .await
}

fn asking(policy: &str, families: &[&str]) -> Value {
    json!({ "ipFamilyPolicy": policy, "ipFamilies": families, "selector": { "app": "web" }, "ports": [{ "port": 80 }] })
}

async fn both_kept(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    for (name, policy, families) in [
        ("four-first", "RequireDualStack", &["IPv4", "IPv6"][..]),
        ("six-first", "PreferDualStack", &["IPv6", "IPv4"]),
        ("six-alone", "SingleStack", &["IPv6"]),
    ] {
        let made = tenant.apply(&service(name, &asking(policy, families))).await?;
        let given = made.data.pointer("/spec/clusterIPs").cloned().context("no addresses")?;
        let agreed = agree_on_families(tenant, name, policy, families).await?;
        anyhow::ensure!(given == json!(agreed), "{name} had {given}, and has {agreed:?}");
    }
    let mut headless = asking("RequireDualStack", &["IPv6", "IPv4"]);
    if let Some(spec) = headless.as_object_mut() {
        spec.insert("clusterIP".to_owned(), json!("None"));
    }
    tenant.apply(&service("six-headless", &headless)).await?;
    agree_on_families(tenant, "six-headless", "RequireDualStack", &["IPv6", "IPv4"]).await.map(drop)
}

async fn second(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let above: Api<Service> = tenant.above("default");
    tenant.apply(&service("grows", &asking("SingleStack", &["IPv4"]))).await?;
    let one = agree_on_families(tenant, "grows", "SingleStack", &["IPv4"]).await?;
    let change = async |spec: Value| above.patch("grows", &PatchParams::default(), &Patch::Merge(&json!({ "spec": spec }))).await;
    let more = change(json!({ "ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"] })).await?;
    let two = agree_on_families(tenant, "grows", "PreferDualStack", &["IPv4", "IPv6"]).await?;
    anyhow::ensure!(two.first() == one.first() && two == all_addresses(&more), "{one:?}, then {two:?}");
    change(json!({ "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"], "clusterIPs": one })).await?;
    anyhow::ensure!(agree_on_families(tenant, "grows", "SingleStack", &["IPv4"]).await? == one, "the address moved");
    Ok(())
}

async fn one_taken(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let theirs = service("theirs", &json!({ "ipFamilies": ["IPv6"], "clusterIP": "fd00:128::1:77", "ports": [{ "port": 80 }] }));
    Api::<Service>::namespaced(story.bed.sup.client(), "default").create(&PostParams::default(), &serde_json::from_value(theirs)?).await?;
    let mut asked = asking("RequireDualStack", &["IPv4", "IPv6"]);
    if let Some(spec) = asked.as_object_mut() {
        spec.insert("clusterIP".to_owned(), json!("10.128.0.77"));
        spec.insert("clusterIPs".to_owned(), json!(["10.128.0.77", "fd00:128::1:77"]));
    }
    let made = tenant.apply(&service("unlucky", &asked)).await?;
    tenant.warned("default", &uid_of(&made), "10.128.0.77 or fd00:128::1:77 is another's").await?;
    let given = agree_on_families(tenant, "unlucky", "RequireDualStack", &["IPv4", "IPv6"]).await?;
    anyhow::ensure!(!given.contains(&"fd00:128::1:77".to_owned()), "{given:?}");
    Ok(())
}

async fn slice_of_ipv6(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    tenant.apply(&service("six", &json!({ "ipFamilies": ["IPv6"], "ports": [{ "port": 80 }] }))).await?;
    let mut six = slice("six-1", "six", &["2001:db8::7", "fd00:244::1"]);
    if let Some(fields) = six.as_object_mut() {
        fields.insert("addressType".to_owned(), json!("IPv6"));
    }
    let made = tenant.apply(&six).await?;
    let held = leads_below(tenant, "six-1", &["2001:db8::7"]).await?;
    anyhow::ensure!(held.address_type == "IPv6", "{held:?}");
    tenant.warned("default", &uid_of(&made), "fd00:244::1").await.map(drop)
}

/// The range that the administrator recorded is not what the tenant serves.
async fn both_adopted(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    story.standing(0)?.change(&json!({ "spec": { "serviceCidr": "10.143.0.0/24,fd00:128::f:0/112" } })).await?;
    story.standing(0)?.records("10.143.0.0/24,fd00:128::f:0/112").await?;
    let made = tenant.apply(&service("foreign", &asking("RequireDualStack", &["IPv4", "IPv6"]))).await?;
    let own = made.data.pointer("/spec/clusterIPs").cloned().context("no addresses")?;
    let given = agree_on_families(tenant, "foreign", "RequireDualStack", &["IPv4", "IPv6"]).await?;
    anyhow::ensure!(own != json!(given), "it kept {own}");
    Ok(())
}

/// The super cluster serves none of the tenant's range, as where somebody brings a control plane, and one family alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_has_the_address_that_leads_somewhere() {
    let plot = Plot::new("services-addresses", 1).flag(NO_PATROL);
    let bed = BedOptions { range: "10.77".to_owned(), families: Families::BothInTenants, ..plot.bed.clone() };
    let story = Story::play(Plot { bed, ..plot }).await.unwrap();
    story.tell(vec![chapter("the tenant's copy is given the super cluster's address", adopted(&story))]).await.unwrap();
    let chapters = vec![
        chapter("where the tenant's server refuses it, a condition and an Event say so, and the Service is as it was", kept(&story)),
        chapter("what was begun by one who is no more is ended", ended(&story)),
        chapter("of two families the super cluster gives the one that it has, or says that it has no other", one_family(&story)),
    ];
    story.tell(chapters).await.unwrap();
    story.tell(vec![chapter("no write of all these changed nothing", story.syncer.wrote_nothing_in_vain())]).await.unwrap();
}

fn address(service: &Service) -> Option<&str> {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref())
}

async fn one_family(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    for (name, order) in [("four-preferred", ["IPv4", "IPv6"]), ("six-preferred", ["IPv6", "IPv4"])] {
        let made = tenant.apply(&service(name, &asking("PreferDualStack", &order))).await?;
        let below = tenant.holds_below("it goes down", "default", name, |_: &Service| true).await?;
        anyhow::ensure!(families(&below) == (Some("PreferDualStack"), vec!["IPv4"]), "{below:?}");
        let has_it = |service: &Service| address(service) == address(&below) && is_whole(service, "ClusterIP");
        let above: Service = tenant.sees("it has the address that leads somewhere", "default", name, has_it).await?;
        anyhow::ensure!(families(&above) == (Some("PreferDualStack"), vec!["IPv4", "IPv6"]), "it asks for less now: {above:?}");
        tenant.warned("default", &uid_of(&made), "spec.clusterIPs[1]: fd00:128::1:").await?;
    }
    let requires = tenant.apply(&service("requires", &asking("RequireDualStack", &["IPv4", "IPv6"]))).await?;
    tenant.warned("default", &uid_of(&requires), "not configured for dual-stack").await?;
    anyhow::ensure!(tenant.below::<Service>("default").get_opt("requires").await?.is_none(), "it went down");
    Ok(())
}

fn is_whole(service: &Service, kind: &str) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|spec| spec.type_.as_deref() == Some(kind) && spec.external_name.is_none())
        && !service.annotations().contains_key(keys::ADDRESS_CHANGES)
}

async fn adopted(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    for (name, kind) in [("inside", "ClusterIP"), ("outside", "NodePort")] {
        let spec = json!({ "type": kind, "selector": { "app": name }, "ports": [{ "port": 80 }], "sessionAffinity": "ClientIP" });
        tenant.apply(&service(name, &spec)).await?;
        let below = tenant.holds_below("it has an address", "default", name, |service: &Service| address(service).is_some()).await?;
        let given = address(&below).context("no address")?;
        anyhow::ensure!(!given.starts_with("10.77."), "the super cluster serves {given}");
        let has_it = |service: &Service| address(service) == Some(given) && is_whole(service, kind);
        let above: Service = tenant.sees("it has the same address", "default", name, has_it).await?;
        let spec = above.spec.unwrap_or_default();
        anyhow::ensure!(spec.session_affinity.as_deref() == Some("ClientIP") && spec.selector.is_some(), "{spec:?}");
        if kind == "NodePort" {
            agree_on_ports(tenant, name, &[80]).await?;
        }
    }
    let headless = service("headless", &json!({ "clusterIP": "None", "selector": { "app": "a" }, "ports": [{ "port": 80 }] }));
    tenant.apply(&headless).await?;
    let below = tenant.holds_below("it goes down", "default", "headless", |_: &Service| true).await?;
    anyhow::ensure!(address(&below) == Some("None"), "{below:?}");
    Ok(())
}

async fn kept(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let services: Api<Service> = tenant.above("default");
    forbid_strict(story).await?;
    let made = tenant.apply(&service("strict", &json!({ "selector": { "app": "web" }, "ports": [{ "port": 80 }] }))).await?;
    // Of either range: its API server serves the super cluster's by now, too.
    let own = made.data.pointer("/spec/clusterIP").and_then(Value::as_str).context("no address")?;
    let says = |service: &Service| {
        let conditions = service.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.is_some_and(|all| {
            all.iter().any(|one| one.type_ == keys::ADDRESS && one.status == "False" && one.message.contains("ports are ours"))
        })
    };
    let strict: Service = tenant.sees("a condition says that the address is not taken", "default", "strict", says).await?;
    anyhow::ensure!(address(&strict) == Some(own) && is_whole(&strict, "ClusterIP"), "not {own}: {strict:?}");
    tenant.warned("default", &uid_of(&strict), "leads nowhere").await?;
    anyhow::ensure!(services.get("inside").await.is_ok_and(|inside| is_whole(&inside, "ClusterIP")), "others were touched");
    Ok(())
}

async fn ended(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let half = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "half", "annotations": { keys::ADDRESS_CHANGES: "ClusterIP" } },
        "spec": { "type": "ExternalName", "externalName": "address-is-being-changed.invalid", "selector": { "app": "web" }, "ports": [{ "port": 80 }] },
    });
    tenant.apply(&half).await?;
    let below = tenant.holds_below("it has an address", "default", "half", |service: &Service| address(service).is_some()).await?;
    let is_ended = |service: &Service| is_whole(service, "ClusterIP") && address(service) == address(&below);
    tenant.sees("it is a Service with that address", "default", "half", is_ended).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn s22_services_without_a_selector_lead_to_pods_of_their_tenant() {
    let story = Story::play(Plot::new("services-slices", 2).flag("--external-endpoints=198.51.100.0/24").flag(NO_PATROL)).await.unwrap();
    let chapters = vec![
        chapter("what a tenant writes by hand goes down, but for addresses that are not its own", by_hand(&story)),
        chapter("Endpoints, as of old, go the same way", endpoints(&story)),
        chapter("slices of Services with a selector are not sent", computed(&story)),
    ];
    story.tell(chapters).await.unwrap();
    story.tell(vec![chapter("a name outside is the tenant's own DNS's to serve, and nothing below", aliases(&story))]).await.unwrap();
    story.tell(vec![chapter("addresses from outside are claimed by whom they are registered for", claimed(&story))]).await.unwrap();
    story.tell(vec![chapter("no write of all these changed nothing", story.syncer.wrote_nothing_in_vain())]).await.unwrap();
    story.tell(vec![chapter("nothing of the super cluster stands in a tenant", reveals_nothing(&story, &[]))]).await.unwrap();
}

/// S20: a Service that becomes an alias goes, and comes back as it was when it is none any more.
async fn aliases(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let above: Api<Service> = tenant.above("default");
    let spec = json!({ "type": "ExternalName", "externalName": "db.example.com", "ports": [{ "port": 80 }] });
    let made = tenant.apply(&service("alias", &spec)).await?;
    tenant.apply(&service("turns", &json!({ "selector": { "app": "web" }, "ports": [{ "port": 80 }] }))).await?;
    let before = tenant.holds_below("it is there", "default", "turns", |_: &Service| true).await?;
    let name = json!({ "spec": { "type": "ExternalName", "externalName": "kubernetes.default.svc.cluster.local" } });
    above.patch("turns", &PatchParams::default(), &Patch::Merge(&name)).await?;
    tenant.gone_below::<Service>("default", "turns").await?;
    let back = json!({ "spec": { "type": "ClusterIP", "externalName": null } });
    above.patch("turns", &PatchParams::default(), &Patch::Merge(&back)).await?;
    let after = tenant.holds_below("it is back", "default", "turns", |_: &Service| true).await?;
    anyhow::ensure!(uid_of(&before) != uid_of(&after), "it was never gone");
    anyhow::ensure!(tenant.below::<Service>("default").get_opt("alias").await?.is_none(), "the alias went down");
    let events: Api<Event> = tenant.above("default");
    let told = events.list(&ListParams::default().fields(&format!("involvedObject.uid={}", uid_of(&made)))).await?;
    anyhow::ensure!(told.items.is_empty(), "there is nothing to tell: {:?}", told.items);
    Ok(())
}

fn external_addresses(service: &Service) -> Vec<&str> {
    let spec = service.spec.as_ref();
    let list = spec.and_then(|spec| spec.external_ips.as_ref()).into_iter().flatten().map(String::as_str);
    list.chain(spec.and_then(|spec| spec.load_balancer_ip.as_deref())).collect()
}

/// S19: by the older of two registrations, in the ranges that the fence knows too.
async fn claimed(story: &Story) -> anyhow::Result<()> {
    let list = json!({ "data": { "test": "192.0.2.0/24" } });
    let lists: Api<ConfigMap> = Api::namespaced(story.bed.sup.client(), "vc-system");
    lists.patch("vc-external-addresses", &PatchParams::default(), &Patch::Merge(&list)).await?;
    let [older, younger] = crate::ingress::by_age(story).await?;
    let (first, second) = (story.tenant(older)?, story.tenant(younger)?);
    let register = async |i: usize, ranges: &[&str]| story.standing(i)?.change(&json!({ "spec": { "externalAddresses": ranges } })).await;
    let claims = json!({ "ports": [{ "port": 80 }], "selector": { "app": "web" }, "type": "LoadBalancer",
        "externalIPs": ["192.0.2.7", "192.0.2.17"], "loadBalancerIP": "192.0.2.8" });
    let made = second.apply(&service("outside", &claims)).await?;
    second.warned("default", &uid_of(&made), "spec.externalIPs[0]: 192.0.2.7 is left out: no address").await?;
    let claims_below = async |tenant: &Actor, wanted: &[&str]| {
        let claims = |service: &Service| external_addresses(service) == wanted;
        tenant.holds_below(&format!("it claims {wanted:?}"), "default", "outside", claims).await
    };
    let begun = claims_below(second, &[]).await?;
    // The younger has it first, and uses it.
    register(younger, &["192.0.2.0/27"]).await?;
    claims_below(second, &["192.0.2.7", "192.0.2.17", "192.0.2.8"]).await?;
    register(older, &["192.0.2.0/28"]).await?;
    let taken = story.standing(younger)?.says("Ready", "True", "ExternalAddressTaken").await?;
    anyhow::ensure!(taken.contains("192.0.2.0/27 (192.0.2.0/28 of VirtualCluster"), "{taken}");
    let left = claims_below(second, &["192.0.2.17"]).await?;
    second.warned("default", &uid_of(&made), "192.0.2.7 is left out: this address is registered for another").await?;
    first.apply(&service("outside", &claims)).await?;
    claims_below(first, &["192.0.2.7", "192.0.2.8"]).await?;
    anyhow::ensure!(
        uid_of(&begun) == uid_of(&left) && address(&begun) == address(&left),
        "it was made anew for want of an address: {left:?}"
    );
    // What is taken back goes, and what an administrator writes by mistake is told to him.
    register(older, &["10.0.0.1/8"]).await?;
    claims_below(first, &[]).await?;
    let wrong = story.standing(older)?.says("Ready", "True", "ExternalAddressInvalid").await?;
    anyhow::ensure!(wrong.contains("spec.externalAddresses") && wrong.contains("10.0.0.1/8"), "{wrong}");
    claims_below(second, &["192.0.2.7", "192.0.2.17", "192.0.2.8"]).await.map(drop)
}

/// Runs a Pod; its address.
async fn run(tenant: &Actor, name: &str) -> anyhow::Result<String> {
    tenant.apply(&pod(name, &json!({ "app": name }), &json!({ "terminationGracePeriodSeconds": 1 }))).await?;
    let pod: Pod = tenant.sees("it runs", "default", name, is_running).await?;
    pod.status.and_then(|status| status.pod_ip).context("a Pod that runs has no address")
}

fn slice(name: &str, service: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<Value> =
        addresses.iter().map(|address| json!({ "addresses": [address], "conditions": { "ready": true } })).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": name, "labels": { "kubernetes.io/service-name": service } },
        "endpoints": endpoints, "ports": [{ "name": "", "port": 8080, "protocol": "TCP" }],
    })
}

/// The addresses of a slice, in order.
fn addresses(slice: &EndpointSlice) -> Vec<&str> {
    slice.endpoints.iter().flatten().flat_map(|endpoint| &endpoint.addresses).map(String::as_str).collect()
}

async fn leads_below(tenant: &Actor, name: &str, wanted: &[&str]) -> anyhow::Result<EndpointSlice> {
    tenant.holds_below(&format!("it leads to {wanted:?}"), "default", name, |slice: &EndpointSlice| addresses(slice) == wanted).await
}

async fn by_hand(story: &Story) -> anyhow::Result<()> {
    let (tenant, other) = (story.tenant(0)?, story.tenant(1)?);
    let (a, b, theirs) = (run(tenant, "a").await?, run(tenant, "b").await?, run(other, "theirs").await?);
    tenant.apply(&service("manual", &json!({ "ports": [{ "port": 80, "targetPort": 8080 }] }))).await?;
    let made = tenant.apply(&slice("manual-1", "manual", &[&a, &theirs, "198.51.100.7", "192.0.2.1"])).await?;
    let held = leads_below(tenant, "manual-1", &[&a, "198.51.100.7"]).await?;
    let labels = held.metadata.labels.context("it has no labels")?;
    let label = |key: &str| labels.get(key).map(String::as_str);
    anyhow::ensure!(label("kubernetes.io/service-name") == Some("manual"), "{labels:?}");
    anyhow::ensure!(label("endpointslice.kubernetes.io/managed-by") == Some("vc-syncer"), "{labels:?}");
    let told = tenant.warned("default", &uid_of(&made), &theirs).await?;
    anyhow::ensure!(told.message.as_deref().is_some_and(|text| text.contains("endpoints[1].addresses[0]")), "{told:?}");
    tenant.apply(&slice("manual-1", "manual", &[&a, &b])).await?;
    leads_below(tenant, "manual-1", &[&a, &b]).await?;
    // The address may be another tenant's next: it goes with its Pod, whatever the tenant's copy says.
    tenant.above::<Pod>("default").delete("a", &DeleteParams::default()).await?;
    leads_below(tenant, "manual-1", &[&b]).await?;
    let above: EndpointSlice = tenant.above("default").get("manual-1").await?;
    anyhow::ensure!(addresses(&above) == [&a, &b], "the tenant's own copy is its own: {:?}", addresses(&above));
    // One that comes later is taken in as soon as it is there.
    let early = tenant.apply(&slice("manual-2", "manual", &["192.0.2.1"])).await?;
    tenant.warned("default", &uid_of(&early), "192.0.2.1").await?;
    leads_below(tenant, "manual-2", &[]).await?;
    tenant.above::<EndpointSlice>("default").delete("manual-1", &DeleteParams::default()).await?;
    tenant.gone_below::<EndpointSlice>("default", "manual-1").await
}

async fn endpoints(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(1)?;
    let address = run(tenant, "old").await?;
    tenant.apply(&service("old", &json!({ "ports": [{ "port": 80, "targetPort": 8080 }] }))).await?;
    let subsets = json!([{ "addresses": [{ "ip": address }], "ports": [{ "port": 8080 }] }]);
    tenant.apply(&json!({ "apiVersion": "v1", "kind": "Endpoints", "metadata": { "name": "old" }, "subsets": subsets })).await?;
    let below: Api<EndpointSlice> = tenant.below("default");
    let params = ListParams::default().labels("kubernetes.io/service-name=old");
    eventually("the tenant's controller has mirrored them, and they are below", PATIENCE, async || {
        let slices = below.list(&params).await?.items;
        Ok(Seen::when(slices.len() == 1 && slices.iter().all(|slice| addresses(slice) == [address.as_str()]), slices))
    })
    .await
    .map(drop)
}

async fn computed(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let address = run(tenant, "chosen").await?;
    tenant.apply(&service("chosen", &json!({ "selector": { "app": "chosen" }, "ports": [{ "port": 80, "targetPort": 8080 }] }))).await?;
    let params = ListParams::default().labels("kubernetes.io/service-name=chosen");
    let (above, below): (Api<EndpointSlice>, Api<EndpointSlice>) = (tenant.above("default"), tenant.below("default"));
    for slices in [&above, &below] {
        eventually("a controller has computed it", PATIENCE, async || {
            let found = slices.list(&params).await?.items;
            Ok(Seen::when(found.iter().any(|slice| addresses(slice) == [address.as_str()]), found))
        })
        .await?;
    }
    let found = below.list(&params).await?.items;
    let ours: Vec<_> = found.iter().filter(|slice| owner_of(*slice).is_ok()).collect();
    anyhow::ensure!(found.len() == 1 && ours.is_empty(), "{found:?}");
    Ok(())
}

fn service(name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name }, "spec": spec })
}

fn ports(service: &Service) -> Vec<ServicePort> {
    service.spec.as_ref().and_then(|spec| spec.ports.clone()).unwrap_or_default()
}

fn node_ports(service: &Service) -> Vec<Option<i32>> {
    ports(service).iter().map(|port| port.node_port).collect()
}

/// Waits until both copies have these ports, each with the same node port; gives them.
async fn agree_on_ports(tenant: &Actor, name: &str, wanted: &[i32]) -> anyhow::Result<Vec<i32>> {
    let (above, below): (Api<Service>, Api<Service>) = (tenant.above("default"), tenant.below("default"));
    eventually(format!("{name} has the same node ports on both sides"), PATIENCE, async || {
        let (mine, held) = (above.get(name).await?, below.get_opt(name).await?);
        let Some(held) = held else { return Ok(Seen::NotYet("nothing is below".to_owned())) };
        let numbers: Vec<i32> = ports(&mine).iter().map(|port| port.port).collect();
        let (asked, given) = (node_ports(&mine), node_ports(&held));
        let agreed = numbers == wanted && asked == given;
        match asked.iter().copied().collect::<Option<Vec<i32>>>().filter(|_| agreed) {
            Some(agreed) => Ok(Seen::Done(agreed)),
            None => Ok(Seen::NotYet(format!("{numbers:?}: {asked:?} above, {given:?} below"))),
        }
    })
    .await
}

async fn given_ports(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    // Somebody else has the port on the nodes already.
    let taken = service("taken", &json!({ "type": "NodePort", "ports": [{ "port": 80, "nodePort": 30080 }] }));
    Api::<Service>::namespaced(story.bed.sup.client(), "default").create(&PostParams::default(), &serde_json::from_value(taken)?).await?;
    let spec = json!({ "type": "NodePort", "selector": { "app": "web" }, "ports": [{ "name": "a", "port": 80, "nodePort": 30080 }] });
    tenant.apply(&service("web", &spec)).await?;
    let first = agree_on_ports(tenant, "web", &[80]).await?;
    anyhow::ensure!(first != [30080], "the port is the platform's");
    // Another port beside it, by somebody who does not say the first one's number.
    let both = json!([{ "op": "add", "path": "/spec/ports/-", "value": { "name": "b", "port": 81, "protocol": "UDP" } }]);
    let both: Patch<()> = Patch::Json(serde_json::from_value(both)?);
    tenant.above::<Service>("default").patch("web", &PatchParams::default(), &both).await?;
    let second = agree_on_ports(tenant, "web", &[80, 81]).await?;
    anyhow::ensure!(second.first() == first.first(), "the first port moved: {first:?}, now {second:?}");
    // A tenant that insists is told the truth again.
    let insists = json!([{ "op": "replace", "path": "/spec/ports/0/nodePort", "value": 30080 }]);
    let insists: Patch<()> = Patch::Json(serde_json::from_value(insists)?);
    tenant.above::<Service>("default").patch("web", &PatchParams::default(), &insists).await?;
    anyhow::ensure!(agree_on_ports(tenant, "web", &[80, 81]).await? == second, "the ports moved");
    let closed = json!({ "spec": { "type": "ClusterIP" } });
    tenant.above::<Service>("default").patch("web", &PatchParams::default(), &Patch::Merge(&closed)).await?;
    let is_closed = |service: &Service| node_ports(service).iter().all(Option::is_none);
    tenant.holds_below("no node port is open any more", "default", "web", is_closed).await?;
    tenant.sees("no node port is open any more", "default", "web", is_closed).await?;
    Ok(())
}

/// A rule of the tenant's own that lets nobody but people set node ports.
fn rule() -> [Value; 2] {
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": { "name": "ports-are-ours" },
        "spec": {
            "matchConstraints": { "resourceRules": [{ "apiGroups": [""], "apiVersions": ["*"], "operations": ["UPDATE"], "resources": ["services"] }] },
            "validations": [{ "expression": "request.userInfo.username != 'vc-syncer' || object.metadata.name != 'strict'", "message": "ports are ours" }],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": { "name": "ports-are-ours" },
        "spec": { "policyName": "ports-are-ours", "validationActions": ["Deny"] },
    });
    [policy, binding]
}

/// Waits until a write of the syncer's would be refused, or would not.
async fn rule_counts(services: &Api<Service>, counts: bool) -> anyhow::Result<()> {
    let (dry, change) = (PatchParams { dry_run: true, ..PatchParams::default() }, json!({ "metadata": { "labels": { "try": "one" } } }));
    let tried = eventually(format!("the rule counts: {counts}"), PATIENCE, async || {
        let tried = services.patch("strict", &dry, &Patch::Merge(&change)).await;
        Ok(Seen::when(tried.is_err() == counts, tried.map(drop)))
    });
    tried.await.map(drop)
}

/// From now on the syncer's own write to a Service `strict` is refused in the tenant; and the Services there, as the syncer writes them.
async fn forbid_strict(story: &Story) -> anyhow::Result<Api<Service>> {
    let tenant = story.tenant(0)?;
    let [policy, binding] = rule();
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(tenant.client());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(tenant.client());
    policies.create(&PostParams::default(), &serde_json::from_value(policy)?).await?;
    bindings.create(&PostParams::default(), &serde_json::from_value(binding)?).await?;
    // The rule counts once the syncer's own write would be refused.
    let file = story.bed.dir().join("as-the-syncer.kubeconfig");
    std::fs::write(&file, story.bed.tenant(0)?.kubeconfig_for(TENANT_USER, Some("system:masters"))?)?;
    let syncer = e2e::plane::client(&file).await?;
    let probe = service("strict", &json!({ "type": "NodePort", "ports": [{ "port": 1 }], "selector": { "app": "probe" } }));
    let mine: Api<Service> = Api::namespaced(syncer, "kube-public");
    mine.create(&PostParams::default(), &serde_json::from_value(probe)?).await?;
    rule_counts(&mine, true).await?;
    Ok(mine)
}

async fn refused_ports(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let mine = forbid_strict(story).await?;
    let spec = json!({ "type": "NodePort", "ports": [{ "port": 80, "nodePort": 32123 }], "selector": { "app": "web" } });
    tenant.apply(&service("strict", &spec)).await?;
    let told =
        |service: &Service| condition(service).is_some_and(|(status, message)| status == "False" && message.contains("ports are ours"));
    let strict = tenant.sees("a condition says that the port is not taken", "default", "strict", told).await?;
    tenant.warned("default", &uid_of(&strict), "ports are ours").await?;
    let held: Service = tenant.below("default").get("strict").await?;
    let number = node_ports(&held).first().copied().flatten().context("no node port is open")?;
    let (_, message) = condition(&strict).context("no condition")?;
    anyhow::ensure!(message.contains(&number.to_string()), "{message} does not say {number}");
    // All else goes on meanwhile.
    let other = json!({ "spec": { "selector": { "app": "other" } } });
    tenant.above::<Service>("default").patch("strict", &PatchParams::default(), &Patch::Merge(&other)).await?;
    let is_other = |service: &Service| {
        service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).is_some_and(|by| by.get("app").is_some_and(|app| app == "other"))
    };
    tenant.holds_below("the selector goes down", "default", "strict", is_other).await?;
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(tenant.client());
    bindings.delete("ports-are-ours", &DeleteParams::default()).await?;
    rule_counts(&mine, false).await?;
    let again = json!({ "metadata": { "labels": { "try": "again" } } });
    tenant.above::<Service>("default").patch("strict", &PatchParams::default(), &Patch::Merge(&again)).await?;
    anyhow::ensure!(agree_on_ports(tenant, "strict", &[80]).await? == [number], "the port moved");
    tenant.sees("the condition is gone", "default", "strict", |service: &Service| condition(service).is_none()).await?;
    Ok(())
}

fn condition(service: &Service) -> Option<(String, String)> {
    let conditions = service.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == keys::NODE_PORTS)?;
    Some((found.status.clone(), found.message.clone()))
}

async fn balancers(story: &Story) -> anyhow::Result<()> {
    let tenant = story.tenant(0)?;
    let spec = json!({
        "type": "LoadBalancer", "externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP", "selector": { "app": "web" },
        "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 77 } }, "loadBalancerSourceRanges": ["192.0.2.0/24"],
        "ports": [{ "name": "a", "port": 80 }, { "name": "b", "port": 81 }],
    });
    tenant.apply(&service("balanced", &spec)).await?;
    agree_on_ports(tenant, "balanced", &[80, 81]).await?;
    let held: Service = tenant.below("default").get("balanced").await?;
    let below = serde_json::to_value(held.spec)?;
    for (pointer, value) in [
        ("/externalTrafficPolicy", json!("Local")),
        ("/sessionAffinityConfig/clientIP/timeoutSeconds", json!(77)),
        ("/loadBalancerSourceRanges/0", json!("192.0.2.0/24")),
    ] {
        anyhow::ensure!(below.pointer(pointer) == Some(&value), "{pointer} is not {value} in {below}");
    }
    let ingress = json!([
        { "ip": "192.0.2.7", "ipMode": "Proxy", "ports": [{ "port": 80, "protocol": "TCP" }, { "port": 81, "protocol": "TCP", "error": "example.com/Taken" }] },
        { "hostname": "balanced.lb.example" },
    ]);
    let status = json!({ "status": { "loadBalancer": { "ingress": ingress } } });
    tenant.below::<Service>("default").patch_status("balanced", &PatchParams::default(), &Patch::Merge(&status)).await?;
    tenant
        .sees("the addresses came up", "default", "balanced", |service: &Service| {
            let seen =
                service.status.as_ref().and_then(|status| status.load_balancer.as_ref()).and_then(|balancer| balancer.ingress.as_ref());
            seen.is_some_and(|seen| serde_json::to_value(seen).is_ok_and(|seen| seen == ingress))
        })
        .await?;
    Ok(())
}
