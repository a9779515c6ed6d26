//! `config/outboxd.toml` documents what the code does.

use configuration::documentation;

#[test]
fn the_file_documents_every_key_with_its_default_and_no_other() {
    let known = documentation::check(include_str!("../../config/outboxd.toml"), super::settings);
    assert!(known > 50, "only {known} keys");
}
