//! A string that must not be printed.

use std::sync::Arc;

use serde::{Deserialize, Deserializer};

/// A token or key. It has neither `Debug` nor `Display`, so that no log line can hold it by accident.
///
/// ```compile_fail
/// println!("{:?}", runtime::kubeconfig::Secret::new("token".to_owned()));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Takes the content.
    pub fn new(content: String) -> Self {
        Self(content.into())
    }

    /// Hands the content out, to be sent to whom it is for.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}
