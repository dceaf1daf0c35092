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
    /// Copied: what passes is a part of the frame that it came in, and a body that is kept would keep all of that.
    fn new(bytes: &[u8], room: &Arc<AtomicUsize>) -> Self {
        room.fetch_add(bytes.len(), Ordering::Relaxed);
        Self { bytes: Bytes::copy_from_slice(bytes), room: room.clone() }
    }

    /// Kept only if there is room for it.
    pub(super) fn within(bytes: &[u8], room: &Arc<AtomicUsize>) -> Option<Self> {
        (room.load(Ordering::Relaxed).saturating_add(bytes.len()) <= BODIES).then(|| Self::new(bytes, room))
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
    pub fn body_read(&mut self, key: &Key, version: u64, bytes: &[u8], tenant_side: bool) {
        let room = self.held.clone();
        let entry = self.entry(key);
        if tenant_side && matches!(&entry.tenant, Slot::Here(known, ()) if known.version == version) {
            entry.tenant_body = Some(Body::new(bytes, &room));
        } else if !tenant_side && matches!(&entry.sup, Slot::Here(known, _) if known.version == version) {
            entry.sup_body = Some(Body::new(bytes, &room));
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
}
