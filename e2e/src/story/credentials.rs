//! Credentials that were seen, and whether a text holds one of them: as it is, as base64, or a part of either.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt as _, watcher},
};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::task::JoinSet;

/// Characters of a part: three lie within a wrapped line of 64 characters, and no two texts share one by chance.
const PART: usize = 16;

/// Credentials to look for.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    known: BTreeSet<String>,
    /// Forms that are shorter than a part.
    words: BTreeSet<String>,
    parts: HashSet<Vec<u8>>,
}

impl Credentials {
    /// One more.
    pub fn add(&mut self, credential: &str) {
        if !self.known.insert(credential.to_owned()) {
            return;
        }
        for form in forms(credential) {
            let parts: Vec<_> = form.as_bytes().chunks_exact(PART).map(<[u8]>::to_vec).collect();
            if parts.is_empty() {
                self.words.insert(form);
            }
            self.parts.extend(parts);
        }
    }

    /// Those in a file, or in an entry of a Secret: a kubeconfig's, a token, or a private key.
    pub fn add_from(&mut self, text: &str) {
        if let Ok(config) = serde_json::from_str::<Value>(text) {
            let values = ["token", "client-key-data"].into_iter().filter_map(|key| config.pointer("/users/0/user")?.get(key)?.as_str());
            for value in values {
                self.add_from(value);
            }
        } else if let Some(pem) = STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok()) {
            self.add_from(&pem);
        } else if text.contains("PRIVATE KEY") {
            self.add(&text.lines().filter(|line| !line.starts_with("-----")).collect::<String>());
        } else if text.starts_with("eyJ") {
            self.add(text);
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.known.len()
    }

    /// Whether this is one of them.
    pub fn knows(&self, credential: &str) -> bool {
        self.known.contains(credential)
    }

    /// Where a text holds one, in bytes, if it does. Not the credential itself: this goes to a log too.
    pub fn found_in(&self, text: &str) -> Option<usize> {
        let part = text.as_bytes().windows(PART).position(|window| self.parts.contains(window));
        part.or_else(|| self.words.iter().find_map(|word| text.find(word)))
    }
}

/// A text as it is, and what of it stands in base64 of anything that holds it: where it begins within three bytes is not known.
fn forms(text: &str) -> Vec<String> {
    let mut forms = vec![text.to_owned()];
    for before in 0..3 {
        let bytes = [vec![0; before], text.as_bytes().to_vec()].concat();
        // Characters that hold bits of this text and of no other.
        let (from, to) = ((before * 8).div_ceil(6), bytes.len() * 8 / 6);
        forms.extend(STANDARD.encode(bytes).get(from..to).map(str::to_owned));
    }
    forms
}

/// Watches the Secrets of a cluster from its start until it is dropped: what is rotated away is known too.
pub struct Collector {
    found: Arc<Mutex<Credentials>>,
    _task: JoinSet<()>,
}

impl Collector {
    /// Starts to watch.
    pub fn start(sup: Client) -> Self {
        let found = Arc::default();
        let mut task = JoinSet::new();
        task.spawn(watch(sup, Arc::clone(&found)));
        Self { found, _task: task }
    }

    /// What it has seen.
    pub fn found(&self) -> Credentials {
        self.found.lock().clone()
    }
}

async fn watch(sup: Client, found: Arc<Mutex<Credentials>>) {
    let mut events = std::pin::pin!(watcher(Api::<Secret>::all(sup), watcher::Config::default()).default_backoff());
    while let Some(event) = events.next().await {
        if let Ok(watcher::Event::Apply(secret) | watcher::Event::InitApply(secret)) = event {
            for bytes in secret.data.unwrap_or_default().into_values() {
                found.lock().add_from(&String::from_utf8_lossy(&bytes.0));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQifQ.c2lnbmVkLWJ5LXNvbWVib2R5LXdoby1rbm93cw";

    fn all() -> Credentials {
        let mut all = Credentials::default();
        all.add(TOKEN);
        all.add("hunter2-hunter2");
        all
    }

    #[test]
    fn a_credential_is_found_as_it_is_and_in_base64_wherever_it_begins() {
        for credential in [TOKEN, "hunter2-hunter2"] {
            for before in 0..7 {
                let text = format!("{}{credential} and so on", "x".repeat(before));
                assert!(all().found_in(&text).is_some(), "{text}");
                let encoded = STANDARD.encode(&text);
                assert!(all().found_in(&encoded).is_some(), "{encoded}, which is {text}");
                let twice = STANDARD.encode(&encoded);
                assert!(all().found_in(&twice).is_none(), "base64 of base64 is not looked for");
            }
        }
    }

    #[test]
    fn a_wrapped_line_of_one_is_found() {
        for text in [TOKEN.to_owned(), STANDARD.encode(TOKEN)] {
            for from in 0..text.len() - 32 {
                let line = text.get(from..from + 32).unwrap();
                assert!(all().found_in(line).is_some(), "{line}");
            }
        }
        assert_eq!(all().found_in("eyJzdWIiOiJ, and nothing more of it"), None);
    }

    #[test]
    fn a_kubeconfig_holds_a_token_or_a_key() {
        let mut all = Credentials::default();
        let key = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgabcdefghijklmnop\nqrstuvwx\n-----END PRIVATE KEY-----\n";
        for user in [serde_json::json!({ "token": TOKEN }), serde_json::json!({ "client-key-data": STANDARD.encode(key) })] {
            all.add_from(&serde_json::json!({ "users": [{ "user": user }] }).to_string());
        }
        all.add_from("a certificate, perhaps");
        assert_eq!(all.count(), 2);
        assert!(all.found_in(key).is_some() && all.found_in(TOKEN).is_some() && all.found_in(&STANDARD.encode(key)).is_some());
    }
}
