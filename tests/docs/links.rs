//! Links lead somewhere: to a file of the repository, and to a heading of that page.
//!
//! The built book has the pages of docs/ and nothing else, so that a page there links to no file outside.

use std::path::Path;

use crate::{
    markdown::Page,
    repository::{Repository, normal},
};

/// Every link that leads nowhere.
pub(crate) fn problems(repository: &Repository) -> Vec<String> {
    let mut problems = Vec::new();
    for page in &repository.pages {
        for link in &page.links {
            if let Err(what) = follow(repository, page, &link.text) {
                problems.push(format!(
                    "{}:{}: link to {}: {what}",
                    page.path.display(),
                    link.line,
                    link.text
                ));
            }
        }
    }
    problems
}

fn follow(repository: &Repository, page: &Page, target: &str) -> Result<(), &'static str> {
    if has_scheme(target) {
        return Ok(());
    }
    let (path, anchor) = match target.split_once('#') {
        Some((path, anchor)) => (path, Some(anchor)),
        None => (target, None),
    };
    let folder = page.path.parent().unwrap_or(Path::new(""));
    let path = match path {
        "" => page.path.clone(),
        path => normal(&folder.join(path)).ok_or("leaves the repository")?,
    };
    // A folder is shown as the list of its files.
    let is_folder = || repository.files.iter().any(|file| file.starts_with(&path));
    if !repository.files.contains(&path) && !is_folder() {
        return Err("there is no such file");
    }
    if page.path.starts_with("docs") && !path.starts_with("docs") {
        return Err("the built book does not have this file: name it in backticks instead");
    }
    let Some(anchor) = anchor else { return Ok(()) };
    let there = repository.pages.iter().find(|page| page.path == path).ok_or("only pages have anchors")?;
    if there.anchors.iter().any(|known| known == anchor) {
        Ok(())
    } else {
        Err("that page has no such heading")
    }
}

fn has_scheme(target: &str) -> bool {
    target.split_once(':').is_some_and(|(scheme, _)| {
        !scheme.is_empty()
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_leads_nowhere_is_noticed() {
        let page = |path, text| Page::parse(path, text);
        let pages = vec![
            page(
                "README.md",
                "[book](docs/a.md#here) [file](Makefile) [folder](docs) [web](https://example.org/#x)",
            ),
            page("docs/a.md", "# Here\n[up](../README.md) [self](#here) [b](b/c.md)"),
            page("docs/b/c.md", "[back](../a.md#there) [gone](../gone.md) [out](../../../x) [no](../a.md#)"),
        ];
        let files = pages.iter().map(|page| page.path.clone()).chain(["Makefile".into()]).collect();
        let problems = problems(&Repository { files, pages });
        let expected = [
            "docs/a.md:2: link to ../README.md: the built book does not have this file: name it in backticks instead",
            "docs/b/c.md:1: link to ../a.md#there: that page has no such heading",
            "docs/b/c.md:1: link to ../gone.md: there is no such file",
            "docs/b/c.md:1: link to ../../../x: leaves the repository",
            "docs/b/c.md:1: link to ../a.md#: that page has no such heading",
        ];
        assert_eq!(problems, expected);
    }
}
