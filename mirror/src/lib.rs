//! What to write, given what is: the pure core of the syncer. No async, no clock, no client, no dice.
//!
//! A *kind* ([`kind::Downward`], [`kind::Upward`]) says what a tenant's object asks of the super cluster and what the super cluster
//! reports back; [`kinds::KINDS`] lists them. The planner ([`plan::plan`]) turns a pair of copies into steps, alike for all kinds.

pub mod bound;
pub mod cx;
pub mod external;
pub mod facts;
pub mod hold;
pub mod host;
pub mod kept;
pub mod kind;
pub mod kinds;
pub mod metadata;
pub mod mounts;
pub mod object;
mod observed;
pub mod plan;
pub mod queue;
#[cfg(test)]
mod schema;
pub mod scrub;
pub mod served;
pub mod shape;
pub mod shown;
mod size;
mod tree;

pub use cx::Cx;
pub use facts::Facts;
pub use hold::Hold;
pub use kind::{Downward, Kind, KindId, Resource, Upward};
pub use kinds::KINDS;
pub use object::{Content, Object};
