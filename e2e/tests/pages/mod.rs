//! The pages of a node as a tenant gets them, held against those that the kubelet writes: all that is the tenant's must be there, under
//! its names, and nothing else.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context as _, ensure};
use common::keys;
use e2e::{
    agents::authority,
    alike::{Compared, Unlike, hides, settled},
    images::KUBECTL,
    metrics_server,
    pki::{Credentials, Identity, kubeconfig, write},
    plane,
    real_nodes::KUBELET_PORT,
    story::{Actor, Story, owner_of, uid_of},
};
use http::Request;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client, ResourceExt as _, api::ListParams};
use serde_json::Value;

const TEXTS: [&str; 3] = ["/metrics/resource", "/metrics/cadvisor", "/metrics/probes"];

/// Pods of another chapter, which come and go while these pages are read.
const RESTLESS: &str = "busy-";

/// One Pod of the tenant by its names below and above.
struct Own {
    below: [String; 3],
    above: [String; 3],
    containers: BTreeSet<String>,
}

impl Own {
    /// A text of the super cluster's in the tenant's words.
    fn renamed(&self, text: &str) -> String {
        self.below.iter().zip(&self.above).fold(text.to_owned(), |text, (below, above)| text.replace(below, above))
    }
}

/// Who asks for pages: the tenant with its certificates, and somebody who asks the kubelet itself. By a client that knows HTTP: pages come in
/// chunks, and are compared whole.
struct Reader {
    metrics: Client,
    pods: Client,
    kubelet: Client,
}

impl Reader {
    async fn of(story: &Story, i: usize, tenant: &Actor) -> anyhow::Result<Self> {
        let (dir, node) = (story.bed.dir(), story.real.first().context("there is no node")?);
        let agent = format!("https://{}", story.agent(0)?.address());
        let ca = read(&authority(dir), "crt")?;
        let client = async |name: &str, server: &str, ca: &str, identity: &Identity| {
            let path = dir.join(format!("{}-{name}.kubeconfig", tenant.name));
            write(&path, &kubeconfig(server, ca, &Credentials::Certificate(identity)))?;
            plane::client(&path).await
        };
        let kubelet = format!("https://{}:{KUBELET_PORT}", node.machine.address());
        let super_ca = story.bed.sup.authority();
        let anybody = super_ca.client("reads-pages", "reads-pages", Some("system:masters"))?;
        Ok(Self {
            metrics: client("metrics", &agent, &ca, &identity(&metrics_server::leaf(&story.bed, tenant))?).await?,
            pods: client("pods", &agent, &ca, &identity(&story.bed.tenant(i)?.kubelet_client())?).await?,
            kubelet: client("direct", &kubelet, &super_ca.pem(), &anybody).await?,
        })
    }
}

fn read(path: &Path, extension: &str) -> anyhow::Result<String> {
    let path = format!("{}.{extension}", path.display());
    std::fs::read_to_string(&path).with_context(|| format!("could not read {path}"))
}

fn identity(path: &Path) -> anyhow::Result<Identity> {
    Ok(Identity { certificate: read(path, "crt")?, key: read(path, "key")? })
}

async fn page(client: &Client, path: &str) -> anyhow::Result<String> {
    client.request_text(Request::get(path).body(Vec::new())?).await.with_context(|| format!("GET {path}"))
}

/// The tenant's Pods that stay, and what none of its pages may name.
async fn known(story: &Story, tenant: &Actor) -> anyhow::Result<(Vec<Own>, Vec<String>)> {
    let (mut own, mut hidden) = (Vec::new(), Vec::new());
    for pod in Api::<Pod>::all(story.bed.sup.client()).list(&ListParams::default()).await?.items {
        let (namespace, name, uid) = (pod.namespace().unwrap_or_default(), pod.name_any(), uid_of(&pod));
        hidden.extend([namespace.clone(), uid.clone()]);
        let Ok(owner) = owner_of(&pod) else {
            hidden.push(name);
            continue;
        };
        if owner.tenant != tenant.id.uid() {
            hidden.push(owner.uid.to_string());
            continue;
        }
        if !name.starts_with(RESTLESS) {
            let containers = pod.annotations().get(keys::CONTAINERS).context("the Pod's containers are not written down")?;
            own.push(Own {
                below: [namespace, name, uid],
                above: [
                    owner.namespace.map(|namespace| namespace.to_string()).unwrap_or_default(),
                    owner.name.to_string(),
                    owner.uid.to_string(),
                ],
                containers: containers.split(',').map(str::to_owned).collect(),
            });
        }
    }
    let node = story.real.first().context("there is no node")?;
    let info = Api::<Node>::all(story.bed.sup.client()).get(node.name()).await?.status.and_then(|status| status.node_info);
    let info = info.context("the node says nothing of itself")?;
    hidden.extend([info.machine_id, info.system_uuid, info.boot_id, info.kernel_version]);
    // The control group that a node's administrator has put everything below.
    hidden.push(node.machine.cgroup().to_owned());
    if tenant.id.uid() == story.tenant(0)?.id.uid() {
        hidden.extend(["only-of-second", "quiet", KUBECTL].map(str::to_owned));
    }
    hidden.retain(|text| !text.is_empty());
    Ok((own, hidden))
}

/// Each page of each tenant, against the kubelet's.
pub(crate) async fn compared(story: &Story) -> anyhow::Result<()> {
    for (i, tenant) in story.tenants.iter().enumerate() {
        let reader = Reader::of(story, i, tenant).await?;
        for path in TEXTS {
            let (lines, all) = settled(&tenant.name, path, async || texts(story, tenant, &reader, path).await).await?;
            eprintln!("    {} {path}: {lines} of {all} series", tenant.name);
        }
        let (values, all) = settled(&tenant.name, "/stats/summary", async || summary(story, tenant, &reader).await).await?;
        eprintln!("    {} /stats/summary: {values} of {all} values", tenant.name);
        let (pods, all) = settled(&tenant.name, "/pods", async || pods(story, tenant, &reader).await).await?;
        eprintln!("    {} /pods: {pods} of {all} Pods", tenant.name);
        let refused = page(&reader.metrics, "/pods").await.err().context("the certificate for metrics reaches /pods")?;
        ensure!(format!("{refused:#}").contains("for metrics and stats alone"), "{refused:#}");
    }
    Ok(())
}

fn difference<T: Ord + std::fmt::Debug>(expected: &BTreeSet<T>, found: &BTreeSet<T>) -> Result<usize, String> {
    let lacking: Vec<_> = expected.difference(found).take(5).collect();
    let strange: Vec<_> = found.difference(expected).take(5).collect();
    if lacking.is_empty() && strange.is_empty() && !expected.is_empty() {
        return Ok(expected.len());
    }
    Err(format!("of {} expected and {} found, lacking: {lacking:?}; strange: {strange:?}", expected.len(), found.len()))
}

/// Every line that is no comment, without its number: the name of a metric and its labels.
fn series(page: &str) -> Vec<String> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once("} ").map_or_else(|| line.to_owned(), |(series, _)| format!("{series}}}"))).collect()
}

fn label<'a>(series: &'a str, key: &str) -> Option<&'a str> {
    series.split(['{', ',']).find_map(|label| label.strip_prefix(key)?.strip_prefix("=\"")?.split('"').next())
}

async fn texts(story: &Story, tenant: &Actor, reader: &Reader, path: &str) -> anyhow::Result<Compared> {
    let (_, gone) = known(story, tenant).await?;
    let direct = page(&reader.kubelet, path).await?;
    let shown = page(&reader.metrics, path).await?;
    let (own, hidden) = known(story, tenant).await?;
    if let Err(leak) = hides(&[gone, hidden].concat(), path, &shown) {
        return Ok(Err(leak));
    }
    let all = series(&direct);
    let expected: BTreeSet<String> = all
        .iter()
        .filter_map(|series| {
            let pod =
                own.iter().find(|pod| label(series, "namespace") == Some(&pod.below[0]) && label(series, "pod") == Some(&pod.below[1]))?;
            let container = label(series, "container").unwrap_or_default();
            let is_own = container.is_empty() || container == "POD" || pod.containers.contains(container);
            is_own.then(|| pod.renamed(&outside_of_group(story, series)))
        })
        .collect();
    let rows = match of_node(path, &shown) {
        Ok(rows) => rows,
        Err(difference) => return Ok(Err(difference.into())),
    };
    let found: BTreeSet<String> =
        series(&rows).into_iter().filter(|series| !label(series, "pod").is_some_and(|pod| pod.starts_with(RESTLESS))).collect();
    Ok(documented(&direct, &rows).and_then(|()| Ok((difference(&expected, &found)?, all.len()))).map_err(Unlike::from))
}

/// A page without what it says of the node: the sums over the tenant's own Pods, on the one page where the kubelet says what the node uses.
fn of_node(path: &str, shown: &str) -> Result<String, String> {
    let about_node = |line: &&str| line.trim_start_matches("# HELP ").trim_start_matches("# TYPE ").starts_with("node_");
    let value = |line: &str| line.rsplit_once("} ").map_or(line, |(_, value)| value).split(' ').find_map(|word| word.parse::<f64>().ok());
    let sum = |name: &str| shown.lines().filter(|line| line.starts_with(name)).filter_map(value).sum::<f64>();
    let sums = [sum("pod_cpu_usage_seconds_total{"), sum("pod_memory_working_set_bytes{")];
    let said: Vec<&str> = shown.lines().filter(about_node).filter(|line| !line.starts_with('#')).collect();
    let expected: Vec<String> = ["node_cpu_usage_seconds_total", "node_memory_working_set_bytes"]
        .iter()
        .zip(sums)
        .filter(|_| path == "/metrics/resource")
        .map(|(name, sum)| format!("{name} {sum}"))
        .collect();
    let near = |(said, expected): (&&str, &String)| {
        let (said, expected) = (said.split_once(' '), expected.split_once(' '));
        let number = |of: Option<(&str, &str)>| of.and_then(|(_, number)| number.parse::<f64>().ok()).unwrap_or(f64::NAN);
        said.map(|of| of.0) == expected.map(|of| of.0) && number(expected) > 0.0 && (number(said) / number(expected) - 1.0).abs() < 1e-9
    };
    if said.len() != expected.len() || !said.iter().zip(&expected).all(near) {
        return Err(format!("of the node it says {said:?}, not {expected:?}"));
    }
    Ok(shown.lines().filter(|line| !about_node(line)).flat_map(|line| [line, "\n"]).collect())
}

/// A series without the name of the group that this bed has put everything below.
fn outside_of_group(story: &Story, series: &str) -> String {
    let group = story.real.first().map(|node| format!("/{}/", node.machine.cgroup())).unwrap_or_default();
    series.replace(&group, "/")
}

/// That each metric shown is explained as the kubelet explains it, and no other is.
fn documented(direct: &str, shown: &str) -> Result<(), String> {
    let comments = |page: &str| page.lines().filter(|line| line.starts_with('#')).map(str::to_owned).collect::<BTreeSet<_>>();
    let names: BTreeSet<String> = series(shown).iter().filter_map(|series| Some(series.split_once('{')?.0.to_owned())).collect();
    // A histogram has series of three kinds.
    let of_shown = |comment: &String| {
        let of = |name: &str| ["", "_bucket", "_count", "_sum"].iter().any(|end| names.contains(&format!("{name}{end}")));
        comment.split(' ').nth(2).is_some_and(of)
    };
    let expected: BTreeSet<_> = comments(direct).into_iter().filter(of_shown).collect();
    if comments(shown) == expected { Ok(()) } else { Err(format!("explained are {:?}, not {expected:?}", comments(shown))) }
}

fn at<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(page: &'a Value, list: &str) -> anyhow::Result<&'a Vec<Value>> {
    page.get(list).and_then(Value::as_array).with_context(|| format!("the page has no {list}"))
}

/// Where values are in a document; what stands in a list is told by its name.
fn shape(value: &Value, path: &str, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| shape(value, &format!("{path}.{key}"), out)),
        Value::Array(entries) => entries.iter().for_each(|entry| shape(entry, &format!("{path}[{}]", at(entry, "/name")), out)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => drop(out.insert(path.to_owned())),
    }
}

async fn summary(story: &Story, tenant: &Actor, reader: &Reader) -> anyhow::Result<Compared> {
    let (_, gone) = known(story, tenant).await?;
    let direct: Value = serde_json::from_str(&page(&reader.kubelet, "/stats/summary").await?)?;
    let text = page(&reader.metrics, "/stats/summary").await?;
    let (own, hidden) = known(story, tenant).await?;
    if let Err(leak) = hides(&[gone, hidden].concat(), "/stats/summary", &text) {
        return Ok(Err(leak));
    }
    let shown: Value = serde_json::from_str(&text)?;
    let (mut expected, mut found, mut all) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    shape(&direct, "", &mut all);
    for pod in items(&direct, "pods")? {
        let reference = ["/podRef/namespace", "/podRef/name", "/podRef/uid"].map(|pointer| at(pod, pointer).to_owned());
        if let Some(own) = own.iter().find(|own| own.below == reference) {
            shape(pod, &own.above.join("/"), &mut expected);
        }
    }
    for pod in items(&shown, "pods")? {
        let reference = ["/podRef/namespace", "/podRef/name", "/podRef/uid"].map(|pointer| at(pod, pointer).to_owned());
        if !reference[1].starts_with(RESTLESS) {
            shape(pod, &reference.join("/"), &mut found);
        }
    }
    let node = shown.get("node").and_then(Value::as_object).context("the page has no node")?;
    if node.keys().any(|key| !["nodeName", "startTime"].contains(&key.as_str())) {
        return Ok(Err(Unlike::Leaks(format!("of the node /stats/summary says {node:?}"))));
    }
    Ok(difference(&expected, &found).map(|own| (own, all.len())).map_err(Unlike::from))
}

/// What a list of Pods says of each: names, phase, addresses, containers and their states.
fn pod_facts(pod: &Value, own: Option<&Own>, out: &mut BTreeSet<String>) {
    let reference = ["/metadata/namespace", "/metadata/name", "/metadata/uid"].map(|pointer| at(pod, pointer));
    let whole = format!("{}: {} {} {}", reference.join("/"), at(pod, "/status/phase"), at(pod, "/status/podIP"), at(pod, "/spec/nodeName"));
    let named = |pointer: &str| pod.pointer(pointer).and_then(Value::as_array).into_iter().flatten().cloned().collect::<Vec<_>>();
    let specs =
        named("/spec/containers").into_iter().map(|container| format!("{} of {}", at(&container, "/name"), at(&container, "/image")));
    let statuses = named("/status/containerStatuses").into_iter().map(|status| {
        format!("{} is {}: {}", at(&status, "/name"), at(&status, "/containerID"), status.get("state").unwrap_or(&Value::Null))
    });
    let facts = std::iter::once(whole).chain(specs.chain(statuses).map(|fact| format!("{}: {fact}", reference[1])));
    out.extend(facts.map(|fact| own.map_or_else(|| fact.clone(), |own| own.renamed(&fact))));
}

async fn pods(story: &Story, tenant: &Actor, reader: &Reader) -> anyhow::Result<Compared> {
    let (_, gone) = known(story, tenant).await?;
    let direct: Value = serde_json::from_str(&page(&reader.kubelet, "/pods").await?)?;
    let text = page(&reader.pods, "/pods").await?;
    let (own, hidden) = known(story, tenant).await?;
    if let Err(leak) = hides(&[gone, hidden].concat(), "/pods", &text) {
        return Ok(Err(leak));
    }
    let shown: Value = serde_json::from_str(&text)?;
    let (mut expected, mut found, mut count) = (BTreeSet::new(), BTreeSet::new(), 0);
    for pod in items(&direct, "items")? {
        let reference = ["/metadata/namespace", "/metadata/name", "/metadata/uid"].map(|pointer| at(pod, pointer).to_owned());
        if let Some(own) = own.iter().find(|own| own.below == reference) {
            pod_facts(pod, Some(own), &mut expected);
            count += 1;
        }
    }
    items(&shown, "items")?
        .iter()
        .filter(|pod| !at(pod, "/metadata/name").starts_with(RESTLESS))
        .for_each(|pod| pod_facts(pod, None, &mut found));
    let all = items(&direct, "items")?.len();
    Ok(difference(&expected, &found).map(|_| (count, all)).map_err(Unlike::from))
}
