//! The known name that was meant by another one, for fields and settings.

/// Longer names are like none: the longest known one has 31 bytes.
const NAME_BYTES_MAX: usize = 64;
/// From 0 to 1; below it another word was meant.
const LIKENESS_MIN: f64 = 0.6;

/// The known name that is most like another; letter case and separators do not count.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // The cost grows with the length of what was sent.
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let name = folded(name);
    let likeness = |known: &str| strsim::normalized_damerau_levenshtein(&name, &folded(known));
    let rated = known.into_iter().map(|known| (likeness(known), known));
    let best = rated.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > LIKENESS_MIN).then_some(best.1)
}

/// A name without letter case and separators.
pub(crate) fn folded(name: &str) -> String {
    name.replace(['_', '-'], "").to_ascii_lowercase()
}

/// What follows the name of what is not known.
pub(crate) fn hint(near: Option<&str>) -> String {
    near.map_or_else(String::new, |near| format!("; did you mean {near}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_like_a_known_one_is_told_which() {
        let known =
            ["url", "filter_types", "timeout_seconds", "rate_limit_per_second", "storage.flush_bytes"];
        let cases = [
            ("timeoutSeconds", Some("timeout_seconds")),
            ("URL", Some("url")),
            ("ulr", Some("url")),
            ("filter_type", Some("filter_types")),
            ("storage.flush_byte", Some("storage.flush_bytes")),
            ("rate-limit", None),
            ("colour", None),
            ("", None),
        ];
        for (name, expected) in cases {
            assert_eq!(nearest(name, known), expected, "{name}");
        }
        assert_eq!(nearest(&"x".repeat(65), ["x"]), None);
    }
}
