//! "Did you mean": the name nearest to a misspelt one.

/// Least similarity of a suggestion. A less similar one confuses more than it helps.
const SIMILARITY_MIN: f64 = 0.55;

/// Returns the candidate nearest to `word`, if one is similar enough.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| {
            (strsim::normalized_damerau_levenshtein(&word, &candidate.to_lowercase()), candidate)
        })
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn suggests_what_was_probably_meant_and_nothing_far_fetched() {
        let names = ["aggregatetype", "aggregateid", "type", "payload"];
        assert_eq!(nearest("aggregate_type", names), Some("aggregatetype"));
        assert_eq!(nearest("Payload", names), Some("payload"));
        assert_eq!(nearest("tpye", names), Some("type"));
        assert_eq!(nearest("tenant", names), None);
        assert_eq!(nearest("", []), None);
    }
}
