//! What someone may have meant by a name that is in no table.

use super::MetricId;

/// How many are proposed.
const NEAREST_MAX: usize = 3;
/// Longer names are not compared: the longest of the table has 56 bytes, and
/// the cost of a comparison grows with the length of what was sent.
const NAME_BYTES_MAX: usize = 64;
/// More letters wrong make another word, however long the name is.
const EDITS_MAX: usize = 4;
/// Shorter names stand inside too many others to say anything.
const CONTAINED_CHARS_MIN: usize = 4;
/// Prefixes that HealthKit puts before every name; they would make all its
/// names look alike.
const PREFIXES: [&str; 2] = ["hkquantitytypeidentifier", "hkcategorytypeidentifier"];

/// `name` without what people spell differently: letter case, separators and
/// HealthKit's prefixes.
pub(super) fn fold(name: &str) -> String {
    let letters = name.chars().filter(|letter| !matches!(letter, '_' | '-' | ' ' | '.'));
    let folded: String = letters.map(|letter| letter.to_ascii_lowercase()).collect();
    let short =
        PREFIXES.iter().find_map(|prefix| folded.strip_prefix(prefix)).filter(|rest| !rest.is_empty());
    short.map_or_else(|| folded.clone(), str::to_owned)
}

/// The metrics with the names closest to `name`, the closest first.
pub(super) fn nearest<'a>(
    name: &str,
    folded: impl Iterator<Item = &'a (Box<str>, MetricId)>,
) -> Vec<MetricId> {
    if name.len() > NAME_BYTES_MAX {
        return Vec::new();
    }
    let name = fold(name);
    let mut close: Vec<(Rank, MetricId)> =
        folded.filter_map(|(other, id)| Some((rank(&name, other)?, *id))).collect();
    close.sort_unstable();
    let mut ids: Vec<MetricId> = Vec::with_capacity(NEAREST_MAX);
    for (_, id) in close {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids.truncate(NEAREST_MAX);
    ids
}

/// Misspellings come before parts of names; fewer differences come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Misspelt { edits: usize },
    Contained { chars_left: usize },
}

fn rank(name: &str, other: &str) -> Option<Rank> {
    let (chars, other_chars) = (name.chars().count(), other.chars().count());
    let apart = chars.abs_diff(other_chars);
    // A third of the letters wrong is still the same word to a reader.
    let edits_max = (chars / 3).clamp(1, EDITS_MAX);
    if apart <= edits_max {
        let edits = strsim::osa_distance(name, other);
        if edits <= edits_max && edits < chars {
            return Some(Rank::Misspelt { edits });
        }
    }
    let long_enough = chars.min(other_chars) >= CONTAINED_CHARS_MIN;
    let contained = long_enough && (other.contains(name) || name.contains(other));
    contained.then_some(Rank::Contained { chars_left: apart })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_leaves_the_letters_that_carry_meaning() {
        for (name, expected) in [
            ("heart_rate", "heartrate"),
            ("Heart-Rate", "heartrate"),
            ("HKQuantityTypeIdentifierHeartRate", "heartrate"),
            ("HKCategoryTypeIdentifierAppleStandHour", "applestandhour"),
            ("HKQuantityTypeIdentifier", "hkquantitytypeidentifier"),
        ] {
            assert_eq!(fold(name), expected);
        }
    }

    #[test]
    fn a_misspelt_name_ranks_before_a_part_of_a_name() {
        assert_eq!(rank("hartrate", "heartrate"), Some(Rank::Misspelt { edits: 1 }));
        assert_eq!(rank("glucose", "bloodglucose"), Some(Rank::Contained { chars_left: 5 }));
        assert_eq!(rank("dailysteps", "steps"), Some(Rank::Contained { chars_left: 5 }));
        assert_eq!(rank("hr", "hrv"), Some(Rank::Misspelt { edits: 1 }));
        assert_eq!(rank("x", "y"), None);
        assert_eq!(rank("rate", "mood"), None);
        assert!(Rank::Misspelt { edits: 3 } < Rank::Contained { chars_left: 0 });
    }
}
