//! Metrics in the text format of Prometheus, a line at a time.
//!
//! A sample passes if it names a Pod of the tenant and, where it names a container, one of the tenant's own; it carries labels that are
//! named here and no others. All that is about the node as a whole, or about somebody else, is left out, its HELP and TYPE too.
//!
//! In place of what the node uses stands what the tenant's Pods on it use. A metrics-server is never ready without figures of a node.
//!
//! *Guarantees*: memory is bounded by [`MOST_LINE_BYTES`] and the comments of one metric. A line that cannot be read is left out.

use std::fmt::Write as _;

use common::Uid;

use super::{Passed, Totals, View, renamed};
use crate::pods::SuperPod;

/// Longest line that is looked at; longer ones are left out.
pub const MOST_LINE_BYTES: usize = 64 * 1024;

/// Labels of one sample.
const MOST_LABELS: usize = 64;

/// Labels that pass: those of the kubelet's pages about containers, Pods and probes (Kubernetes 1.37).
const LABELS: [&str; 25] = [
    "container",
    "cpu",
    "device",
    "failure_type",
    "id",
    "image",
    "interface",
    "le",
    "major",
    "minor",
    "name",
    "namespace",
    "operation",
    "pod",
    "pod_uid",
    "probe_type",
    "quantile",
    "resource",
    "result",
    "scope",
    "state",
    "tcp_state",
    "udp_state",
    "ulimit",
    "container_state",
];

/// Names that a container has where it stands for the Pod as a whole.
const WHOLE_POD: [&str; 2] = ["", "POD"];

/// Filters a page as it comes.
pub struct Filter {
    view: View,
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    /// The line is too long and is being skipped.
    is_skipping: bool,
    /// HELP and TYPE of the metric at hand, until a sample of it passes.
    comments: String,
    has_totals: bool,
}

impl Filter {
    /// For one tenant.
    pub fn new(view: View) -> Self {
        Self { view, line: Vec::new(), is_skipping: false, comments: String::new(), has_totals: false }
    }

    /// The same, with totals in place of what the node uses.
    pub fn with_totals(view: View) -> Self {
        Self { has_totals: true, ..Self::new(view) }
    }

    /// Takes the next bytes of the page and adds what passes to `out`.
    pub fn push(&mut self, bytes: &[u8], out: &mut Passed) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, is_whole) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            if self.is_skipping || self.line.len() + text.len() > MOST_LINE_BYTES {
                self.line.clear();
                self.is_skipping = !is_whole;
                continue;
            }
            if is_whole && self.line.is_empty() {
                self.whole(text, out);
            } else {
                self.line.extend_from_slice(text);
                if is_whole {
                    let line = std::mem::take(&mut self.line);
                    self.whole(&line, out);
                }
            }
        }
    }

    fn whole(&mut self, line: &[u8], out: &mut Passed) {
        let Ok(line) = std::str::from_utf8(line) else { return };
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.starts_with('#') {
            self.comment(line);
        } else if let Some((pod, sample)) = passed(line, &self.view) {
            if !self.comments.is_empty() {
                out.plain(&self.comments);
                self.comments.clear();
            }
            out.about(pod, &sample);
            if let Some(totals) = totals(&sample).filter(|_| self.has_totals) {
                out.count(pod, totals);
            }
        }
    }

    /// The totals, where they belong on the page.
    pub fn closing(&self, totals: Totals) -> String {
        // A kubelet that says nothing of Pods has measured none yet.
        if !self.has_totals || totals == Totals::default() {
            return String::new();
        }
        let Totals { cpu_seconds, memory_bytes } = totals;
        format!(
            "# HELP node_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by this tenant's Pods on the node in core-seconds\n\
             # TYPE node_cpu_usage_seconds_total counter\n\
             node_cpu_usage_seconds_total {cpu_seconds}\n\
             # HELP node_memory_working_set_bytes [STABLE] Current working set of this tenant's Pods on the node in bytes\n\
             # TYPE node_memory_working_set_bytes gauge\n\
             node_memory_working_set_bytes {memory_bytes}\n"
        )
    }

    /// HELP comes first and begins a metric, TYPE follows.
    fn comment(&mut self, line: &str) {
        let mut words = line.splitn(4, ' ');
        let (Some("#"), Some(what @ ("HELP" | "TYPE")), Some(name), Some(_)) = (words.next(), words.next(), words.next(), words.next())
        else {
            return;
        };
        let is_of_this_metric = self.comments.lines().all(|held| held.split(' ').nth(2) == Some(name));
        if what == "HELP" || !is_of_this_metric || self.comments.lines().count() > 1 {
            self.comments.clear();
        }
        self.comments.push_str(line);
        self.comments.push('\n');
    }
}

/// What a sample of `metrics/resource` says of a whole Pod.
fn totals(sample: &str) -> Option<Totals> {
    let (name, rest) = sample.split_once('{')?;
    let value = || rest.rsplit_once("} ")?.1.split([' ', '\n']).next()?.parse().ok().filter(|value: &f64| value.is_finite());
    match name {
        "pod_cpu_usage_seconds_total" => Some(Totals { cpu_seconds: value()?, memory_bytes: 0.0 }),
        "pod_memory_working_set_bytes" => Some(Totals { cpu_seconds: 0.0, memory_bytes: value()? }),
        _ => None,
    }
}

/// A sample under the tenant's names, a line, and the Pod that it is about; nothing if it does not pass.
fn passed(line: &str, view: &View) -> Option<(Uid, String)> {
    let sample = Sample::parse(line)?;
    let pod = view.at(sample.label("namespace")?, sample.label("pod")?)?;
    let container = sample.label("container").unwrap_or_default();
    if !WHOLE_POD.contains(&container) && !pod.containers.contains(container) {
        return None;
    }
    let mut out = String::with_capacity(line.len());
    out.push_str(sample.name);
    for (n, (key, value)) in sample.labels.iter().enumerate() {
        let value = renamed_label(key, value, pod)?;
        // Writing to a string cannot fail.
        let _ = write!(out, "{}{key}=\"", if n == 0 { '{' } else { ',' });
        escape(&value, &mut out);
        out.push('"');
    }
    out.push('}');
    let _ = writeln!(out, " {}", sample.rest);
    Some((pod.uid, out))
}

/// The value of a label in the tenant's words; nothing if the label is not one that passes.
fn renamed_label(key: &str, value: &str, pod: &SuperPod) -> Option<String> {
    match key {
        "namespace" => Some(pod.tenant_namespace.to_string()),
        "pod" => Some(pod.owner.name.to_string()),
        "pod_uid" => Some(pod.owner.uid.to_string()),
        "id" => control_group(value, pod),
        key if LABELS.contains(&key) => Some(renamed(value, pod)),
        _ => None,
    }
}

/// The control group of a Pod or container, from where Pods begin: above that is how the node's administrator has laid it out. Nothing if
/// it is another Pod's, such as that of an earlier one of the same name.
fn control_group(value: &str, pod: &SuperPod) -> Option<String> {
    let (_, rest) = value.split_once("/kubepods")?;
    let uid = pod.uid.to_string();
    (rest.contains(&uid) || rest.contains(&uid.replace('-', "_"))).then(|| renamed(&format!("/kubepods{rest}"), pod))
}

fn escape(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

/// One sample with labels.
struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    /// Value and perhaps a time, in their own form.
    rest: &'a str,
}

impl<'a> Sample<'a> {
    /// Reads `name{key="value",…} number [time]`; nothing for any other form.
    fn parse(line: &'a str) -> Option<Self> {
        let (name, mut rest) = line.split_once('{')?;
        if !is_word(name, |b| b == b':') {
            return None;
        }
        let mut labels: Vec<(&str, String)> = Vec::new();
        loop {
            rest = rest.trim_start_matches(' ');
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (key, after) = rest.split_once("=\"")?;
            if !is_word(key, |_| false) || labels.len() == MOST_LABELS || labels.iter().any(|(held, _)| *held == key) {
                return None;
            }
            let (value, after) = quoted(after)?;
            labels.push((key, value));
            rest = after.strip_prefix(',').or_else(|| after.starts_with('}').then_some(after))?;
        }
        let rest = rest.strip_prefix(' ')?;
        let numbers: Vec<&str> = rest.split(' ').collect();
        let is_number =
            |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
        ((1..=2).contains(&numbers.len()) && numbers.iter().all(is_number)).then_some(Self { name, labels, rest })
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(held, _)| *held == key).map(|(_, value)| value.as_str())
    }
}

fn is_word(text: &str, also: impl Fn(u8) -> bool) -> bool {
    let starts = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_' || also(b));
    starts && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || also(b))
}

/// Reads up to the closing quote.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                c @ ('\\' | '"') => c,
                _ => return None,
            }),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::pods::tests::{pods, super_pod, tenant};

    fn view() -> View {
        let (a, b) = (tenant(1), tenant(2));
        let pods = pods(&[super_pod(&a, "default", "web", 7, "app"), super_pod(&b, "default", "web", 8, "app")]);
        View::new(Arc::new(pods), a.uid())
    }

    fn namespace(number: u128) -> String {
        tenant(number).namespace(&common::Namespace::parse("default").unwrap()).to_string()
    }

    /// What passes of a page that comes in pieces of this size.
    fn filtered(page: &str, piece: usize) -> String {
        let mut filter = Filter::new(view());
        let mut out = Passed::default();
        for piece in page.as_bytes().chunks(piece) {
            filter.push(piece, &mut out);
        }
        String::from_utf8(out.release("", |_| true)).unwrap()
    }

    fn page() -> String {
        let (a, b) = (namespace(1), namespace(2));
        let (uid, before) = (Uid::from_bits(7), Uid::from_bits(70));
        let underscored = uid.to_string().replace('-', "_");
        format!(
            "# HELP node_cpu_usage_seconds_total Of the node\n\
             # TYPE node_cpu_usage_seconds_total counter\n\
             node_cpu_usage_seconds_total 12.5 1700000000000\n\
             # HELP container_cpu_usage_seconds_total Of containers\n\
             # TYPE container_cpu_usage_seconds_total counter\n\
             container_cpu_usage_seconds_total{{container=\"app\",namespace=\"{b}\",pod=\"web\"}} 1\n\
             container_cpu_usage_seconds_total{{container=\"app\",namespace=\"{a}\",pod=\"web\"}} 2.5 1700000000000\n\
             container_cpu_usage_seconds_total{{container=\"istio-proxy\",namespace=\"{a}\",pod=\"web\"}} 3\n\
             container_cpu_usage_seconds_total{{container=\"coredns\",namespace=\"kube-system\",pod=\"coredns\"}} 4\n\
             container_memory{{container=\"\",id=\"/of-this-node/kubepods/pod{uid}\",namespace=\"{a}\",pod=\"web\"}} 5\n\
             container_memory{{container=\"\",id=\"/kubepods/pod{before}\",namespace=\"{a}\",pod=\"web\"}} 5\n\
             container_memory{{container=\"\",id=\"/elsewhere/{uid}\",namespace=\"{a}\",pod=\"web\"}} 5\n\
             container_memory{{container=\"POD\",id=\"/kubepods-pod{underscored}.slice/x\",namespace=\"{a}\",pod=\"web\"}} 6\n\
             container_memory{{container=\"app\",namespace=\"{a}\",pod=\"web\",node_secret=\"x\"}} 7\n\
             prober_probe_total{{container=\"app\",namespace=\"{a}\",pod=\"web\",pod_uid=\"{uid}\",probe_type=\"Liveness\",result=\"successful\"}} 8\n\
             machine_cpu_cores{{boot_id=\"x\"}} 2\n\
             scrape_error 0\n"
        )
    }

    #[test]
    fn s56_a_tenant_sees_its_own_samples_under_its_own_names() {
        let tenant_uid = Uid::from_bits(1007);
        let underscored = tenant_uid.to_string().replace('-', "_");
        let expected = format!(
            "# HELP container_cpu_usage_seconds_total Of containers\n\
             # TYPE container_cpu_usage_seconds_total counter\n\
             container_cpu_usage_seconds_total{{container=\"app\",namespace=\"default\",pod=\"web\"}} 2.5 1700000000000\n\
             container_memory{{container=\"\",id=\"/kubepods/pod{tenant_uid}\",namespace=\"default\",pod=\"web\"}} 5\n\
             container_memory{{container=\"POD\",id=\"/kubepods-pod{underscored}.slice/x\",namespace=\"default\",pod=\"web\"}} 6\n\
             prober_probe_total{{container=\"app\",namespace=\"default\",pod=\"web\",pod_uid=\"{tenant_uid}\",probe_type=\"Liveness\",result=\"successful\"}} 8\n"
        );
        for piece in [1, 7, 4096] {
            assert_eq!(filtered(&page(), piece), expected);
        }
    }

    #[test]
    fn in_place_of_what_the_node_uses_stands_what_the_tenants_pods_use() {
        let (a, b) = (namespace(1), namespace(2));
        let page = format!(
            "node_cpu_usage_seconds_total 100 1700000000000\nnode_memory_working_set_bytes 200 1700000000000\n\
             pod_cpu_usage_seconds_total{{namespace=\"{a}\",pod=\"web\"}} 1.5 1700000000000\n\
             pod_cpu_usage_seconds_total{{namespace=\"{b}\",pod=\"web\"}} 50 1700000000000\n\
             pod_memory_working_set_bytes{{namespace=\"{a}\",pod=\"web\"}} 2e+06 1700000000000\n"
        );
        let out = super::super::Filter::Text(Filter::with_totals(view())).whole(page.as_bytes()).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(
            out.contains("\nnode_cpu_usage_seconds_total 1.5\n") && out.ends_with("\nnode_memory_working_set_bytes 2000000\n"),
            "{out}"
        );
        assert_eq!(out.matches("\nnode_").count(), 2, "{out}");
    }

    #[test]
    fn lines_that_cannot_be_read_are_left_out() {
        let a = namespace(1);
        let labels = format!("namespace=\"{a}\",pod=\"web\"");
        for line in [
            format!("m{{{labels}}}"),
            format!("m{{{labels}}} "),
            format!("m{{{labels}}} 1 2 3"),
            format!("m{{{labels}}} 1\u{7f}"),
            format!("m{{{labels},namespace=\"other\"}} 1"),
            format!("m{{namespace=\"other\",{labels}}} 1"),
            format!("m{{{labels},x=\"\\q\"}} 1"),
            format!("m{{{labels},x=\"y}} 1"),
            format!("m{{{labels}x=\"y\"}} 1"),
            format!("m {{{labels}}} 1"),
            format!("{{{labels}}} 1"),
            format!("m{{{labels},le=\"{}\"}} 1", "x".repeat(MOST_LINE_BYTES)),
        ] {
            assert_eq!(filtered(&format!("{line}\n"), 512), "", "{line:.80}");
        }
        let whole = format!("{}\nm{{{labels}}} 1\n", "x".repeat(MOST_LINE_BYTES + 1));
        assert_eq!(filtered(&whole, 4096), "m{namespace=\"default\",pod=\"web\"} 1\n", "what follows a line that is too long is looked at");
    }

    proptest! {
        /// Whatever a page holds, nothing of the super cluster's names or of another tenant passes.
        #[test]
        fn s56_no_name_of_the_super_cluster_passes(
            lines in prop::collection::vec((0u128..4, "[a-z]{1,4}", "(app|POD|x|)", "[ -~]{0,12}"), 0..20), piece in 1usize..50
        ) {
            let page: Vec<String> = lines.iter().map(|(number, name, container, value)| {
                let namespace = namespace(*number);
                let value = value.replace('\\', "\\\\").replace('"', "\\\"");
                format!("{name}{{container=\"{container}\",namespace=\"{namespace}\",pod=\"web\",image=\"{value}{namespace}\"}} 1\n")
            }).collect();
            let out = filtered(&page.concat(), piece);
            let own = lines.iter().filter(|(number, _, container, _)| *number == 1 && container != "x").count();
            prop_assert_eq!(out.lines().count(), own);
            prop_assert!(!out.contains(&namespace(1)));
            for number in [0, 2, 3] {
                prop_assert!(!out.contains(&namespace(number)));
            }
        }

        #[test]
        fn bytes_of_any_kind_are_survived(page: Vec<u8>, piece in 1usize..20) {
            let mut filter = Filter::new(view());
            let mut out = Passed::default();
            for piece in page.chunks(piece) {
                filter.push(piece, &mut out);
            }
            prop_assert!(out.is_empty());
        }
    }
}
