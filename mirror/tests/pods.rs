//! What comes of Pods: a fixture each, a snapshot each.

use mirror::kinds::pod::Pod;

#[path = "support/fixture.rs"]
mod fixture;

#[test]
fn pods() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("kinds/pods/snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        insta::glob!("kinds/pods/*.yaml", |path| {
            let text = std::fs::read_to_string(path).unwrap();
            insta::assert_yaml_snapshot!(fixture::outcome(&Pod, &text));
        });
    });
}
