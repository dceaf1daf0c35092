//! What a tenant's own `RuntimeClass`es stand for: read when a Pod names one, since few do, and remembered for a while.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use common::{Name, Tenant};
use mirror::KINDS;
use mirror::cx::{Handler, RuntimeHandlers};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::time::Instant;

use crate::remote::{CallError, Remote};

/// How long an answer counts. A handler never changes, but a class may be made anew under the same name.
const FRESH: Duration = Duration::from_mins(1);
/// Classes of one tenant that are remembered: many times what anybody has.
const MOST: usize = 256;

/// The longest handler, in bytes: it is a DNS label.
const LONGEST: usize = 63;

/// The handlers of a tenant's classes, as far as Pods named them lately.
#[derive(Default)]
pub struct Handlers(Mutex<HashMap<String, (Handler, Instant)>>);

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tenant's handlers")
    }
}

impl RuntimeHandlers for Handlers {
    fn handler(&self, class: &str) -> Handler {
        // What is no name is no class.
        if Name::<Tenant>::parse(class).is_err() {
            return Handler::Missing;
        }
        let known = self.0.lock();
        known.get(class).filter(|(_, at)| at.elapsed() < FRESH).map_or(Handler::Unread, |(handler, _)| handler.clone())
    }
}

/// What is read of a class.
#[derive(Deserialize)]
struct Class {
    handler: String,
}

impl Handlers {
    /// Asks the tenant's API server what the class of this name stands for. One that may not be read is none.
    pub async fn read(&self, tenant: &Remote<Tenant>, class: &str) -> Result<(), CallError> {
        let Ok(name) = Name::<Tenant>::parse(class) else { return Ok(()) };
        self.learn(class, handler(tenant, &name).await?);
        Ok(())
    }

    fn learn(&self, class: &str, handler: Handler) {
        let mut known = self.0.lock();
        if known.len() >= MOST {
            known.retain(|_, (_, at)| at.elapsed() < FRESH);
        }
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(class.to_owned(), (handler, Instant::now()));
    }
}

async fn handler(tenant: &Remote<Tenant>, class: &Name<Tenant>) -> Result<Handler, CallError> {
    let row = KINDS.iter().map(mirror::kind::Kind::resource).find(|resource| resource.kind == "RuntimeClass");
    let Some(row) = row else { return Ok(Handler::Missing) };
    match tenant.get(&row.path(None, class.as_str()), None).await {
        Ok(bytes) => {
            let class: Class = serde_json::from_slice(&bytes).map_err(|source| CallError::Unreadable { side: "tenant", source })?;
            Ok(if class.handler.len() > LONGEST { Handler::Missing } else { Handler::Named(class.handler) })
        }
        Err(error) if error.is_not_found() || error.code() == Some(403) => Ok(Handler::Missing),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_counts_for_a_minute_and_few_are_remembered() {
        let handlers = Handlers::default();
        assert_eq!(handlers.handler("a"), Handler::Unread);
        assert_eq!(handlers.handler("../a"), Handler::Missing, "what is no name is asked of nobody");
        handlers.learn("a", Handler::Named("runsc".to_owned()));
        handlers.learn("b", Handler::Missing);
        assert_eq!((handlers.handler("a"), handlers.handler("b")), (Handler::Named("runsc".to_owned()), Handler::Missing));
        tokio::time::advance(FRESH).await;
        assert_eq!(handlers.handler("a"), Handler::Unread, "it may have been made anew");
        for i in 0..MOST * 3 {
            handlers.learn(&format!("c{i}"), Handler::Missing);
            assert!(handlers.0.lock().len() <= MOST);
        }
    }
}
