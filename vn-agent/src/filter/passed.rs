//! What has passed a filter and waits: each piece with the Pod that it is about.

use std::mem::take;

use common::Uid;

/// Of a node a tenant is told what its own Pods use, as if the node were theirs alone.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Seconds of CPU since they began.
    pub cpu_seconds: f64,
    /// Memory in use.
    pub memory_bytes: f64,
}

impl Totals {
    fn add(&mut self, other: Self) {
        self.cpu_seconds += other.cpu_seconds;
        self.memory_bytes += other.memory_bytes;
    }
}

/// Pieces of a page for a tenant, in their order.
#[derive(Default)]
pub struct Passed {
    text: String,
    pieces: Vec<Piece>,
    /// The Pods that they are about.
    pods: Vec<Uid>,
    /// What some of them say of the totals, by the Pod's number.
    counted: Vec<(u32, Totals)>,
    totals: Totals,
    /// Something about a Pod has gone before.
    has_released: bool,
}

/// Small, since a page has one a line.
struct Piece {
    end: u32,
    /// The Pod's number and one more; 0 is about none, which passes in any case.
    pod: u32,
}

impl Passed {
    /// How much waits, in bytes.
    pub fn len(&self) -> usize {
        self.text.len() + size_of_val(&*self.pieces) + size_of_val(&*self.pods) + size_of_val(&*self.counted)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Adds what is about no Pod.
    pub(super) fn plain(&mut self, text: &str) {
        self.add(0, text);
    }

    /// Adds what is about a Pod, by its UID in the super cluster.
    pub(super) fn about(&mut self, pod: Uid, text: &str) {
        let number = self.number(pod);
        self.add(number + 1, text);
    }

    /// Notes what was said of the totals about a Pod.
    pub(super) fn count(&mut self, pod: Uid, totals: Totals) {
        let number = self.number(pod);
        self.counted.push((number, totals));
    }

    /// The totals over all that was released.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The number of a Pod. Pages mostly go on about the one that they were about.
    fn number(&mut self, pod: Uid) -> u32 {
        let at = self.pods.iter().rposition(|known| *known == pod).unwrap_or_else(|| {
            self.pods.push(pod);
            self.pods.len() - 1
        });
        u32::try_from(at).unwrap_or(u32::MAX)
    }

    fn add(&mut self, pod: u32, text: &str) {
        self.text.push_str(text);
        // What does not fit any more does not pass: a part is a thousand times smaller.
        self.pieces.push(Piece { end: u32::try_from(self.text.len()).unwrap_or(u32::MAX), pod });
    }

    /// Gives what waits, without what is about Pods that may not be shown any more. `separator` stands between any two pieces about Pods.
    pub fn release(&mut self, separator: &str, may_pass: impl Fn(Uid) -> bool) -> Vec<u8> {
        // Nothing is kept to be filled again: a page waits for as long as its reader likes, and then holds what it gave alone.
        let (held, pieces) = (take(&mut self.text), take(&mut self.pieces));
        let passes: Vec<bool> = take(&mut self.pods).iter().map(|pod| may_pass(*pod)).collect();
        let passes = |number: u32| usize::try_from(number).ok().and_then(|at| passes.get(at)).copied().unwrap_or_default();
        let mut out = Vec::with_capacity(held.len());
        let mut begin = 0;
        for piece in pieces {
            let end = usize::try_from(piece.end).unwrap_or(usize::MAX);
            let text = held.get(begin..end).unwrap_or_default();
            begin = end;
            match piece.pod.checked_sub(1) {
                Some(number) if !passes(number) => continue,
                Some(_) if std::mem::replace(&mut self.has_released, true) => out.extend_from_slice(separator.as_bytes()),
                Some(_) | None => {}
            }
            out.extend_from_slice(text.as_bytes());
        }
        let counted = take(&mut self.counted).into_iter().filter(|(number, _)| passes(*number));
        counted.for_each(|(_, totals)| self.totals.add(totals));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_a_pod_that_changed_is_left_out_and_separators_stay_right() {
        let (a, b) = (Uid::from_bits(1), Uid::from_bits(2));
        let mut passed = Passed::default();
        passed.plain("[");
        passed.about(a, "1");
        passed.about(b, "2");
        assert_eq!(passed.release(",", |uid| uid == b), b"[2");
        assert!(passed.is_empty());
        passed.about(a, "3");
        passed.about(b, "4");
        passed.plain("]");
        assert_eq!(passed.release(",", |uid| uid == b), b",4]");
        let totals = |cpu_seconds| Totals { cpu_seconds, memory_bytes: 1.0 };
        passed.count(a, totals(5.0));
        passed.count(b, totals(6.0));
        passed.release(",", |uid| uid == b);
        assert_eq!(passed.totals(), totals(6.0), "nor does it count");
    }
}
