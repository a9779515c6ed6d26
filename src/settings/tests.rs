//! `config/outboxd.toml` documents what the code does.

use configuration::documentation;

#[test]
fn the_file_documents_every_key_with_its_default_and_no_other() {
    let documentation = documentation::read(include_str!("../../config/outboxd.toml"), super::from_root);
    let known = documentation.keys().count();
    assert!(known > 50, "only {known} keys");
}
