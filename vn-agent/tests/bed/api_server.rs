//! A bed whose back end is an API server: it issues tokens and says which Pods there are; what it says of logs and streams is the test's.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use runtime::kubeconfig::{Identity, Kubeconfig, Secret};
use runtime::task::{TaskMetrics, Tasks};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use vn_agent::backend::Backend;
use vn_agent::backend::sup::Super;
use vn_agent::guard::Limits;
use vn_agent::way::Way;

use super::{Bed, ClientStream, HOUR, LIMITS, Play, SOON, SWITCHED, play, pod};

/// What an API server knows.
#[derive(Default)]
pub(crate) struct ApiServer {
    pub(crate) pods: Mutex<Vec<Value>>,
    /// Tokens that are answered with 401, wherever they come.
    pub(crate) refused: Mutex<HashSet<String>>,
    /// What it answers about Pods instead.
    pub(crate) trouble: Mutex<Option<&'static str>>,
    /// A namespace about whose Pods it never answers.
    pub(crate) silent_about: Mutex<Option<String>>,
    issued: AtomicUsize,
}

/// A Pod of a tenant on a node.
pub(crate) fn placed(number: u128, name: &str, uid: u128, node: &str) -> Value {
    let mut pod = pod(number, name, uid);
    if let Some(fields) = pod.as_object_mut() {
        fields.insert("spec".to_owned(), json!({"nodeName": node}));
    }
    pod
}

/// The token that a request carries.
pub(crate) fn bearer(head: &str) -> Option<&str> {
    head.lines()
        .find_map(|line| line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("authorization")))?
        .1
        .strip_prefix("Bearer ")
}

/// Whether a request is about a Pod's log or streams.
pub(crate) fn is_session(head: &str) -> bool {
    let path = head.split([' ', '?']).nth(1).unwrap_or_default();
    ["/log", "/exec", "/attach", "/portforward"].iter().any(|of| path.ends_with(of))
}

/// Logs are a line, streams say what is said to them.
pub(crate) fn willing() -> Play {
    play(|head, mut stream| async move {
        if head.contains("/log?") {
            let _ = stream.write_all(says("a line\n").as_bytes()).await;
            let _ = stream.shutdown().await;
            return;
        }
        let _ = stream.write_all(SWITCHED).await;
        let (mut said, mut says) = tokio::io::split(stream);
        let _ = tokio::io::copy(&mut said, &mut says).await;
    })
}

/// That what is said comes back.
pub(crate) async fn echoes(stream: &mut ClientStream, word: &[u8]) {
    stream.write_all(word).await.unwrap();
    stream.flush().await.unwrap();
    let mut echo = vec![0; word.len()];
    timeout(SOON, stream.read_exact(&mut echo)).await.expect("an echo").unwrap();
    assert_eq!(echo, word);
}

/// A 200 with this body, and the end.
pub(crate) fn says(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

impl ApiServer {
    pub(crate) fn with(pods: impl IntoIterator<Item = Value>) -> Arc<Self> {
        Arc::new(Self { pods: Mutex::new(pods.into_iter().collect()), ..Self::default() })
    }

    /// The answer to anything that is no session.
    fn answer(&self, head: &str) -> String {
        let line = head.lines().next().unwrap_or_default();
        if line.starts_with("POST ") && line.contains("/serviceaccounts/") {
            let writer = line.split('/').nth(6).unwrap_or_default();
            let number = self.issued.fetch_add(1, Ordering::SeqCst) + 1;
            let token = format!("{number}-of-{writer}");
            return says(&json!({"status": {"token": token, "expirationTimestamp": "2030-01-01T00:00:00Z"}}).to_string());
        }
        if let Some(trouble) = *self.trouble.lock() {
            return trouble.to_owned();
        }
        let pods = self.pods.lock();
        let place = |pod: &Value| {
            let part = |of: &str| pod.pointer(of).and_then(Value::as_str).unwrap_or_default().to_owned();
            format!("GET /api/v1/namespaces/{}/pods/{} ", part("/metadata/namespace"), part("/metadata/name"))
        };
        match pods.iter().find(|pod| line.starts_with(&place(pod))) {
            Some(pod) => says(&pod.to_string()),
            // By its own identity a tenant sees nothing of others' namespaces.
            None => "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned(),
        }
    }

    /// A bed before it, on node `n1`.
    pub(crate) async fn bed(self: &Arc<Self>, sessions: Play) -> Bed {
        self.bed_with(sessions, LIMITS).await
    }

    /// The same with bounds of its own.
    pub(crate) async fn bed_with(self: &Arc<Self>, sessions: Play, limits: Limits) -> Bed {
        let this = Arc::clone(self);
        let play: Play = Arc::new(move |head, mut stream| {
            let (this, sessions) = (Arc::clone(&this), Arc::clone(&sessions));
            Box::pin(async move {
                let is_refused = bearer(&head).is_some_and(|token| this.refused.lock().contains(token));
                if !is_refused && is_session(&head) {
                    return sessions(head, stream).await;
                }
                if head.starts_with("POST ") && head.contains("/serviceaccounts/") {
                    // The body follows; what stands in it is the same every time.
                    let _ = stream.read(&mut [0; 1024]).await;
                }
                let is_silent = this.silent_about.lock().as_ref().is_some_and(|namespace| head.contains(&format!("/{namespace}/pods/")));
                if is_silent {
                    let _ = stream.read(&mut [0; 1]).await;
                    return;
                }
                let answer = if is_refused {
                    "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned()
                } else {
                    this.answer(&head)
                };
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            })
        });
        Bed::start_with(play, limits, true, |address, ca, _| {
            let me = ca.issue(&pki::Leaf::KubeletClient { node: "n1".to_owned() }, HOUR).unwrap();
            let kubeconfig = Kubeconfig {
                server: format!("https://{address}").parse().unwrap(),
                ca_pem: ca.certificate().as_bytes().to_vec(),
                identity: Identity::Certificate { chain_pem: me.certificate.into_bytes(), key_pem: Secret::new(me.key) },
                tls_server_name: None,
            };
            let ways = tokio::sync::watch::channel(Arc::new(Way::new(kubeconfig).unwrap())).1;
            let tasks = Arc::new(Tasks::new(&TaskMetrics::default()));
            Backend::Super(Super::new("n1", ways, tasks).unwrap())
        })
        .await
    }
}
