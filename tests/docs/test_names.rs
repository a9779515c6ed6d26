//! Names of the tests in a source.

use std::collections::BTreeSet;

use proc_macro2::TokenTree;
use syn::{Attribute, ItemFn, Macro, visit::Visit};

/// Returns the names of the tests in a source.
pub(crate) fn test_names(source: &str) -> BTreeSet<String> {
    #[derive(Default)]
    struct Tests(BTreeSet<String>);
    impl<'ast> Visit<'ast> for Tests {
        fn visit_item_fn(&mut self, function: &'ast ItemFn) {
            if function.attrs.iter().any(marks_test) {
                self.0.insert(function.sig.ident.to_string());
            }
        }
        // proptest! { #[test] fn name(...) {...} }
        fn visit_macro(&mut self, mac: &'ast Macro) {
            let mut after_fn = false;
            for token in mac.tokens.clone() {
                if after_fn && let TokenTree::Ident(name) = &token {
                    self.0.insert(name.to_string());
                }
                after_fn = matches!(&token, TokenTree::Ident(word) if word == "fn");
            }
        }
    }
    let mut tests = Tests::default();
    if let Ok(file) = syn::parse_file(source) {
        tests.visit_file(&file);
    }
    tests.0
}

/// Tells whether an attribute makes its function a test, such as `#[test]` or `#[tokio::test]`.
pub(crate) fn marks_test(attribute: &Attribute) -> bool {
    attribute.path().segments.last().is_some_and(|last| last.ident == "test")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_found_by_name() {
        let source =
            "#[test] fn one_thing() {} fn no_test() {} mod m { #[tokio::test] async fn another() {} }";
        assert_eq!(test_names(source), ["another", "one_thing"].map(str::to_owned).into());
    }
}
