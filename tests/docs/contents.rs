//! The table of contents: docs/SUMMARY.md names every page of the book once, and no page that is missing.

use std::path::{Path, PathBuf};

use crate::repository::{Repository, normal};

const SUMMARY: &str = "docs/SUMMARY.md";

/// Pages that the table of contents lacks, or names twice. One that is missing is a link that leads nowhere.
pub(crate) fn problems(repository: &Repository) -> Vec<String> {
    let summary = repository.pages.iter().find(|page| page.path == Path::new(SUMMARY));
    let Some(summary) = summary else { return vec![format!("{SUMMARY} is missing")] };
    let folder = Path::new("docs");
    let listed: Vec<PathBuf> =
        summary.links.iter().filter_map(|link| normal(&folder.join(&link.text))).collect();
    let pages = repository.book().filter(|page| page.path != Path::new(SUMMARY));
    let problem = |page: &Path| match listed.iter().filter(|path| *path == page).count() {
        1 => None,
        0 => Some(format!("{SUMMARY} does not name {}", page.display())),
        _ => Some(format!("{SUMMARY} names {} twice", page.display())),
    };
    pages.filter_map(|page| problem(&page.path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::markdown::Page;

    #[test]
    fn a_page_that_is_left_out_or_named_twice_is_noticed() {
        let pages = vec![
            Page::parse(SUMMARY, "- [a](a.md)\n- [b](b/c.md)\n- [again](a.md)"),
            Page::parse("docs/a.md", ""),
            Page::parse("docs/b/c.md", ""),
            Page::parse("docs/b/d.md", ""),
        ];
        let files = pages.iter().map(|page| page.path.clone()).collect();
        let expected = ["docs/SUMMARY.md names docs/a.md twice", "docs/SUMMARY.md does not name docs/b/d.md"];
        assert_eq!(problems(&Repository { files, pages }), expected);
    }
}
