//! Event: what the super cluster says about a copy of a tenant's object is told to the tenant, about its own object and in its own names.

use common::name::hash26;
use common::{InSuper, InTenant, Uid, keys};
use serde_json::{Map, Value, json};

use crate::cx::Cx;
use crate::hold::Hold;
use crate::kind::{About, Audience, Downward, Hearsay, KindId, Resource, Upward};
use crate::object::{Content, Object};
use crate::scrub::Scrub;

/// The kind.
pub struct Event;

/// Fields that go up as they are: what happened, how often and when. Not `related`: it names another object of the super cluster.
const CARRIED: [&str; 9] =
    ["action", "count", "eventTime", "firstTimestamp", "lastTimestamp", "reason", "reportingComponent", "series", "type"];

/// Of those the ones that are a word and no text, as client-go's documentation asks.
const WORDS: [&str; 2] = ["action", "reason"];

/// What stands in place of a word that is none.
const NO_WORD: &str = "Reported";

/// The longest word, in bytes.
const LONGEST_WORD: usize = 64;

/// What stands in place of a message that does not go up.
const UNSAID: &str =
    "said by a controller of the super cluster that serves other tenants too: its words are for the administrator, who can tell you more";

/// The component whose Events say on which node they happened; of others the host is one of the super cluster's own machines.
const KUBELET: &str = "kubelet";

/// The reason of the Event by which a scheduler says where it has put a Pod: `Successfully assigned <namespace>/<name> to <node>`.
const SCHEDULED: &str = "Scheduled";

impl Upward for Event {
    fn resource(&self) -> Resource {
        Resource { group: "", version: "v1", api_version: "v1", kind: "Event", plural: "events", namespaced: true, status: false }
    }

    fn shows(&self) -> &'static str {
        "A tenant sees what is said of the copies of its own objects, about these and in their names. Messages are scrubbed of what is the super \
         cluster's, or are left out, as each kind says."
    }

    fn audience(&self, InSuper(sup): &InSuper<Object>) -> Audience {
        let text =
            |key: &str| sup.at("/involvedObject").and_then(|object| object.get(key)).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (kind, namespace, name) = (text("kind"), text("namespace"), text("name"));
        if about_kind(sup).is_none() || namespace.is_empty() || name.is_empty() {
            return Audience::Nobody;
        }
        // A kubelet may be quicker than a Secret that is made once the Pod has a node, and soon tries again; the tenant has no such Secret. Why there is
        // none for long, the syncer says itself.
        if sup.text("/message").is_some_and(|message| message.contains(keys::TOKEN_SECRET_PREFIX)) {
            return Audience::Nobody;
        }
        Audience::OwnerOf { kind, namespace, name, uid: text("uid") }
    }

    fn up(&self, InSuper(sup): &InSuper<Object>, about: Option<&About<'_>>, cx: &Cx<'_>) -> Result<InTenant<(String, Content)>, Hold> {
        let about = about.ok_or(Hold::Malformed("an Event about nothing of the tenant's".into()))?;
        let kind = about_kind(sup).filter(|_| self.audience(&InSuper(sup.clone())) != Audience::Nobody);
        let kind = kind.ok_or(Hold::Malformed("an Event about no object that goes down".into()))?;
        let mut body = Map::new();
        for key in CARRIED {
            if let Some(value) = sup.body.get(key).filter(|value| !value.is_null()) {
                body.insert(key.to_owned(), value.clone());
            }
        }
        let hearsay = kind.hearsay();
        body.insert("involvedObject".to_owned(), involved(sup, about, kind.resource(), hearsay));
        match hearsay {
            Hearsay::Message => {
                if let Some(message) = sup.text("/message") {
                    body.insert("message".to_owned(), Value::String(scrub(sup, about, cx).line(message)));
                }
            }
            Hearsay::Reason => {
                let words = body.iter_mut().filter(|(key, _)| WORDS.contains(&key.as_str()));
                words.filter(|(_, word)| !is_word(word)).for_each(|(_, word)| *word = Value::from(NO_WORD));
                body.insert("message".to_owned(), Value::from(UNSAID));
            }
        }
        origin(&mut body, sup);
        Ok(InTenant((name(sup, about), Content { body, ..Content::default() })))
    }
}

/// The kind of the object that it is about, if objects of it go down into namespaces. Whichever version it is called by, the group tells it from
/// others of its name.
fn about_kind(sup: &Object) -> Option<&'static dyn Downward> {
    let kind = KindId::named(sup.text("/involvedObject/kind")?)?.downward()?;
    let resource = kind.resource();
    let group = sup.text("/involvedObject/apiVersion")?.rsplit_once('/').map_or("", |(group, _)| group);
    (resource.namespaced && group == resource.group).then_some(kind)
}

/// Whether this is one upper-camel-case word, in which no name of anything finds room.
fn is_word(value: &Value) -> bool {
    let is_word = |text: &str| text.len() <= LONGEST_WORD && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    value.as_str().is_some_and(is_word)
}

fn scrub<'a>(sup: &'a Object, about: &About<'a>, cx: &Cx<'a>) -> Scrub<'a> {
    let scrub = Scrub::new(cx).with_node(node(sup, about));
    match sup.text("/involvedObject/uid").and_then(|uid| Uid::parse(uid).ok()) {
        Some(uid) => scrub.with_uid(uid, Uid::parse(about.uid).ok()),
        None => scrub,
    }
}

/// The node that the object is on. The scheduler and the kubelet say it themselves, often before the Pod's binding has been seen.
fn node<'a>(sup: &'a Object, about: &About<'a>) -> Option<&'a str> {
    if sup.text("/reason") == Some(SCHEDULED) {
        return sup.text("/message").and_then(|message| Some(message.rsplit_once(' ')?.1));
    }
    sup.text("/source/host").filter(|_| component(sup) == KUBELET).or(about.node)
}

fn component(sup: &Object) -> &str {
    sup.text("/source/component").or(sup.text("/reportingComponent")).unwrap_or_default()
}

/// The super Event's name, which starts with the name of the object in the super cluster, with the tenant's in its place. A name of
/// another form was chosen by somebody of the super cluster, who may have put anything there: its hash stands for it.
fn name(sup: &Object, about: &About<'_>) -> String {
    let rest = sup.text("/involvedObject/name").and_then(|involved| sup.meta.name.strip_prefix(involved)?.strip_prefix('.'));
    match rest.filter(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        Some(rest) => format!("{}.{rest}", about.name),
        None => format!("{}.{}", about.name, hash26(&["vc-event-name-v1", &sup.meta.name])),
    }
}

fn involved(sup: &Object, about: &About<'_>, resource: Resource, hearsay: Hearsay) -> Value {
    let mut out = json!({
        "apiVersion": resource.api_version, "kind": resource.kind, "namespace": about.namespace, "name": about.name, "uid": about.uid,
    });
    if let (Hearsay::Message, Some(field), Some(out)) = (hearsay, sup.text("/involvedObject/fieldPath"), out.as_object_mut()) {
        out.insert("fieldPath".to_owned(), Value::from(field));
    }
    out
}

/// Who says it, and on which node.
fn origin(body: &mut Map<String, Value>, sup: &Object) {
    let component = component(sup);
    let mut source = Map::new();
    if !component.is_empty() {
        source.insert("component".to_owned(), Value::from(component));
    }
    if let Some(host) = sup.text("/source/host").filter(|_| component == KUBELET) {
        source.insert("host".to_owned(), Value::from(host));
    }
    body.insert("source".to_owned(), Value::Object(source));
    if let Some(instance) = sup.text("/reportingInstance") {
        let instance = if component == KUBELET { instance } else { component };
        body.insert("reportingInstance".to_owned(), Value::from(instance));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::cx::{Policy, Profile};

    #[test]
    fn s51_a_tenant_reads_the_node_of_its_own_pod_and_no_other() {
        let tenant = common::TenantId::new(Uid::from_bits(9), "acme");
        let (policy, profile, seen) = (Policy::default(), Profile::default(), BTreeSet::new());
        let all: BTreeSet<String> = ["n1", "n2"].map(str::to_owned).into();
        let cx = Cx { super_nodes: &all, ..Cx::of_default(&tenant, &policy, &profile, &seen) };
        let told = |reason: &str, source: &Value, message: &str, node| {
            let event = json!({
                "metadata": {"name": "web.1", "uid": Uid::from_bits(1).to_string()}, "reason": reason, "message": message, "source": source,
                "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": "vc-x", "name": "web"},
            });
            let sup = InSuper(Object::parse(event.to_string().as_bytes()).unwrap());
            let about = About { namespace: "default", name: "web", uid: "", node };
            Event.up(&sup, Some(&about), &cx).unwrap().0.1.body["message"].clone()
        };
        let scheduler = json!({"component": "default-scheduler"});
        // Its binding may not have been seen yet, and there is no vNode.
        assert_eq!(told("Scheduled", &scheduler, "assigned default/web to n1", None), "assigned default/web to n1");
        assert_eq!(told("Preempted", &scheduler, "by a pod on n1, not n2", Some("n1")), "by a pod on n1, not (hidden)");
        assert_eq!(told("Failed", &json!({"component": "kubelet", "host": "n1"}), "on n1, not n2", None), "on n1, not (hidden)");
        assert_eq!(told("Failed", &json!({"component": "other", "host": "n1"}), "on n1", None), "on (hidden)");
    }

    #[test]
    fn s51_the_name_of_an_event_says_nothing_of_the_super_cluster() {
        let named = |event: &str| {
            let text = json!({"metadata": {"name": event, "uid": Uid::from_bits(1).to_string()}, "involvedObject": {"name": "vc.e.web"}});
            let sup = Object::parse(text.to_string().as_bytes()).unwrap();
            name(&sup, &About { namespace: "default", name: "vc.web", uid: "", node: None })
        };
        assert_eq!(named("vc.e.web.17b2c3"), "vc.web.17b2c3");
        for other in ["vc.e.web", "vc.e.web.on-node-7", "scheduler-of-cluster-3.17b2c3", "vc.e.webx.17b2c3"] {
            let hidden = named(other);
            assert!(hidden.starts_with("vc.web.") && hidden.len() == "vc.web.".len() + 26, "{other} became {hidden}");
        }
    }
}
