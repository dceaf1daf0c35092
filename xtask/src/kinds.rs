//! `docs/kinds.md`, from the table of kinds: direction, what is rewritten, refused and left out, what comes back.

use std::fmt::Write as _;

use common::keys;
use mirror::kind::{Demand, Downward, Hearsay, Kind, Upward};
use mirror::shape::{Table, Verdict};

/// What stands above the kinds.
const PREFACE: &str = "# Kinds

Written by `cargo xtask manifests` from the table of kinds (`mirror/src/kinds/mod.rs`); changes made here by hand are lost.

A tenant's object of a kind that goes **down** is carried to the super cluster field by field. What is *carried* arrives as it is; what is *rewritten* becomes what is said beside it; what is
*left out* is dropped without a word; what is *refused* holds the whole object back, and an Event on the tenant's object names the field and what to do. A field that stands nowhere here is refused,
unless the administrator lets unknown ones pass. A value that asks for nothing (`false`, `0`, an empty text or list) is never refused. Labels and selectors, annotations, names and owners of every
kind go through one function each: see ARCHITECTURE.md. A kind that is not here stays in the tenant, unless it is one of custom resources that a SyncedResource names.
";

/// What is said of a kind that need not be served.
const OPTIONAL: &str = "An API server may lack the kind: it is older, or has it switched off. Then everything else goes on, what is known of the kind stays as it is, and it is taken up once it is served.";

/// The page for these kinds.
pub(crate) fn page(kinds: &[Kind]) -> String {
    let mut out = PREFACE.to_owned();
    out.push_str("\n| kind | direction | which | what comes back |\n| --- | --- | --- | --- |\n");
    for kind in kinds {
        let name = kind.resource().kind;
        let (direction, which, back) = match kind {
            Kind::Down(kind) => ("down", which(*kind), kind.returns()),
            Kind::Up(kind) => ("up", kind.shows().to_owned(), ""),
        };
        line(&mut out, format_args!("| [{name}](#{}) | {direction} | {which} | {back} |", name.to_lowercase()));
    }
    for kind in kinds {
        match kind {
            Kind::Down(kind) => down(&mut out, *kind),
            Kind::Up(kind) => up(&mut out, *kind),
        }
        if kind.is_optional() {
            line(&mut out, format_args!("\n{OPTIONAL}"));
        }
    }
    out
}

fn down(out: &mut String, kind: &dyn Downward) {
    let resource = kind.resource();
    let bounds: Vec<_> = kind.bounds().iter().map(|bound| format!(" At most {} {} of a tenant.", bound.most, bound.what)).collect();
    let bounds = bounds.concat();
    let heard = if resource.namespaced { heard(kind) } else { "" };
    line(
        out,
        format_args!("\n## {}\n\n`{}`, down: {} Back: {}{heard}{bounds}", resource.kind, resource.api_version, which(kind), kind.returns()),
    );
    let mut fields = Fields::default();
    kind.fields().iter().for_each(|(at, table)| fields.add(at, table));
    fields.write(out, "");
    let mut fields = Fields::default();
    kind.returned().iter().for_each(|(at, table)| fields.add(at, table));
    fields.write(out, " on the way up");
}

fn up(out: &mut String, kind: &dyn Upward) {
    let resource = kind.resource();
    line(out, format_args!("\n## {}\n\n`{}`, up: {}", resource.kind, resource.api_version, kind.shows()));
    if kind.is_published() {
        line(
            out,
            format_args!(
                "\nPublished are those to which the administrator of the super cluster gives the label `{}: \"true\"`.",
                keys::PUBLIC
            ),
        );
    }
}

/// When a tenant's object of this kind goes down.
fn which(kind: &dyn Downward) -> String {
    if let Some(selector) = kind.tenant_selector() {
        return format!("Those with `{selector}`.");
    }
    match kind.demand() {
        Demand::Always => "All.",
        Demand::Referenced => "Those that a Pod or an Ingress in the super cluster refers to; with `--sync-unreferenced` all.",
        Demand::Contents => "Those that hold anything that goes down.",
    }
    .to_owned()
}

/// What comes back of Events.
fn heard(kind: &dyn Downward) -> &'static str {
    match kind.hearsay() {
        Hearsay::Message => " Events about it come back, with their messages.",
        Hearsay::Reason => " Events about it come back, without their messages.",
    }
}

/// The fields of one kind, by what happens to them.
#[derive(Default)]
struct Fields {
    carried: Vec<String>,
    rewritten: Vec<(String, &'static str)>,
    left_out: Vec<(String, &'static str)>,
    refused: Vec<(String, &'static str)>,
    alike: Vec<(String, String)>,
    /// Where each table of some size was met first.
    seen: Vec<(&'static Table, String)>,
}

/// Tables of fewer fields are written out wherever they stand.
const SMALL: usize = 4;

impl Fields {
    fn add(&mut self, at: &str, table: &'static Table) {
        if let Some((_, first)) = self.seen.iter().find(|(seen, _)| std::ptr::eq(*seen, table)) {
            self.alike.push((at.to_owned(), first.clone()));
            return;
        }
        if table.len() >= SMALL && !at.is_empty() {
            self.seen.push((table, at.to_owned()));
        }
        for (name, verdict) in table {
            let at = if at.is_empty() { (*name).to_owned() } else { format!("{at}.{name}") };
            match verdict {
                Verdict::Copy => self.carried.push(at),
                Verdict::Rewrite(to) => self.rewritten.push((at, to)),
                Verdict::Force(why) => self.left_out.push((at, why)),
                Verdict::Refuse(instead) => self.refused.push((at, instead)),
                Verdict::Object(table) => self.add(&at, table),
                Verdict::List(table) => self.add(&format!("{at}[]"), table),
            }
        }
    }

    fn write(&self, out: &mut String, way: &str) {
        for (what, fields) in [("Rewritten", &self.rewritten), ("Left out", &self.left_out), ("Refused", &self.refused)] {
            if fields.is_empty() {
                continue;
            }
            line(out, format_args!("\n{what}{way}:\n\n| field | |\n| --- | --- |"));
            for (at, text) in fields {
                line(out, format_args!("| `{at}` | {text} |"));
            }
        }
        if !self.carried.is_empty() {
            let all: Vec<_> = self.carried.iter().map(|at| format!("`{at}`")).collect();
            line(out, format_args!("\nCarried{way}: {}.", all.join(", ")));
        }
        if !self.alike.is_empty() {
            let all: Vec<_> = self.alike.iter().map(|(at, first)| format!("`{at}` as `{first}`")).collect();
            line(out, format_args!("\nThe fields of {}.", all.join(", of ")));
        }
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_that_goes_down_says_what_becomes_of_its_fields() {
        for kind in mirror::KINDS {
            if let Kind::Down(kind) = kind {
                // Of a Namespace nothing goes down but that it is there.
                assert_eq!(kind.fields().is_empty(), kind.resource().kind == "Namespace", "{}", kind.resource().kind);
            }
        }
    }

    #[test]
    fn each_field_stands_in_one_list_and_a_table_is_written_once() {
        const INNER: &Table = &[("a", Verdict::Copy), ("b", Verdict::Copy), ("c", Verdict::Refuse("do without")), ("d", Verdict::Copy)];
        const OUTER: &Table = &[
            ("first", Verdict::List(INNER)),
            ("second", Verdict::Object(INNER)),
            ("third", Verdict::Rewrite("ours")),
            ("x", Verdict::Force("no")),
        ];
        let mut fields = Fields::default();
        fields.add("spec", OUTER);
        let mut out = String::new();
        fields.write(&mut out, "");
        let expected = "\nRewritten:\n\n| field | |\n| --- | --- |\n| `spec.third` | ours |\n\nLeft out:\n\n| field | |\n| --- | --- |\n| `spec.x` | no |\n\n\
             Refused:\n\n| field | |\n| --- | --- |\n| `spec.first[].c` | do without |\n\nCarried: `spec.first[].a`, `spec.first[].b`, `spec.first[].d`.\n\n\
             The fields of `spec.second` as `spec.first[]`.\n";
        assert_eq!(out, expected);
    }
}
