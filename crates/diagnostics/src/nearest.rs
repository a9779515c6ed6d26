//! "Did you mean": the nearest of a few names to one that somebody misspelt.

/// Below this similarity a suggestion confuses more than it helps.
const SIMILARITY_MIN: f64 = 0.55;

/// The candidate that `word` most likely was meant to be, if any is near.
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
