//! Waiting for something to become true, with a message that says what was seen last.

use std::{fmt::Debug, time::Duration};

use anyhow::{Context as _, bail, ensure};
use futures::StreamExt as _;
use kube::{
    Api, Resource,
    runtime::{WatchStreamExt as _, watcher},
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};

/// How often a condition is looked at. Short: tests measure latencies of some tens of milliseconds with it.
const INTERVAL: Duration = Duration::from_millis(50);

/// What one look at a condition saw.
#[derive(Debug)]
pub enum Seen<T> {
    /// The condition holds; this is what the caller wanted.
    Done(T),
    /// Not yet; the text says what was there instead.
    NotYet(String),
}

impl<T> Seen<T> {
    /// `Done` if `holds`, else `NotYet` with what `value` looks like.
    pub fn when(holds: bool, value: T) -> Self
    where
        T: Debug,
    {
        if holds { Self::Done(value) } else { Self::NotYet(format!("{value:?}")) }
    }
}

/// Looks again and again until `look` says `Done`.
///
/// # Errors
/// After `timeout`, with `what` and the last observation. An error of `look` counts as an observation, not as an end.
pub async fn eventually<T>(
    what: impl AsRef<str>,
    timeout: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<Seen<T>>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    let mut last = "nothing yet".to_owned();
    loop {
        let left = timeout.saturating_sub(start.elapsed());
        match tokio::time::timeout(left.max(INTERVAL), look()).await {
            Ok(Ok(Seen::Done(value))) => return Ok(value),
            Ok(Ok(Seen::NotYet(text))) => last = text,
            Ok(Err(error)) => last = format!("error: {error:#}"),
            Err(_) => last = format!("no answer in time; before that: {last}"),
        }
        if start.elapsed() >= timeout {
            bail!("not within {timeout:?}: {}; last seen: {last}", what.as_ref());
        }
        sleep(INTERVAL).await;
    }
}

/// Looks during `period` and fails as soon as `look` finds something wrong: for what must *not* happen.
pub async fn never(
    what: impl AsRef<str>,
    period: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<String>>,
) -> anyhow::Result<()> {
    let start = Instant::now();
    while start.elapsed() < period {
        if let Some(seen) = look().await? {
            bail!("after {:?}: {}; seen: {seen}", start.elapsed(), what.as_ref());
        }
        sleep(INTERVAL).await;
    }
    Ok(())
}

/// Watches an object during `period` and fails as soon as it goes or `look` finds something wrong with it: every state that it ever has
/// is seen, and nothing is asked meanwhile.
pub async fn never_seen<K>(
    what: impl AsRef<str>,
    period: Duration,
    api: Api<K>,
    name: &str,
    look: impl Fn(&K) -> Option<String>,
) -> anyhow::Result<()>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let start = Instant::now();
    let one = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = std::pin::pin!(watcher(api, one).default_backoff());
    let mut looks = 0;
    while let Ok(event) = timeout(period.saturating_sub(start.elapsed()), events.next()).await {
        let seen = match event.context("the watch has ended")? {
            Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                looks += 1;
                look(&object)
            }
            Ok(watcher::Event::Delete(_)) => Some("it is gone".to_owned()),
            // The watcher comes back by itself.
            Ok(watcher::Event::Init | watcher::Event::InitDone) | Err(_) => None,
        };
        if let Some(seen) = seen {
            bail!("after {:?}: {}; seen: {seen}", start.elapsed(), what.as_ref());
        }
    }
    ensure!(looks > 0, "there is no {name} to be seen");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_failure_says_what_was_seen_last() {
        let mut count = 0;
        let error = eventually("three sheep", Duration::from_millis(120), async || {
            count += 1;
            Ok(Seen::when(count > 100, count))
        })
        .await
        .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("three sheep") && text.contains("last seen: 4"), "{text}");
    }
}
