//! What was asked of an API server, by its own audit log: an independent count of calls.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::PathBuf,
};

use anyhow::Context as _;
use serde::Deserialize;

/// The audit log of one API server.
#[derive(Clone, Debug)]
pub struct Audit {
    path: PathBuf,
}

/// A place in the log; calls that were answered after it are counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark(u64);

/// One answered call. A watch counts once, when it starts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// Who called.
    pub user: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; `GET` and so on where there is no resource.
    pub verb: String,
    /// The API group, empty for the core.
    pub group: String,
    /// The resource, in plural; the path for what is none.
    pub resource: String,
    /// The subresource, or empty.
    pub subresource: String,
    /// The namespace, or empty.
    pub namespace: String,
    /// The object's name, or empty.
    pub name: String,
    /// The status code of the answer.
    pub code: u16,
    /// Which of the caller's credentials it showed, as the API server calls it: `JTI=<id>` of a token, `X509SHA256=<hash>`; or empty.
    pub credential: String,
    /// Which credential the answer was, where a token was asked for: `JTI=<id>`; or empty.
    pub issued: String,
}

impl Call {
    /// Whether it asked for a change (a token is not a change of an object).
    pub fn is_write(&self) -> bool {
        let writes = ["create", "update", "patch", "delete", "deletecollection"];
        writes.contains(&self.verb.as_str()) && self.subresource != "token" && !self.resource.ends_with("reviews")
    }

    /// Whether it asked for objects, by name or as a list; a watch is neither.
    pub fn is_read(&self) -> bool {
        ["get", "list"].contains(&self.verb.as_str())
    }

    /// Whether it asked for a token.
    pub fn is_token(&self) -> bool {
        self.verb == "create" && self.subresource == "token"
    }

    /// Whether it changed something.
    pub fn is_successful(&self) -> bool {
        self.code < 300
    }

    /// `verb resource/subresource code`, for tables.
    pub fn summary(&self) -> String {
        let slash = if self.subresource.is_empty() { "" } else { "/" };
        format!("{} {}{slash}{} {}", self.verb, self.resource, self.subresource, self.code)
    }
}

/// Calls, with what tests and benchmarks ask of them.
#[derive(Clone, Debug, Default)]
pub struct Calls(pub Vec<Call>);

impl Audit {
    /// Reads the log in a file.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Now.
    pub fn mark(&self) -> Mark {
        Mark(std::fs::metadata(&self.path).map(|data| data.len()).unwrap_or_default())
    }

    /// What was answered after `mark`.
    pub fn since(&self, mark: Mark) -> anyhow::Result<Calls> {
        let mut file = File::open(&self.path).with_context(|| format!("could not open {}", self.path.display()))?;
        file.seek(SeekFrom::Start(mark.0))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // A line that is being written is for the next reading.
        let whole = text.rfind('\n').map_or("", |end| text.get(..end).unwrap_or_default());
        let calls = whole.lines().map(parse).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Calls(calls.into_iter().flatten().collect()))
    }
}

impl Calls {
    /// Those that satisfy `keep`.
    #[must_use]
    pub fn filter(&self, keep: impl Fn(&Call) -> bool) -> Self {
        Self(self.0.iter().filter(|call| keep(call)).cloned().collect())
    }

    /// Those whose user contains `text`.
    #[must_use]
    pub fn by(&self, text: &str) -> Self {
        self.filter(|call| call.user.contains(text))
    }

    /// Those that showed one of these credentials: tells apart two processes that are the same user.
    #[must_use]
    pub fn with(&self, credentials: &BTreeSet<String>) -> Self {
        self.filter(|call| credentials.contains(&call.credential))
    }

    /// The credentials that these callers have: those that they showed, and those that they were given.
    pub fn credentials(&self) -> BTreeSet<String> {
        let all = self.0.iter().flat_map(|call| [&call.credential, &call.issued]);
        all.filter(|id| !id.is_empty()).cloned().collect()
    }

    /// Those that ask for a change of an object.
    #[must_use]
    pub fn writes(&self) -> Self {
        self.filter(Call::is_write)
    }

    /// Those that ask for objects.
    #[must_use]
    pub fn reads(&self) -> Self {
        self.filter(Call::is_read)
    }

    /// Those that ask for a token.
    #[must_use]
    pub fn tokens(&self) -> Self {
        self.filter(Call::is_token)
    }

    /// Those without Leases, which tell the time and nothing else.
    #[must_use]
    pub fn without_leases(&self) -> Self {
        self.filter(|call| call.resource != "leases")
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are of each [`Call::summary`].
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for call in &self.0 {
            *counts.entry(call.summary()).or_default() += 1;
        }
        counts
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts().iter().try_for_each(|(what, count)| writeln!(f, "{count:6}  {what}"))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    stage: String,
    verb: String,
    #[serde(rename = "requestURI")]
    request_uri: String,
    #[serde(default)]
    user: User,
    object_ref: Option<ObjectRef>,
    response_status: Option<Status>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Where the API server says which credential was shown, and which was issued.
const SHOWN: &str = "authentication.kubernetes.io/credential-id";
const ISSUED: &str = "authentication.kubernetes.io/issued-credential-id";

#[derive(Default, Deserialize)]
struct User {
    #[serde(default)]
    username: String,
    #[serde(default)]
    extra: BTreeMap<String, Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ObjectRef {
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
    api_group: String,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    code: u16,
}

fn parse(line: &str) -> anyhow::Result<Option<Call>> {
    let line: Line = serde_json::from_str(line).context("could not read a line of the audit log")?;
    let code = line.response_status.unwrap_or_default().code;
    // A watch has two lines, one when it starts; one that is refused has only the other.
    let counts = match line.stage.as_str() {
        "ResponseStarted" => true,
        "ResponseComplete" => line.verb != "watch" || code >= 300,
        _ => line.stage == "Panic",
    };
    if !counts {
        return Ok(None);
    }
    let object = line.object_ref.unwrap_or_default();
    let credential = line.user.extra.get(SHOWN).and_then(|ids| ids.first()).cloned().unwrap_or_default();
    let path = || line.request_uri.split('?').next().unwrap_or_default().to_owned();
    Ok(Some(Call {
        user: line.user.username,
        verb: line.verb,
        group: object.api_group,
        resource: if object.resource.is_empty() { path() } else { object.resource },
        subresource: object.subresource,
        namespace: object.namespace,
        name: object.name,
        code,
        credential,
        issued: line.annotations.get(ISSUED).cloned().unwrap_or_default(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_counts_once_and_a_token_is_no_write() {
        let watch = |stage: &str| {
            format!(
                r#"{{"stage":"{stage}","verb":"watch","requestURI":"/api/v1/pods?watch=1","user":{{"username":"u"}},
                "objectRef":{{"resource":"pods","apiVersion":"v1"}},"responseStatus":{{"code":200}}}}"#
            )
        };
        assert!(parse(&watch("ResponseStarted")).unwrap().is_some());
        assert!(parse(&watch("ResponseComplete")).unwrap().is_none());
        let token = r#"{"stage":"ResponseComplete","verb":"create","requestURI":"/x",
            "user":{"username":"u","extra":{"authentication.kubernetes.io/credential-id":["JTI=a"]}},
            "annotations":{"authentication.kubernetes.io/issued-credential-id":"JTI=b"},
            "objectRef":{"resource":"serviceaccounts","subresource":"token","name":"default"},"responseStatus":{"code":201}}"#;
        let call = parse(token).unwrap().unwrap();
        assert_eq!(call.summary(), "create serviceaccounts/token 201");
        assert!(!call.is_write() && !call.is_read() && call.is_token());
        assert_eq!(Calls(vec![call]).credentials(), BTreeSet::from(["JTI=a".to_owned(), "JTI=b".to_owned()]));
    }
}
