//! Owned, supervised tasks: each has a name and a span, a panic stops at its border, and the owner ends them all.
//!
//! This is the one place that starts tasks.

use std::{collections::BTreeMap, fmt, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tracing::{Instrument, error, info_span, warn};

/// How long tasks that were cut short have to come to their next `.await`.
const LAST_GRACE: Duration = Duration::from_secs(1);

/// A set of tasks with one owner. Dropping it cuts every task short at its next `.await`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use runtime::task::{TaskMetrics, Tasks};
/// let tasks = Tasks::new(&TaskMetrics::default());
/// let sum = tasks.spawn("sum", async { 1 + 1 });
/// assert_eq!(sum.await, Ok(2));
/// assert!(tasks.shutdown(std::time::Duration::from_secs(5)).await.is_clean());
/// # }
/// ```
#[derive(Debug)]
pub struct Tasks {
    tracker: TaskTracker,
    /// The trackers of the owners above, which wait for our tasks too.
    above: Vec<TaskTracker>,
    /// Asks tasks to end.
    stop: CancellationToken,
    /// Drops the futures of those that did not.
    cut: CancellationToken,
    shared: Arc<Shared>,
    metrics: TaskMetrics,
}

#[derive(Debug, Default)]
struct Shared {
    running: Mutex<BTreeMap<&'static str, usize>>,
    panicked: watch::Sender<Option<Panicked>>,
}

/// A task that panicked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panicked {
    /// The name of the task.
    pub task: &'static str,
    /// How many tasks of this owner have panicked by now.
    pub count: u64,
}

/// Why a task gave no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// It panicked; the log has the place.
    #[error("task {task} panicked")]
    Panicked {
        /// The name of the task.
        task: &'static str,
    },
    /// Its owner ended it.
    #[error("task {task} was ended before it had finished")]
    Cut {
        /// The name of the task.
        task: &'static str,
    },
}

impl Tasks {
    /// An owner with a stop token of its own.
    pub fn new(metrics: &TaskMetrics) -> Self {
        Self::below(&CancellationToken::new(), metrics)
    }

    /// An owner whose tasks are also asked to end when `stop` is cancelled.
    pub fn below(stop: &CancellationToken, metrics: &TaskMetrics) -> Self {
        Self::build(Vec::new(), stop.child_token(), CancellationToken::new(), metrics.clone())
    }

    fn build(above: Vec<TaskTracker>, stop: CancellationToken, cut: CancellationToken, metrics: TaskMetrics) -> Self {
        Self { tracker: TaskTracker::new(), above, stop, cut, shared: Arc::default(), metrics }
    }

    /// An owner below this one, such as a tenant: stops with it, can be shut down alone, and keeps its panics to
    /// itself.
    #[must_use = "dropping an owner ends its tasks"]
    pub fn child(&self) -> Self {
        let above = self.above.iter().chain([&self.tracker]).cloned().collect();
        Self::build(above, self.stop.child_token(), self.cut.child_token(), self.metrics.clone())
    }

    /// The token that asks these tasks to end. Long tasks watch it.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Starts a task in a span of its name below the current span. The handle may be dropped: the task goes on.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> Running<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (sender, result) = oneshot::channel();
        let present = self.enter(name);
        let cut = self.cut.clone();
        let supervised = async move {
            let present = present;
            let outcome = tokio::select! {
                biased;
                () = cut.cancelled() => Err(TaskError::Cut { task: name }),
                outcome = AssertUnwindSafe(future).catch_unwind() => outcome.map_err(|_| present.panicked()),
            };
            // Gone before the result is there, so that whoever gets it sees the counts without this task.
            drop(present);
            // Nobody waits for the result of a task whose handle was dropped.
            let _ = sender.send(outcome);
        };
        self.tracker.spawn(supervised.instrument(info_span!("task", task = name)));
        Running { task: name, result }
    }

    fn enter(&self, task: &'static str) -> Present {
        *self.shared.running.lock().entry(task).or_default() += 1;
        self.metrics.running.get_or_create(&TaskLabels { task }).inc();
        Present {
            task,
            shared: Arc::clone(&self.shared),
            metrics: self.metrics.clone(),
            _above: self.above.iter().map(TaskTracker::token).collect(),
        }
    }

    /// How many tasks of this owner have panicked.
    pub fn panics(&self) -> u64 {
        self.shared.panicked.borrow().as_ref().map_or(0, |panicked| panicked.count)
    }

    /// Waits until a task of this owner has panicked; returns at once if one has.
    pub async fn panicked(&self) -> Panicked {
        let mut panicked = self.shared.panicked.subscribe();
        loop {
            if let Some(panicked) = panicked.borrow_and_update().clone() {
                return panicked;
            }
            if panicked.changed().await.is_err() {
                // The sender lives in `self`.
                std::future::pending::<()>().await;
            }
        }
    }

    /// How many tasks run, those of owners below not counted.
    pub fn len(&self) -> usize {
        self.shared.running.lock().values().sum()
    }

    /// Whether no task runs.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Asks all tasks, also of owners below, to end, gives them `grace`, then cuts the rest short.
    pub async fn shutdown(self, grace: Duration) -> Drained {
        self.stop.cancel();
        self.tracker.close();
        if timeout(grace, self.tracker.wait()).await.is_ok() {
            return Drained::default();
        }
        let cut = self.shared.names();
        warn!(tasks = cut.join(","), "tasks did not end in time");
        self.cut.cancel();
        let stuck = timeout(LAST_GRACE, self.tracker.wait()).await.is_err();
        let stuck = if stuck { self.shared.names() } else { Vec::new() };
        Drained { cut, stuck }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.stop.cancel();
        self.cut.cancel();
    }
}

impl Shared {
    fn names(&self) -> Vec<&'static str> {
        self.running.lock().keys().copied().collect()
    }
}

/// How a shutdown went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drained {
    /// Names of the tasks that did not end by themselves; may lack those of owners below.
    pub cut: Vec<&'static str>,
    /// Names of those that did not even come to an `.await`.
    pub stuck: Vec<&'static str>,
}

impl Drained {
    /// Whether every task ended by itself.
    pub fn is_clean(&self) -> bool {
        self.cut.is_empty()
    }
}

/// A task's result, to come. Dropping this does not end the task.
#[derive(Debug)]
pub struct Running<T> {
    task: &'static str,
    result: oneshot::Receiver<Result<T, TaskError>>,
}

impl<T> Future for Running<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        let task = self.task;
        self.result.poll_unpin(cx).map(|result| result.unwrap_or(Err(TaskError::Cut { task })))
    }
}

/// A task while it runs; counts it out when dropped, however it ended.
struct Present {
    task: &'static str,
    shared: Arc<Shared>,
    metrics: TaskMetrics,
    _above: Vec<TaskTrackerToken>,
}

impl Present {
    /// Reports a panic to the owner, the log and the metrics.
    fn panicked(&self) -> TaskError {
        let task = self.task;
        error!(task, "task panicked");
        self.metrics.panics.get_or_create(&TaskLabels { task }).inc();
        self.shared.panicked.send_modify(|panicked| {
            let count = panicked.as_ref().map_or(0, |panicked| panicked.count) + 1;
            *panicked = Some(Panicked { task, count });
        });
        TaskError::Panicked { task }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let mut running = self.shared.running.lock();
        if let Some(count) = running.get_mut(self.task) {
            *count -= 1;
            if *count == 0 {
                running.remove(self.task);
            }
        }
        self.metrics.running.get_or_create(&TaskLabels { task: self.task }).dec();
    }
}

/// Metrics of all tasks, by name. Clones count together.
#[derive(Clone, Default)]
pub struct TaskMetrics {
    running: Family<TaskLabels, Gauge>,
    panics: Family<TaskLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TaskLabels {
    task: &'static str,
}

impl TaskMetrics {
    /// Metrics that `registry` shows.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("tasks_running", "Tasks that run", metrics.running.clone());
        registry.register("task_panics", "Tasks that panicked", metrics.panics.clone());
        metrics
    }
}

impl fmt::Debug for TaskMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskMetrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn tasks() -> Tasks {
        Tasks::new(&TaskMetrics::default())
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_stops_at_its_task_and_reaches_the_owner() {
        let mut registry = Registry::default();
        let tasks = Tasks::new(&TaskMetrics::register(&mut registry));
        let healthy = tasks.spawn("healthy", async { 5 });
        let poisoned = tasks.spawn("poisoned", async { panic!("expected in this test") });
        assert_eq!(poisoned.await, Err::<(), _>(TaskError::Panicked { task: "poisoned" }));
        assert_eq!(healthy.await, Ok(5));
        assert_eq!(tasks.panicked().await, Panicked { task: "poisoned", count: 1 });
        assert_eq!(tasks.panics(), 1);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("task_panics_total{task=\"poisoned\"} 1"), "{text}");
        assert!(text.contains("tasks_running{task=\"poisoned\"} 0"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_waits_for_tasks_that_heed_the_stop_token() {
        let tasks = tasks();
        let stop = tasks.stop().clone();
        let polite = tasks.spawn("polite", async move {
            stop.cancelled().await;
            tokio::time::sleep(3 * SECOND).await;
            "drained"
        });
        assert_eq!(tasks.len(), 1);
        assert!(tasks.shutdown(5 * SECOND).await.is_clean());
        assert_eq!(polite.await, Ok("drained"));
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_cuts_and_names_those_that_do_not() {
        let tasks = tasks();
        let deaf = tasks.spawn("deaf", pending::<()>());
        let drained = tasks.shutdown(5 * SECOND).await;
        assert_eq!(drained, Drained { cut: vec!["deaf"], stuck: vec![] });
        assert_eq!(deaf.await, Err(TaskError::Cut { task: "deaf" }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_owner_takes_its_tasks_along() {
        let tasks = tasks();
        let (guard, dropped) = oneshot::channel::<()>();
        let task = tasks.spawn("orphan", async move {
            let _guard = guard;
            pending::<()>().await;
        });
        drop(tasks);
        assert_eq!(task.await, Err(TaskError::Cut { task: "orphan" }));
        assert!(dropped.await.is_err(), "the future was dropped");
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_ends_alone_and_the_parent_waits_for_children() {
        let parent = tasks();
        let (first, second) = (parent.child(), parent.child());
        let one = first.spawn("one", pending::<()>());
        let stop = second.stop().clone();
        let two = second.spawn("two", async move {
            stop.cancelled().await;
            tokio::time::sleep(SECOND).await;
        });
        assert!(!first.shutdown(Duration::ZERO).await.is_clean());
        assert_eq!(one.await, Err(TaskError::Cut { task: "one" }));
        assert_eq!(second.len(), 1);
        assert!(parent.shutdown(2 * SECOND).await.is_clean());
        assert_eq!(two.await, Ok(()), "the parent waited for it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_keeps_its_panics_to_itself() {
        let parent = tasks();
        let child = parent.child();
        let _ = child.spawn("poisoned", async { panic!("expected in this test") }).await;
        assert_eq!((parent.panics(), child.panics()), (0, 1));
    }
}
