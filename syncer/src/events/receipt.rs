//! What became of an Event: whoever asked for it keeps a receipt, and asks again where it was lost on its way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const WAITING: u8 = 0;
const OUT: u8 = 1;
const LOST: u8 = 2;

/// Says what became of an Event.
#[derive(Clone, Debug, Default)]
pub struct Receipt(Arc<AtomicU8>);

impl Receipt {
    /// Whether it will not come: it found no room, was refused, or its tenant was attached anew meanwhile.
    pub fn is_lost(&self) -> bool {
        self.0.load(Ordering::Relaxed) == LOST
    }

    /// Whether it is there to be read.
    pub fn is_out(&self) -> bool {
        self.0.load(Ordering::Relaxed) == OUT
    }
}

/// Goes with an Event that somebody has a receipt of. Where it ends without a word, the Event is lost.
#[derive(Debug, Default)]
pub(super) struct Slip(Option<Receipt>);

impl Slip {
    /// One for whoever has this receipt.
    pub(super) fn of(receipt: &Receipt) -> Self {
        Self(Some(receipt.clone()))
    }

    /// The Event is out.
    pub(super) fn deliver(&self) {
        if let Some(receipt) = &self.0 {
            receipt.0.store(OUT, Ordering::Relaxed);
        }
    }
}

impl Drop for Slip {
    fn drop(&mut self) {
        if let Some(receipt) = &self.0 {
            // What is out stays out.
            let _ = receipt.0.compare_exchange(WAITING, LOST, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_ends_without_a_word_is_lost() {
        let receipts = [Receipt::default(), Receipt::default()];
        let slips = receipts.each_ref().map(Slip::of);
        assert!(!receipts[0].is_lost() && !receipts[0].is_out());
        slips[0].deliver();
        drop(slips);
        assert!(receipts[0].is_out() && receipts[1].is_lost());
    }
}
