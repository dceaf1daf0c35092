//! How much the objects of one tenant take of what the super cluster has for all.

use serde_json::{Map, Value};

use crate::hold::Hold;

/// Something that there is only so much of, and that objects of a kind take.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// The reason of the Event about an object that finds no room, one upper-camel-case word.
    pub reason: &'static str,
    /// What is counted, as one says it to people: `Services`.
    pub what: &'static str,
    /// What the objects of one tenant take of it at most.
    pub most: usize,
    /// How much one object takes.
    pub takes: Takes,
}

/// How much of something one object takes.
#[derive(Clone, Copy, Debug)]
pub enum Takes {
    /// One.
    One,
    /// As much as this says of the body of its super copy.
    Counted(fn(&Map<String, Value>) -> usize),
}

impl Bound {
    /// How much an object of this body takes.
    pub fn of(&self, body: &Map<String, Value>) -> usize {
        match self.takes {
            Takes::One => 1,
            Takes::Counted(count) => count(body),
        }
    }

    /// Refuses the object with which the tenant would have so much.
    pub fn refuse(&self, count: usize) -> Hold {
        let (what, most) = (self.what, self.most);
        let message = format!(
            "with this object your control plane would have {count} {what} in the super cluster, of at most {most}; it goes down when others are deleted"
        );
        Hold::refuse(self.reason, "", message)
    }
}
