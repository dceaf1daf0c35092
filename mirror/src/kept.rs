//! What an API server did not keep of what it was asked for: it answers a write with the object that it made of it, and leaves out in silence
//! what its version does not know or has switched off.

use serde_json::{Map, Value};

use crate::shape::asks_for_nothing;

/// The fields that `asked` has and `made` lacks, as paths such as `spec.volumes[0].emptyDir.mode`; of those in lists the first of a kind.
///
/// *Shapes*: both are objects without their metadata. Values are not compared: servers write quantities and defaults their own way.
///
/// *Guarantees*: what somebody else added to a list, or put first, is no loss. So a field that one item lost and another has is not found;
/// a version that does not know a field knows it in no item.
pub fn lost(asked: &Map<String, Value>, made: &Map<String, Value>) -> Vec<String> {
    let mut found = Vec::new();
    in_object(asked, &[made], &mut String::new(), &mut found);
    found
}

/// `path` is as it was when this returns.
fn in_object(asked: &Map<String, Value>, made: &[&Map<String, Value>], path: &mut String, found: &mut Vec<String>) {
    let above = path.len();
    for (key, value) in asked {
        if asks_for_nothing(value) {
            continue;
        }
        if above > 0 {
            path.push('.');
        }
        path.push_str(key);
        let there: Vec<&Value> = made.iter().filter_map(|made| made.get(key)).collect();
        if there.is_empty() {
            found.push(path.clone());
        } else {
            in_value(value, &there, path, found);
        }
        path.truncate(above);
    }
}

fn in_value(asked: &Value, made: &[&Value], path: &mut String, found: &mut Vec<String>) {
    match asked {
        Value::Object(asked) => in_object(asked, &made.iter().filter_map(|made| made.as_object()).collect::<Vec<_>>(), path, found),
        Value::Array(asked) => {
            let made: Vec<&Value> = made.iter().filter_map(|made| made.as_array()).flatten().collect();
            let mut known: Vec<String> = Vec::new();
            for (i, item) in asked.iter().enumerate() {
                let mut here = Vec::new();
                // Below the item's own place, so that the same loss in two items is one.
                in_value(item, &made, &mut String::new(), &mut here);
                for field in here.into_iter().filter(|field| !known.contains(field)).collect::<Vec<_>>() {
                    found.push(format!("{path}[{i}].{field}"));
                    known.push(field);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lost_of(asked: &Value, made: &Value) -> Vec<String> {
        lost(asked.as_object().unwrap(), made.as_object().unwrap())
    }

    #[test]
    fn a_field_that_is_not_in_the_answer_is_lost() {
        let asked = json!({"spec": {
            "new": "a",
            "volumes": [{"name": "a", "emptyDir": {"mode": 448}}, {"name": "b", "emptyDir": {"mode": 448, "sizeLimit": "1024Mi"}}],
        }});
        let made = json!({"spec": {
            "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "emptyDir": {"sizeLimit": "1Gi"}}], "restartPolicy": "Always",
        }});
        assert_eq!(lost_of(&asked, &made), ["spec.new", "spec.volumes[0].emptyDir.mode"]);
        assert!(lost_of(&asked, &asked).is_empty());
        assert_eq!(lost_of(&json!({"data": {"a": "b"}}), &json!({})), ["data"]);
    }

    #[test]
    fn what_asks_for_nothing_and_what_others_add_is_no_loss() {
        let asked = json!({"spec": {
            "hostNetwork": false, "securityContext": {}, "nodeName": "", "volumes": [], "containers": [{"name": "main", "tty": true}],
        }});
        let made = json!({"spec": {"containers": [{"name": "injected"}, {"name": "main", "tty": true}]}});
        assert!(lost_of(&asked, &made).is_empty());
    }
}
