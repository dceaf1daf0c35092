//! Two pages that are read one after the other and must be alike in the end; no later one makes up for one that said too much.

use std::time::Duration;

use anyhow::anyhow;

use crate::wait::{Seen, eventually};

/// For both pages to speak of the same containers: a kubelet measures them one by one, some seconds after they have begun.
const SETTLED: Duration = Duration::from_mins(1);

/// Why a page is not what the kubelet's is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unlike {
    /// Not yet, perhaps: the two were read one after the other.
    Differs(String),
    /// It says what the tenant must not know. No later page makes up for it.
    Leaks(String),
}

impl From<String> for Unlike {
    fn from(difference: String) -> Self {
        Self::Differs(difference)
    }
}

/// How much of a page is the tenant's, and how much there is in all.
pub type Compared = Result<(usize, usize), Unlike>;

/// What was compared once both sides agree.
///
/// # Errors
/// At once with the first page that says too much.
pub async fn settled(tenant: &str, path: &str, mut look: impl AsyncFnMut() -> anyhow::Result<Compared>) -> anyhow::Result<(usize, usize)> {
    let ended = eventually(format!("{tenant}: {path} is what the kubelet says"), SETTLED, async || {
        Ok(match look().await? {
            Ok(counts) => Seen::Done(Ok(counts)),
            Err(Unlike::Leaks(leak)) => Seen::Done(Err(leak)),
            Err(Unlike::Differs(difference)) => Seen::NotYet(difference),
        })
    })
    .await?;
    ended.map_err(|leak| anyhow!("{tenant}: {leak}"))
}

/// That nothing is named that must not be.
pub fn hides(hidden: &[String], path: &str, page: &str) -> Result<(), Unlike> {
    let line = |text: &str| page.lines().find(|line| line.contains(text)).unwrap_or_default().chars().take(400).collect::<String>();
    match hidden.iter().find(|text| page.contains(text.as_str())) {
        Some(text) => Err(Unlike::Leaks(format!("{path} names {text}: {}", line(text)))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_page_that_leaks_once_has_leaked_whatever_comes_next() {
        let mut looks = 0;
        let ended = settled("a", "/pods", async || {
            looks += 1;
            Ok(match looks {
                1 => Err(Unlike::Differs("not yet".to_owned())),
                2 => hides(&["theirs".to_owned()], "/pods", "own\ntheirs\n").map(|()| (1, 1)),
                _ => Ok((1, 1)),
            })
        })
        .await;
        assert_eq!(ended.unwrap_err().to_string(), "a: /pods names theirs: theirs");
        assert_eq!(looks, 2);
    }
}
