//! Our own Events: what was refused or went wrong, on the tenant's own object.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use common::Uid;
use common::name::hash26;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::outbox::{Allowance, Outbox, Post};
use super::receipt::{Receipt, Slip};
use crate::bucket::Rate;
use crate::metrics::SyncMetrics;
use crate::tenant::Attached;
use crate::writer::Fence;

/// The object that an Event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Its kind.
    pub kind: &'static str,
    /// Group and version.
    pub api_version: &'static str,
    /// Its tenant namespace; `None` for cluster-scoped kinds.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: Uid,
}

/// How grave an Event is: its `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// For information.
    Normal,
    /// Somebody should look.
    Warning,
}

/// As Events call us.
const COMPONENT: &str = "vc-syncer";
/// The longest message, in bytes: what the API server takes.
const MESSAGE: usize = 1024;
/// The same Event is counted up at most this often.
const REPEAT: Duration = Duration::from_mins(5);
/// How many Events are remembered so that the same one is counted instead of made again.
const REMEMBERED: usize = 8192;
/// As client-go's spam filter has it in spirit: a burst for a rollout that goes wrong, then a trickle.
const ALLOWANCE: Allowance = Allowance { rate: Rate { burst: 25, refill: Duration::from_secs(5) }, waiting: 1000 };

/// Tells tenants of refusals and problems.
pub struct Recorder {
    outbox: Outbox,
    told: Mutex<HashMap<String, Told>>,
}

/// What was told, and how often.
#[derive(Clone)]
struct Told {
    count: u32,
    first: Timestamp,
    sent: Instant,
    receipt: Receipt,
}

impl Recorder {
    /// Writes while `fence` allows.
    pub fn new(fence: Fence, metrics: Arc<SyncMetrics>) -> Self {
        Self { outbox: Outbox::new(fence, ALLOWANCE, "syncer", metrics), told: Mutex::default() }
    }

    /// Tells a tenant something about its object, soon and without waiting. What it was told before is counted, now and then.
    ///
    /// *Guarantees*: nothing is lost for good if it is told again whenever the receipt says that it was.
    pub fn tell(&self, attached: &Arc<Attached>, about: About, severity: Severity, reason: &'static str, message: String) -> Receipt {
        let message = readable(message);
        let name = event_name(&about, reason, &message);
        let (told, is_news) = self.note(attached, &name);
        if is_news {
            self.outbox.push(attached, post(about, severity, reason, &message, name, &told));
        }
        told.receipt
    }

    /// Writes for ever; whoever owns the recorder runs it.
    pub async fn run(&self) {
        self.outbox.run().await;
    }

    /// Counts an Event; whether it is to be written. It is not if that was done, or is about to be, and is not long ago.
    fn note(&self, attached: &Attached, name: &str) -> (Told, bool) {
        let now = Instant::now();
        let mut all = self.told.lock();
        let key = format!("{}/{name}", attached.id);
        if let Some(told) = all.get_mut(&key) {
            let is_lost = told.receipt.is_lost();
            if !is_lost {
                told.count = told.count.saturating_add(1);
                if now < told.sent + REPEAT {
                    return (told.clone(), false);
                }
            }
            told.sent = now;
            told.receipt = Receipt::default();
            return (told.clone(), true);
        }
        if all.len() >= REMEMBERED {
            // What could be told again anyway need not be remembered; failing that, everything is told once more.
            all.retain(|_, told| now < told.sent + REPEAT);
            if all.len() >= REMEMBERED {
                all.clear();
            }
        }
        let told = Told { count: 1, first: Timestamp::now(), sent: now, receipt: Receipt::default() };
        all.insert(key, told.clone());
        (told, true)
    }
}

/// The name is made from what is said, so that after a restart the same Event is found instead of made again.
fn event_name(about: &About, reason: &str, message: &str) -> String {
    let hash = hash26(&["vc-event-v1", &about.uid.to_string(), reason, message]);
    let hex = hash.bytes().take(8).fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    let object: String = about.name.chars().take(253 - 1 - hex.len()).collect();
    format!("{}.{hex}", object.trim_end_matches(['.', '-']))
}

/// A message as a tenant may read it: no control characters, nothing that reorders text, and not too long.
fn readable(message: String) -> String {
    if message.len() <= MESSAGE && !message.chars().any(is_hidden) {
        return message;
    }
    let mut out = String::new();
    for c in message.chars() {
        let shown: String = if is_hidden(c) { c.escape_unicode().collect() } else { c.to_string() };
        if out.len() + shown.len() > MESSAGE - '…'.len_utf8() {
            out.push('…');
            break;
        }
        out.push_str(&shown);
    }
    out
}

/// Control characters, and marks that hide or reorder the text around them.
fn is_hidden(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

fn post(about: About, severity: Severity, reason: &str, message: &str, name: String, told: &Told) -> Post {
    let mut involved = json!({"apiVersion": about.api_version, "kind": about.kind, "name": about.name, "uid": about.uid.to_string()});
    if let (Some(namespace), Some(fields)) = (&about.namespace, involved.as_object_mut()) {
        fields.insert("namespace".into(), namespace.as_str().into());
    }
    // Where the API server wants Events about cluster-scoped objects.
    let namespace = about.namespace.unwrap_or_else(|| "default".to_owned());
    let (first, last) = (seconds(told.first), seconds(Timestamp::now()));
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": involved,
        "type": match severity { Severity::Normal => "Normal", Severity::Warning => "Warning" },
        "reason": reason,
        "message": message,
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": COMPONENT,
        "firstTimestamp": first,
        "lastTimestamp": last,
        "count": told.count,
    });
    let event = event.to_string().into_bytes();
    let news = json!({"count": told.count, "lastTimestamp": last});
    Post { namespace, name, event, news, look_first: told.count == 1, slip: Slip::of(&told.receipt) }
}

/// A time as Events have it: whole seconds.
fn seconds(time: Timestamp) -> Value {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(name: &str) -> About {
        About { kind: "Pod", api_version: "v1", namespace: Some("default".into()), name: name.into(), uid: Uid::default() }
    }

    #[test]
    fn the_same_words_about_the_same_object_have_the_same_name() {
        let name = event_name(&about("web"), "Refused", "no");
        assert_eq!(name, event_name(&about("web"), "Refused", "no"));
        assert_ne!(name, event_name(&about("web"), "Refused", "yes"));
        assert!(name.starts_with("web.") && name.len() == "web.".len() + 16, "{name}");
        assert_eq!(event_name(&about(&"a".repeat(253)), "Refused", "no").len(), 253);
    }

    #[test]
    fn a_message_is_made_readable_and_cut() {
        assert_eq!(readable("a\nb\u{202e}".into()), "a\\u{a}b\\u{202e}");
        let long = readable("é".repeat(2000));
        assert!(long.len() <= MESSAGE && long.ends_with('…'));
    }

    #[test]
    fn an_event_about_a_cluster_scoped_object_stands_in_default() {
        let told = Told { count: 2, first: Timestamp::UNIX_EPOCH, sent: Instant::now(), receipt: Receipt::default() };
        let about = About { namespace: None, kind: "Namespace", ..about("web") };
        let post = post(about, Severity::Warning, "Refused", "no", "web.0".into(), &told);
        assert_eq!(post.namespace, "default");
        let event: Value = serde_json::from_slice(&post.event).unwrap();
        assert_eq!(event.pointer("/involvedObject/namespace"), None);
        assert_eq!(event.pointer("/firstTimestamp").and_then(Value::as_str), Some("1970-01-01T00:00:00Z"));
        assert_eq!(post.news.pointer("/count"), Some(&json!(2)));
        assert!(!post.look_first);
    }
}
