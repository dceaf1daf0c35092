//! One future for each of a set that changes: who stays runs on, who goes is dropped.

use std::sync::Arc;

use futures::StreamExt;
use futures::future::{AbortHandle, abortable};
use futures::stream::FuturesUnordered;
use tokio::sync::watch;

/// What there is, each by itself.
pub(super) type Set<T> = Arc<Vec<Arc<T>>>;

/// Runs `run` for each of `all`, for as long as it is there. Ends with who says what there is.
pub(super) async fn each<T, F: Future<Output = ()>>(mut all: watch::Receiver<Set<T>>, run: impl Fn(Arc<T>) -> F) {
    let mut running = FuturesUnordered::new();
    let mut handles: Vec<(Arc<T>, AbortHandle)> = Vec::new();
    loop {
        let now = all.borrow_and_update().clone();
        handles.retain(|(item, handle)| {
            let stays = now.iter().any(|other| Arc::ptr_eq(item, other));
            if !stays {
                handle.abort();
            }
            stays
        });
        for item in now.iter().filter(|item| !handles.iter().any(|(there, _)| Arc::ptr_eq(there, item))).cloned().collect::<Vec<_>>() {
            let (future, handle) = abortable(run(item.clone()));
            running.push(future);
            handles.push((item, handle));
        }
        loop {
            tokio::select! {
                changed = all.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                Some(_) = running.next() => {}
            }
        }
    }
}

/// Does something when it is dropped, so also where what it belongs to is cut off.
pub(super) struct AtEnd<F: FnMut()>(pub(super) F);

impl<F: FnMut()> Drop for AtEnd<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[tokio::test]
    async fn who_stays_runs_on_and_who_goes_is_dropped() {
        let (tell, all) = watch::channel(Set::default());
        let log = Mutex::new(Vec::new());
        let runs = each(all, |item: Arc<&str>| {
            let log = &log;
            async move {
                log.lock().push(format!("{item} begins"));
                let _end = AtEnd(|| log.lock().push(format!("{item} ends")));
                std::future::pending::<()>().await;
            }
        });
        let [a, b, c] = ["a", "b", "c"].map(Arc::new);
        let changes = async {
            for set in [vec![a.clone(), b.clone()], vec![b.clone(), c.clone()], vec![b.clone(), c.clone()], vec![]] {
                tell.send_replace(Arc::new(set));
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
            }
            drop(tell);
        };
        tokio::join!(runs, changes);
        assert_eq!(*log.lock(), ["a begins", "b begins", "a ends", "c begins", "b ends", "c ends"]);
    }
}
