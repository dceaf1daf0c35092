//! Conditions of a `VirtualCluster`: what holds, why, since when.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The conditions that the syncer keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// The summary a person looks at first: the tenant's Pods run and what it reads is current.
    Ready,
    /// Objects are flowing in both directions.
    Syncing,
    /// The tenant's API server answers with the kubeconfig at hand.
    ControlPlaneReachable,
    /// Nothing is deleted or created until somebody decides; the message says what there is to decide.
    Held,
}

impl ConditionType {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::Ready, Self::Syncing, Self::ControlPlaneReachable, Self::Held];

    /// The word that stands in `type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Syncing => "Syncing",
            Self::ControlPlaneReachable => "ControlPlaneReachable",
            Self::Held => "Held",
        }
    }
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody can say; also what any word we do not know is read as.
    #[default]
    #[serde(other)]
    Unknown,
}

/// One condition.
///
/// *Shapes*: every field may be missing when read, because objects of the original carry conditions without `type`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What this is about; absent in conditions that the original wrote.
    #[serde(rename = "type", default, skip_serializing_if = "String::is_empty")]
    pub type_: String,
    /// Whether it holds.
    #[serde(default)]
    pub status: ConditionStatus,
    /// One word for programs, in upper camel case.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// One sentence for people: what is the matter and what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When `status` last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
    /// The generation of the object that this was said about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

impl Condition {
    /// A condition as it is now; `set_condition` fills in the time.
    pub fn new(type_: ConditionType, status: ConditionStatus, reason: &str, message: impl Into<String>) -> Self {
        Self {
            type_: type_.as_str().to_owned(),
            status,
            reason: reason.to_owned(),
            message: message.into(),
            last_transition_time: None,
            observed_generation: None,
        }
    }

    /// The same, said about this generation of the object.
    #[must_use]
    pub fn observed(mut self, generation: Option<i64>) -> Self {
        self.observed_generation = generation;
        self
    }
}

/// The condition of that type, if there is one.
pub fn condition(conditions: &[Condition], type_: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|c| c.type_ == type_.as_str())
}

/// Puts `wanted` in its place among `conditions` and says whether anything changed.
///
/// *Guarantees*: `lastTransitionTime` is `now` when the status changed and stays otherwise, so setting the same condition
/// again changes nothing and needs no write. One entry remains a type. Entries of other types, and those without
/// a type, are left where they are.
pub fn set_condition(conditions: &mut Vec<Condition>, mut wanted: Condition, now: Time) -> bool {
    let Some(at) = conditions.iter().position(|c| c.type_ == wanted.type_) else {
        wanted.last_transition_time = Some(now);
        conditions.push(wanted);
        return true;
    };
    let before = conditions.len();
    let mut seen = 0_usize;
    conditions.retain(|c| c.type_ != wanted.type_ || std::mem::replace(&mut seen, 1) == 0);
    let Some(held) = conditions.get_mut(at) else {
        return false;
    };
    wanted.last_transition_time =
        if held.status == wanted.status && held.last_transition_time.is_some() { held.last_transition_time.clone() } else { Some(now) };
    let same = *held == wanted;
    *held = wanted;
    !same || conditions.len() != before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Time {
        Time(text.parse().unwrap())
    }

    fn ready(status: ConditionStatus, message: &str) -> Condition {
        Condition::new(ConditionType::Ready, status, "Reason", message)
    }

    #[test]
    fn a_condition_set_twice_changes_once_and_keeps_its_time() {
        let mut list = Vec::new();
        assert!(set_condition(&mut list, ready(ConditionStatus::True, "a"), at("2026-01-01T00:00:00Z")));
        assert!(!set_condition(&mut list, ready(ConditionStatus::True, "a"), at("2026-01-02T00:00:00Z")));
        assert_eq!(list[0].last_transition_time, Some(at("2026-01-01T00:00:00Z")));
    }

    #[test]
    fn a_new_message_is_a_change_but_not_a_transition() {
        let mut list = Vec::new();
        set_condition(&mut list, ready(ConditionStatus::True, "a"), at("2026-01-01T00:00:00Z"));
        assert!(set_condition(&mut list, ready(ConditionStatus::True, "b"), at("2026-01-02T00:00:00Z")));
        assert_eq!(list[0].last_transition_time, Some(at("2026-01-01T00:00:00Z")));
        assert!(set_condition(&mut list, ready(ConditionStatus::False, "b"), at("2026-01-03T00:00:00Z")));
        assert_eq!(list[0].last_transition_time, Some(at("2026-01-03T00:00:00Z")));
    }

    #[test]
    fn conditions_of_the_original_are_read_and_stay_where_they_are() {
        let mut list: Vec<Condition> = serde_json::from_value(serde_json::json!([
            {"status": "True", "reason": "TenantControlPlaneRunning", "lastTransitionTime": "2021-05-01T00:00:00Z"},
            {"status": "Whatever"},
        ]))
        .unwrap();
        let original = list.clone();
        assert!(set_condition(&mut list, ready(ConditionStatus::True, "a"), at("2026-01-01T00:00:00Z")));
        assert_eq!(list[..2], original[..]);
        assert_eq!(condition(&list, ConditionType::Ready), list.get(2));
        assert_eq!(original[1].status, ConditionStatus::Unknown);
    }

    #[test]
    fn a_type_that_stands_twice_is_made_one() {
        let mut list = Vec::new();
        set_condition(&mut list, ready(ConditionStatus::True, "a"), at("2026-01-01T00:00:00Z"));
        list.push(Condition::new(ConditionType::Held, ConditionStatus::False, "Fine", ""));
        list.push(list[0].clone());
        assert!(set_condition(&mut list, ready(ConditionStatus::True, "a"), at("2026-01-02T00:00:00Z")));
        let types: Vec<_> = list.iter().map(|c| c.type_.as_str()).collect();
        assert_eq!(types, ["Ready", "Held"]);
    }
}
