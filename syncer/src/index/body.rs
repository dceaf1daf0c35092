//! Bodies in passing: held while a pair is not settled, and never more of one tenant than there is room for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::{Index, Key, Slot};

/// A body that waits to be looked at; counts against its tenant's room for as long as it lives.
#[derive(Debug)]
pub struct Body {
    bytes: Bytes,
    room: Arc<AtomicUsize>,
}

impl Body {
    fn new(bytes: Bytes, room: &Arc<AtomicUsize>) -> Self {
        room.fetch_add(bytes.len(), Ordering::Relaxed);
        Self { bytes, room: room.clone() }
    }

    /// The body.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.room.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

/// Bodies that one tenant's pairs hold at most, in bytes. What passes beyond is let go, and fetched when its turn comes.
pub(super) const BODIES: usize = 32 * 1024 * 1024;

impl Index {
    /// A body that was asked for. Kept however little room there is, until [`Index::make_room`], and only beside the facts of its version.
    pub fn body_read(&mut self, key: &Key, version: u64, bytes: &Bytes, tenant_side: bool) {
        let room = self.held.clone();
        let entry = self.entry(key);
        if tenant_side && matches!(&entry.tenant, Slot::Here(known, ()) if known.version == version) {
            entry.tenant_body = Some(Body::new(bytes.clone(), &room));
        } else if !tenant_side && matches!(&entry.sup, Slot::Here(known, _) if known.version == version) {
            entry.sup_body = Some(Body::new(bytes.clone(), &room));
        }
    }

    /// Lets the bodies of a pair go if the tenant holds too many.
    pub fn make_room(&mut self, key: &Key) {
        if self.held.load(Ordering::Relaxed) > BODIES
            && let Some(entry) = self.entries.get_mut(key)
        {
            entry.tenant_body = None;
            entry.sup_body = None;
        }
    }

    pub(super) fn room_for(&self, body: Bytes) -> Option<Body> {
        let held = self.held.load(Ordering::Relaxed);
        (held.saturating_add(body.len()) <= BODIES).then(|| Body::new(body, &self.held))
    }
}
