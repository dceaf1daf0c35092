//! Events on their way to tenants: a bounded queue and an allowance for each tenant, so that neither a slow nor a loud one costs the rest.

use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use runtime::log::Chain;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::{Instant, interval, sleep, sleep_until};

use super::receipt::Slip;
use crate::bucket::{Bucket, Rate};
use crate::metrics::SyncMetrics;
use crate::remote::{CallError, Patch};
use crate::tenant::Attached;
use crate::work::Lane;
use crate::writer::Fence;

/// One Event to be written.
#[derive(Debug)]
pub(super) struct Post {
    /// The tenant namespace.
    pub(super) namespace: String,
    /// Its name. A later post of the same name takes the place of one that waits.
    pub(super) name: String,
    /// The whole Event, as JSON.
    pub(super) event: Vec<u8>,
    /// What is merged into one that is there already.
    pub(super) news: Value,
    /// Whether an Event of the name may be there from an earlier life of this process; then it is read first and, if it is there, left alone.
    pub(super) look_first: bool,
    /// Tells whoever wants to know what became of it.
    pub(super) slip: Slip,
}

/// How much a tenant is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    /// Events at once, and how many go on being written.
    pub(super) rate: Rate,
    /// Events that wait at most.
    pub(super) waiting: usize,
}

/// How many names of Events that are there are remembered, for each tenant.
const REMEMBERED: usize = 512;
/// Tries for one Event before those that came after it have their turn, within a minute and a half.
const TRIES: u32 = 4;
/// How often queues of tenants that are gone are looked for.
const TIDY: Duration = Duration::from_mins(1);

/// The Events on their way to all tenants.
pub(super) struct Outbox {
    fence: Fence,
    allowance: Allowance,
    boxes: Mutex<HashMap<Lane, Box>>,
    wake: Notify,
    metrics: Arc<SyncMetrics>,
    /// Who says these Events, for the metrics.
    origin: &'static str,
}

/// One tenant's queue.
struct Box {
    attached: Arc<Attached>,
    waiting: VecDeque<Post>,
    bucket: Bucket,
    there: HashSet<String>,
    order: VecDeque<String>,
    busy: bool,
}

/// What comes next of a tenant's queue.
enum Next {
    Post(Post, bool),
    Wait(Instant),
    Empty,
}

impl Outbox {
    pub(super) fn new(fence: Fence, allowance: Allowance, origin: &'static str, metrics: Arc<SyncMetrics>) -> Self {
        Self { fence, allowance, boxes: Mutex::default(), wake: Notify::new(), metrics, origin }
    }

    /// Whether a tenant's queue can take another Event.
    pub(super) fn has_room(&self, lane: &str) -> bool {
        let room = self.boxes.lock().get(lane).is_none_or(|queue| queue.waiting.len() < self.allowance.waiting);
        if !room {
            self.count("dropped");
        }
        room
    }

    /// Puts an Event into its tenant's queue; a full queue drops it.
    pub(super) fn push(&self, attached: &Arc<Attached>, post: Post) {
        let mut boxes = self.boxes.lock();
        let queue = boxes.entry(attached.id.as_str().into()).or_insert_with(|| Box::new(attached, &self.allowance));
        if !Arc::ptr_eq(&queue.attached, attached) {
            // Another attachment, perhaps another life of the control plane.
            *queue = Box { busy: queue.busy, ..Box::new(attached, &self.allowance) };
        }
        match queue.same(&post) {
            Some(waits) => *waits = post,
            None => drop(self.append(queue, post)),
        }
        drop(boxes);
        self.wake.notify_one();
    }

    /// Writes what waits, for ever: for each tenant in order, all tenants at once.
    pub(super) async fn run(&self) {
        let mut writers = FuturesUnordered::new();
        let mut tidy = interval(TIDY);
        loop {
            for lane in self.idle() {
                writers.push(async move {
                    if AssertUnwindSafe(self.drain(&lane)).catch_unwind().await.is_err() {
                        tracing::error!(tenant = %lane, "writing Events panicked");
                    }
                    if let Some(queue) = self.boxes.lock().get_mut(&lane) {
                        queue.busy = false;
                    }
                });
            }
            tokio::select! {
                () = self.wake.notified() => {}
                Some(()) = writers.next() => {}
                _ = tidy.tick() => self.boxes.lock().retain(|_, queue| queue.is_worth_keeping()),
            }
        }
    }

    /// The tenants that have Events waiting and nobody who writes them; now somebody does.
    fn idle(&self) -> Vec<Lane> {
        let mut boxes = self.boxes.lock();
        let idle = boxes.iter_mut().filter(|(_, queue)| !queue.busy && !queue.waiting.is_empty());
        let lanes = idle.map(|(lane, queue)| {
            queue.busy = true;
            lane.clone()
        });
        lanes.collect()
    }

    async fn drain(&self, lane: &Lane) {
        loop {
            let (attached, next) = {
                let mut boxes = self.boxes.lock();
                let Some(queue) = boxes.get_mut(lane) else { return };
                (queue.attached.clone(), queue.next(&self.allowance))
            };
            match next {
                Next::Empty => return,
                Next::Wait(until) => sleep_until(until).await,
                Next::Post(post, there) => self.write(lane, &attached, post, there).await,
            }
        }
    }

    async fn write(&self, lane: &Lane, attached: &Arc<Attached>, post: Post, there: bool) {
        for attempt in 1..=TRIES {
            match self.send(attached, &post, there).await {
                Ok(()) => {
                    post.slip.deliver();
                    if let Some(queue) = self.boxes.lock().get_mut(lane) {
                        queue.remember(&post);
                    }
                    return;
                }
                Err(error) if !attached.cancel.is_cancelled() && is_passing(&error) => {
                    if attempt == TRIES {
                        return self.put_off(lane, attached, post);
                    }
                    sleep(Duration::from_secs(1) * 4_u32.pow(attempt)).await;
                }
                Err(error) => {
                    tracing::debug!(tenant = %lane, kind = "Event", error = %Chain(&error), "an Event could not be written");
                    break;
                }
            }
        }
        self.count("failed");
    }

    /// What could not be written now is written later, behind what came meanwhile.
    fn put_off(&self, lane: &Lane, attached: &Arc<Attached>, post: Post) {
        let mut boxes = self.boxes.lock();
        let Some(queue) = boxes.get_mut(lane).filter(|queue| Arc::ptr_eq(&queue.attached, attached)) else {
            return self.count("failed");
        };
        // A later one of the name says all that this one does.
        if queue.same(&post).is_none() && self.append(queue, post) {
            self.count("put_off");
        }
    }

    /// Puts an Event at the end of a queue; a full one drops it. True if it was taken.
    fn append(&self, queue: &mut Box, post: Post) -> bool {
        let has_room = queue.waiting.len() < self.allowance.waiting;
        if has_room {
            queue.waiting.push_back(post);
        } else {
            self.count("dropped");
        }
        has_room
    }

    async fn send(&self, attached: &Attached, post: &Post, there: bool) -> Result<(), CallError> {
        let collection = format!("/api/v1/namespaces/{}/events", post.namespace);
        let path = format!("{collection}/{}", post.name);
        if there && self.patch(attached, &path, &post.news).await? {
            return Ok(());
        }
        if post.look_first && !there {
            match attached.remote.get(&path, None).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        self.may_write(attached)?;
        match attached.remote.create(&collection, post.event.clone(), None).await {
            Ok(_) => self.count("created"),
            Err(error) if error.is_already_exists() => drop(self.patch(attached, &path, &post.news).await?),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// True if it was there.
    async fn patch(&self, attached: &Attached, path: &str, news: &Value) -> Result<bool, CallError> {
        self.may_write(attached)?;
        match attached.remote.patch(path, Patch::Merge, news, None).await {
            Ok(_) => {
                self.count("counted");
                Ok(true)
            }
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn count(&self, outcome: &'static str) {
        self.metrics.told_event(self.origin, outcome);
    }

    fn may_write(&self, attached: &Attached) -> Result<(), CallError> {
        if attached.is_halted() { Err(CallError::Fenced) } else { self.fence.check() }
    }
}

/// Whether another try may do better.
fn is_passing(error: &CallError) -> bool {
    match error.code() {
        Some(code) => code == 429 || code >= 500,
        None => true,
    }
}

impl Box {
    fn new(attached: &Arc<Attached>, allowance: &Allowance) -> Self {
        Self {
            attached: attached.clone(),
            waiting: VecDeque::new(),
            bucket: Bucket::full(&allowance.rate),
            there: HashSet::new(),
            order: VecDeque::new(),
            busy: false,
        }
    }

    /// The one of the same name that waits.
    fn same(&mut self, post: &Post) -> Option<&mut Post> {
        self.waiting.iter_mut().find(|waits| waits.name == post.name && waits.namespace == post.namespace)
    }

    fn next(&mut self, allowance: &Allowance) -> Next {
        if self.attached.cancel.is_cancelled() {
            self.waiting.clear();
        }
        if self.waiting.is_empty() {
            return Next::Empty;
        }
        if let Err(until) = self.bucket.take(&allowance.rate, Instant::now()) {
            return Next::Wait(until);
        }
        match self.waiting.pop_front() {
            Some(post) => {
                let there = self.there.contains(&key(&post));
                Next::Post(post, there)
            }
            None => Next::Empty,
        }
    }

    fn remember(&mut self, post: &Post) {
        let key = key(post);
        if self.there.insert(key.clone()) {
            self.order.push_back(key);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.there.remove(&oldest);
        }
    }

    fn is_worth_keeping(&self) -> bool {
        self.busy || !self.attached.cancel.is_cancelled()
    }
}

fn key(post: &Post) -> String {
    format!("{}/{}", post.namespace, post.name)
}
