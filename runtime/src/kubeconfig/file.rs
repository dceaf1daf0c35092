//! The file format of a kubeconfig, all of it, so that what is refused can be named.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_saphyr::{DuplicateKeyPolicy, Error as YamlError, MergeKeyPolicy};

use super::{KubeconfigError, MAX_BYTES, Secret};

/// Deepest nesting: `users[0].user.exec.env[0].name` and room for extensions.
const MAX_DEPTH: usize = 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    #[serde(rename = "preferences")]
    _preferences: Option<IgnoredAny>,
    #[serde(rename = "extensions")]
    _extensions: Option<IgnoredAny>,
    #[serde(default)]
    pub(super) clusters: Vec<NamedCluster>,
    #[serde(default)]
    pub(super) users: Vec<NamedUser>,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(rename = "current-context")]
    current_context: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedCluster {
    name: String,
    pub(super) cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Cluster {
    pub(super) server: Option<String>,
    pub(super) tls_server_name: Option<String>,
    #[serde(rename = "insecure-skip-tls-verify")]
    pub(super) insecure: Option<bool>,
    #[serde(rename = "certificate-authority")]
    pub(super) ca_file: Option<String>,
    #[serde(rename = "certificate-authority-data")]
    pub(super) ca_data: Option<String>,
    pub(super) proxy_url: Option<IgnoredAny>,
    #[serde(rename = "disable-compression")]
    _disable_compression: Option<bool>,
    #[serde(rename = "extensions")]
    _extensions: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedUser {
    name: String,
    pub(super) user: User,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct User {
    #[serde(rename = "client-certificate")]
    pub(super) certificate_file: Option<String>,
    #[serde(rename = "client-certificate-data")]
    pub(super) certificate_data: Option<String>,
    #[serde(rename = "client-key")]
    pub(super) key_file: Option<String>,
    #[serde(rename = "client-key-data")]
    pub(super) key_data: Option<Secret>,
    pub(super) token: Option<Secret>,
    #[serde(rename = "tokenFile")]
    pub(super) token_file: Option<String>,
    #[serde(rename = "as")]
    impersonated: Option<IgnoredAny>,
    as_uid: Option<IgnoredAny>,
    as_groups: Option<IgnoredAny>,
    as_user_extra: Option<IgnoredAny>,
    username: Option<IgnoredAny>,
    password: Option<IgnoredAny>,
    pub(super) auth_provider: Option<IgnoredAny>,
    pub(super) exec: Option<IgnoredAny>,
    #[serde(rename = "extensions")]
    _extensions: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Context {
    cluster: String,
    user: String,
    #[serde(rename = "namespace")]
    _namespace: Option<String>,
    #[serde(rename = "extensions")]
    _extensions: Option<IgnoredAny>,
}

impl User {
    /// The first field that asks to act as somebody else.
    pub(super) fn impersonation(&self) -> Option<&'static str> {
        let fields =
            [("as", &self.impersonated), ("as-uid", &self.as_uid), ("as-groups", &self.as_groups), ("as-user-extra", &self.as_user_extra)];
        fields.into_iter().find_map(|(name, value)| value.is_some().then_some(name))
    }

    /// The first field of basic authentication.
    pub(super) fn basic(&self) -> Option<&'static str> {
        let fields = [("username", &self.username), ("password", &self.password)];
        fields.into_iter().find_map(|(name, value)| value.is_some().then_some(name))
    }
}

impl File {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, KubeconfigError> {
        if bytes.len() > MAX_BYTES {
            return Err(KubeconfigError::TooLarge { bytes: bytes.len() });
        }
        let text = std::str::from_utf8(bytes).map_err(|_| KubeconfigError::NotText)?;
        refuse_indirection(text)?;
        serde_saphyr::from_str_with_options(text, strict()).map_err(|error| described(&error))
    }

    /// Cluster and user of the current context; the only context if none is chosen.
    pub(super) fn current(&self) -> Result<(&Cluster, &User), KubeconfigError> {
        let context = match (self.current_context.as_deref().unwrap_or_default(), self.contexts.as_slice()) {
            ("", [only]) => only,
            (name, contexts) => single(contexts, "current-context", |context| context.name == name)?,
        };
        let Context { cluster, user, .. } = &context.context;
        let cluster = single(&self.clusters, "contexts[].context.cluster", |named| named.name == *cluster)?;
        let user = single(&self.users, "contexts[].context.user", |named| named.name == *user)?;
        Ok((&cluster.cluster, &user.user))
    }
}

/// The one entry that fits; two of a name are refused, since clients differ in which they take.
fn single<'a, T>(entries: &'a [T], field: &'static str, fits: impl Fn(&T) -> bool) -> Result<&'a T, KubeconfigError> {
    let mut fitting = entries.iter().filter(|entry| fits(entry));
    match (fitting.next(), fitting.next()) {
        (Some(entry), None) => Ok(entry),
        (Some(_), Some(_)) | (None, _) => Err(KubeconfigError::Dangling { field }),
    }
}

fn strict() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_documents: 1,
            max_anchors: 0,
            max_aliases: 0,
            max_merge_keys: 0,
            max_nodes: 4096,
            max_events: 16_384,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        reject_unsupported_tags: true,
    }
}

/// Refuses `&anchor`, `*alias` and `!tag` by sight, before any parser gives them a meaning.
///
/// # Caveats
/// Text that has one of these signs after a space is refused too, though in quotes it would be harmless: no field that is
/// read here needs it.
fn refuse_indirection(text: &str) -> Result<(), KubeconfigError> {
    for (line, content) in (1..).zip(text.lines()) {
        if content.trim_start().starts_with('#') {
            continue;
        }
        let mut before = ' ';
        for sign in content.chars() {
            if matches!(sign, '&' | '*' | '!') && (before.is_whitespace() || matches!(before, '[' | '{' | ',' | ':')) {
                return Err(KubeconfigError::Indirection { line });
            }
            before = sign;
        }
    }
    Ok(())
}

/// Says what is wrong without a word of the content: the parser's own message quotes it.
fn described(error: &YamlError) -> KubeconfigError {
    let error = error.without_snippet();
    let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
    if let YamlError::SerdeUnknownField { field, .. } = error {
        return KubeconfigError::UnknownField { field: plain(field), line };
    }
    let what = if matches!(error, YamlError::DuplicateMappingKey { .. }) {
        "a key stands twice in one mapping"
    } else if matches!(error, YamlError::Budget { .. } | YamlError::MultipleDocuments { .. }) {
        "it is nested too deeply, too long, or more than one document"
    } else {
        "it does not have the form of a kubeconfig"
    };
    KubeconfigError::Yaml { line, column, what }
}

/// A field name if it can be one, else a placeholder: a misplaced line break can make a key of a credential.
fn plain(field: &str) -> String {
    let is_plain = field.len() <= 40 && field.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-');
    if is_plain { field.to_owned() } else { "(not shown)".to_owned() }
}
