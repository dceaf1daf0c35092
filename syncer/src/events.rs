//! Events that tenants read: our own about what was refused, and those of the super cluster about their objects.

mod copier;
mod outbox;
mod recorder;

pub use copier::Copier;
pub use outbox::EventCounts;
pub use recorder::{About, Recorder, Severity};
