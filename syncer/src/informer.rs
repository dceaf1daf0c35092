//! List and watch of one kind on one side: WatchList where it is served, a paged list where not.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use common::{Side, Tenant};
use futures::FutureExt;
use rand::Rng;
use runtime::log::Chain;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::remote::{CallError, ListMeta, Remote};
use crate::throttle::Throttle;

/// What an informer tells, in order.
#[derive(Debug)]
pub enum Told {
    /// The API server answers again: a watch is open, whether or not anything comes.
    Opened,
    /// A whole list begins.
    ListBegins,
    /// An object is there, as it is now.
    Object(Bytes),
    /// An object was deleted; this was its last state.
    Gone(Bytes),
    /// The list is complete, and stands at this version.
    ListEnds(String),
    /// The last try failed; the informer goes on trying.
    Failed(CallError),
}

/// What to watch.
#[derive(Clone, Debug)]
pub struct Source {
    /// The collection's URL path.
    pub path: String,
    /// A label selector, URL-encoded where needed.
    pub selector: Option<String>,
    /// Skip what is there and watch from now on (Events).
    pub from_now: bool,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type", borrow)]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct BookmarkObject {
    metadata: BookmarkMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookmarkMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    annotations: Option<std::collections::HashMap<String, String>>,
}

#[derive(Deserialize)]
struct ErrorObject {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

/// Pages asked for at most: beyond it an API server is taken for one that never ends its list.
const MAX_PAGES: usize = 10_000;
/// Objects a page.
const PAGE: usize = 500;
/// A watch that ends sooner is opened again only after a back-off: an API server that ends each at once is not asked in a hurry.
const BRIEF: Duration = Duration::from_secs(1);

/// How long an informer that panicked rests.
const AFTER_PANIC: Duration = Duration::from_secs(5);

enum Next {
    List,
    Watch(String),
}

/// Lists and watches for ever, telling `sink` everything in order. Ends only by being dropped; after a panic it lists anew.
pub async fn run<S: Side>(remote: Remote<S>, source: Source, mut sink: impl FnMut(Told)) {
    let mut throttle = Throttle::default();
    loop {
        let Err(_) = AssertUnwindSafe(list_and_watch(&remote, &source, &mut throttle, &mut sink)).catch_unwind().await else { return };
        tracing::error!(side = S::NAME, path = source.path, "an informer panicked");
        tokio::time::sleep(AFTER_PANIC).await;
    }
}

async fn list_and_watch<S: Side>(remote: &Remote<S>, source: &Source, throttle: &mut Throttle, sink: &mut impl FnMut(Told)) {
    let builder = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(30))
        .with_factor(2.0)
        .with_jitter()
        .without_max_times();
    let mut backoff = builder.build();
    let mut stream_lists = true;
    let mut next = Next::List;
    loop {
        let begun = Instant::now();
        let follows = matches!(next, Next::Watch(_)) || (stream_lists && !source.from_now);
        let outcome = match &next {
            Next::List if source.from_now => start_now(remote, source, sink).await,
            Next::List if stream_lists => stream_list(remote, source, throttle, sink).await,
            Next::List => paged_list(remote, source, sink).await,
            Next::Watch(version) => watch(remote, source, version, throttle, sink).await,
        };
        match outcome {
            Ok(following) => {
                next = following;
                if follows && begun.elapsed() < BRIEF {
                    tokio::time::sleep(backoff.next().unwrap_or(Duration::from_secs(30))).await;
                } else {
                    backoff = builder.build();
                }
            }
            Err(error) if matches!(next, Next::List) && stream_lists && is_unserved(&error) => stream_lists = false,
            Err(error) => {
                if is_lost(&error) {
                    next = Next::List;
                }
                sink(Told::Failed(error));
                tokio::time::sleep(backoff.next().unwrap_or(Duration::from_secs(30))).await;
            }
        }
    }
}

/// Whether the place from where to watch on is of no use any more. A version that the API server cannot make sense of does not get better.
fn is_lost(error: &CallError) -> bool {
    matches!(error.code(), Some(400 | 404 | 410 | 422)) || error.reason() == "Expired"
}

/// WatchList is off, or its storage cannot do it.
fn is_unserved(error: &CallError) -> bool {
    matches!(error.code(), Some(400 | 422 | 500 | 501))
}

fn query(source: &Source, rest: &str) -> String {
    let selector = source.selector.as_ref().map(|s| format!("labelSelector={s}&")).unwrap_or_default();
    format!("{}?{selector}{rest}", source.path)
}

/// Watches are asked for unequal times, so that they do not all come back together.
fn watch_seconds() -> u64 {
    rand::rng().random_range(240..420)
}

async fn stream_list<S: Side>(
    remote: &Remote<S>,
    source: &Source,
    throttle: &mut Throttle,
    sink: &mut impl FnMut(Told),
) -> Result<Next, CallError> {
    let rest = format!(
        "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds={}",
        watch_seconds()
    );
    follow(remote, query(source, &rest), None, throttle, sink).await
}

async fn watch<S: Side>(
    remote: &Remote<S>,
    source: &Source,
    version: &str,
    throttle: &mut Throttle,
    sink: &mut impl FnMut(Told),
) -> Result<Next, CallError> {
    let rest = format!("watch=true&allowWatchBookmarks=true&resourceVersion={version}&timeoutSeconds={}", watch_seconds());
    follow(remote, query(source, &rest), Some(version.to_owned()), throttle, sink).await
}

/// Follows one watch to its end, and says how to go on. Without a version it begins with a list.
async fn follow<S: Side>(
    remote: &Remote<S>,
    path: String,
    mut version: Option<String>,
    throttle: &mut Throttle,
    sink: &mut impl FnMut(Told),
) -> Result<Next, CallError> {
    let mut listing = version.is_none();
    let mut lines = remote.watch(path.clone(), None).await?;
    sink(Told::Opened);
    if listing {
        sink(Told::ListBegins);
    }
    while let Some(line) = lines.next().await {
        let bytes = line.map_err(|source| CallError::Transport { side: S::NAME, source });
        let bytes = match bytes {
            Ok(bytes) => bytes,
            // A cut list starts anew.
            Err(error) if listing => return Err(error),
            // A cut stream goes on where it was. That may be mere silence: an API server need not send bookmarks for a kind of which
            // it has heard nothing. Whether it is well is seen when the stream is opened again.
            Err(error) => {
                tracing::debug!(side = S::NAME, path, error = %Chain(&error), "a watch was cut");
                break;
            }
        };
        if S::NAME == Tenant::NAME
            && let Some(wait) = throttle.take(bytes.len(), Instant::now())
        {
            tokio::time::sleep(wait).await;
        }
        let unreadable = |source| CallError::Unreadable { side: S::NAME, source };
        let line: Line<'_> = serde_json::from_slice(&bytes).map_err(unreadable)?;
        let object = bytes.slice_ref(line.object.get().as_bytes());
        match line.kind {
            "ADDED" | "MODIFIED" => {
                note_version(&object, &mut version);
                sink(Told::Object(object));
            }
            "DELETED" => {
                note_version(&object, &mut version);
                sink(Told::Gone(object));
            }
            "BOOKMARK" => {
                let mark: BookmarkObject = serde_json::from_slice(&object).map_err(unreadable)?;
                let ends = mark.metadata.annotations.is_some_and(|a| a.get("k8s.io/initial-events-end").is_some_and(|v| v == "true"));
                if listing && ends {
                    listing = false;
                    sink(Told::ListEnds(mark.metadata.resource_version.clone()));
                }
                version = Some(mark.metadata.resource_version);
            }
            _ => {
                let error: ErrorObject = serde_json::from_slice(&object).map_err(unreadable)?;
                let message = error.message.chars().take(512).collect();
                return Err(CallError::Status { side: S::NAME, code: error.code, reason: error.reason, message, retry_after: None });
            }
        }
    }
    Ok(match version {
        Some(version) if !listing && !version.is_empty() => Next::Watch(version),
        Some(_) | None => Next::List,
    })
}

fn note_version(object: &Bytes, version: &mut Option<String>) {
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(borrow)]
        metadata: Meta<'a>,
    }
    #[derive(Deserialize)]
    struct Meta<'a> {
        #[serde(rename = "resourceVersion", borrow)]
        version: &'a str,
    }
    if let Ok(head) = serde_json::from_slice::<Head<'_>>(object) {
        match version {
            Some(known) => head.metadata.version.clone_into(known),
            None => *version = Some(head.metadata.version.to_owned()),
        }
    }
}

async fn paged_list<S: Side>(remote: &Remote<S>, source: &Source, sink: &mut impl FnMut(Told)) -> Result<Next, CallError> {
    let mut next = String::new();
    let mut begun = false;
    for _ in 0..MAX_PAGES {
        let rest = if next.is_empty() { format!("limit={PAGE}") } else { format!("limit={PAGE}&continue={next}") };
        let bytes = remote.list(query(source, &rest), None).await?;
        let page: Page<'_> = serde_json::from_slice(&bytes).map_err(|source| CallError::Unreadable { side: S::NAME, source })?;
        if !begun {
            begun = true;
            sink(Told::ListBegins);
        }
        for item in page.items.iter().flatten() {
            // Copied, so that one kept object does not keep the page.
            sink(Told::Object(Bytes::copy_from_slice(item.get().as_bytes())));
        }
        if page.metadata.next.is_empty() {
            let version = page.metadata.resource_version;
            sink(Told::ListEnds(version.clone()));
            return Ok(Next::Watch(version));
        }
        next = page.metadata.next;
    }
    Err(CallError::Status {
        side: S::NAME,
        code: 0,
        reason: "EndlessList".into(),
        message: format!("the list did not end after {MAX_PAGES} pages"),
        retry_after: None,
    })
}

/// Where the collection stands now, without what is in it.
async fn start_now<S: Side>(remote: &Remote<S>, source: &Source, sink: &mut impl FnMut(Told)) -> Result<Next, CallError> {
    let bytes = remote.list_metadata(query(source, "limit=1"), None).await?;
    let page: Page<'_> = serde_json::from_slice(&bytes).map_err(|source| CallError::Unreadable { side: S::NAME, source })?;
    sink(Told::ListBegins);
    sink(Told::ListEnds(page.metadata.resource_version.clone()));
    Ok(Next::Watch(page.metadata.resource_version))
}
