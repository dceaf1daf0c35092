//! What a `SyncedResource` says of itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::api::{Condition, ConditionStatus, ConditionType, FollowedVersion, SyncedResourceStatus, set_condition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::{Asked, CONFIGURED, Met, Way, chain};
use crate::engine::Engine;
use crate::remote::Patch;

/// Changes that come together are said together.
const TOGETHER: Duration = Duration::from_millis(500);

/// How long after writes the next ones wait: what tenants serve they may change without end.
const PACE: Duration = Duration::from_secs(2);

/// How long after a write that failed it is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// So many tenants are named at most.
const NAMED: usize = 5;

impl Engine {
    /// Says of what is configured how it stands, whenever that moves.
    pub(super) async fn tell_configured(&self) {
        let configured = &self.0.configured;
        loop {
            configured.moved.notified().await;
            tokio::time::sleep(TOGETHER).await;
            let all = configured.asked.borrow().clone();
            let (mut has_written, mut has_failed) = (false, false);
            for asked in all.iter() {
                let Some(wanted) = self.wanted(asked) else { continue };
                let (path, status) = (format!("{CONFIGURED}/{}/status", asked.name), json!({"status": wanted}));
                let written = self.fence().hold(self.sup().patch(&path, Patch::Merge, &status, None)).await;
                match written.and_then(|written| written) {
                    Ok(_) => has_written = true,
                    // It is gone, or soon told of anew.
                    Err(error) if error.is_not_found() => {}
                    Err(error) => {
                        tracing::warn!(object = asked.name, error = %chain(&error), "status of the SyncedResource not written");
                        has_failed = true;
                    }
                }
            }
            if has_failed {
                tokio::time::sleep(AGAIN).await;
                configured.moved.notify_one();
            }
            if has_written {
                tokio::time::sleep(PACE).await;
            }
        }
    }

    /// The status that is to be written; none if it is known yet, or stands there.
    fn wanted(&self, asked: &Arc<Asked>) -> Option<SyncedResourceStatus> {
        let said = self.0.configured.said.lock().get(&asked.name).cloned()?;
        let mut wanted = said.clone();
        let (condition, versions) = self.stands(asked)?;
        let now = Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default());
        set_condition(&mut wanted.conditions, condition.observed(asked.generation), now);
        wanted.versions = versions;
        (wanted != said).then_some(wanted)
    }

    /// How it stands; none if that is not known yet.
    fn stands(&self, asked: &Arc<Asked>) -> Option<(Condition, Vec<FollowedVersion>)> {
        let not = |reason: &str, message: String| Condition::new(ConditionType::Ready, ConditionStatus::False, reason, message);
        match &*asked.way.lock() {
            Way::Asked => return None,
            Way::Flawed(flaw) => return Some((not("Invalid", flaw.to_string()), Vec::new())),
            Way::NotServed(why) => return Some((not("NotServed", format!("in this cluster: {why}")), Vec::new())),
            Way::Followed => {}
        }
        let followed = self.0.configured.followed.borrow().iter().find(|kind| Arc::ptr_eq(&kind.asked, asked)).cloned()?;
        let mut versions: BTreeMap<String, i32> = BTreeMap::new();
        let (mut named, mut nowhere) = (Vec::new(), 0_usize);
        for met in followed.tenants.lock().values() {
            match met {
                Met::In(version) => *versions.entry(version.clone()).or_default() += 1,
                Met::Nowhere(who, serves) => {
                    nowhere += 1;
                    if named.len() < NAMED {
                        named.push(format!("{who} serves {}", if serves.is_empty() { "none".to_owned() } else { serves.join(", ") }));
                    }
                }
            }
        }
        let failed =
            self.0.configured.rows.borrow().iter().filter(|row| Arc::ptr_eq(&row.of, &followed)).find_map(|row| row.failed.lock().clone());
        let condition = if let Some(error) = failed {
            not(
                "NotRead",
                format!("it cannot be read in this cluster: {error}; the rights need the label {}", common::keys::AGGREGATE_TO_SYNCER),
            )
        } else if nowhere == 0 {
            Condition::new(ConditionType::Ready, ConditionStatus::True, "Followed", "it goes down where tenants have it")
        } else {
            let rest = nowhere.saturating_sub(named.len());
            let more = if rest == 0 { String::new() } else { format!("; and {rest} more") };
            let here = followed.served.names().join(", ");
            not("NoCommonVersion", format!("this cluster serves {here}; of the tenants, {}{more}", named.join("; ")))
        };
        let versions = versions.into_iter().map(|(version, tenants)| FollowedVersion { version, tenants }).collect();
        Some((condition, versions))
    }
}
