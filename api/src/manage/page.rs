//! Pages of a list: `{"data","iterator","prev_iterator","done"}`.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

use crate::error::{Entry, Refusal};

/// Entries on a page, if the caller does not say.
pub(super) const LIMIT_DEFAULT: usize = 50;
/// Most entries on a page.
pub(super) const LIMIT_MAX: usize = 250;

/// An entry's place in its list: the time it was made, then its id.
pub(super) type Place<'a> = (i64, &'a str);

/// Where a page begins: behind an entry or before one, which may be gone by then.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Behind((i64, String)),
    Before((i64, String)),
}

/// Part of a sorted list.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) rows: Range<usize>,
    iterator: Option<String>,
    prev_iterator: Option<String>,
    done: bool,
}

/// A page as it is sent.
#[derive(Serialize)]
pub(super) struct Listing<T> {
    data: Vec<T>,
    iterator: Option<String>,
    prev_iterator: Option<String>,
    done: bool,
}

impl Page {
    /// The part of `places`, which are sorted, that a step leads to.
    pub(super) fn of(places: &[Place<'_>], step: Option<&Step>, limit: usize) -> Page {
        let rows = rows(places, step, limit);
        let owned = |place: &Place<'_>| (place.0, place.1.to_owned());
        Page {
            iterator: places[rows.clone()].last().map(|place| Step::Behind(owned(place)).encode()),
            prev_iterator: (rows.start > 0)
                .then(|| Step::Before(owned(&places[rows.start.min(places.len() - 1)])).encode()),
            done: rows.end == places.len(),
            rows,
        }
    }

    pub(super) fn listing<T>(self, data: Vec<T>) -> Listing<T> {
        let Page { iterator, prev_iterator, done, .. } = self;
        Listing { data, iterator, prev_iterator, done }
    }
}

fn rows(places: &[Place<'_>], step: Option<&Step>, limit: usize) -> Range<usize> {
    match step {
        None => 0..limit.min(places.len()),
        Some(Step::Behind((at, id))) => {
            let start = places.partition_point(|place| *place <= (*at, id.as_str()));
            start..(start + limit).min(places.len())
        }
        Some(Step::Before((at, id))) => {
            let end = places.partition_point(|place| *place < (*at, id.as_str()));
            end.saturating_sub(limit)..end
        }
    }
}

impl Step {
    fn encode(&self) -> String {
        let (sign, (at, id)) = match self {
            Step::Behind(place) => ('+', place),
            Step::Before(place) => ('-', place),
        };
        URL_SAFE_NO_PAD.encode(format!("{sign}{at} {id}"))
    }

    pub(super) fn decode(text: &str) -> Result<Step, Refusal> {
        Step::parse(text).ok_or_else(|| {
            let message = "is no iterator of this list; take it as it came";
            Refusal::invalid(Entry::query("iterator", "malformed", message))
        })
    }

    fn parse(text: &str) -> Option<Step> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let (at, id) = text.get(1..)?.split_once(' ')?;
        let place = (at.parse().ok()?, id.to_owned());
        match text.as_bytes().first()? {
            b'+' => Some(Step::Behind(place)),
            b'-' => Some(Step::Before(place)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_go_forth_and_back_also_over_deleted_entries() {
        let ids: Vec<String> = (0..7).map(|number| format!("key_{number}")).collect();
        let mut places: Vec<Place<'_>> = (0..).zip(&ids).map(|(at, id)| (at / 2, id.as_str())).collect();
        let owned = |place: Place<'_>| (place.0, place.1.to_owned());
        assert_eq!(rows(&places, None, 3), 0..3);
        let behind = Step::Behind(owned(places[2]));
        assert_eq!(rows(&places, Some(&behind), 3), 3..6);
        let before = Step::Before(owned(places[3]));
        assert_eq!(rows(&places, Some(&before), 2), 1..3);
        places.remove(2);
        assert_eq!(rows(&places, Some(&behind), 3), 2..5);
        assert_eq!(rows(&places, Some(&Step::Behind(owned(places[5]))), 3), 6..6);
        for step in [behind, before] {
            assert_eq!(Step::parse(&step.encode()), Some(step));
        }
        assert!(["", "x", "AAAA"].iter().all(|text| Step::parse(text).is_none()));
    }

    #[test]
    fn a_page_behind_the_end_is_empty_and_leads_back() {
        let places: [Place<'_>; 1] = [(1, "a")];
        let page = Page::of(&places, Some(&Step::Behind((9, "z".to_owned()))), 5);
        assert_eq!((page.rows, page.done, page.iterator), (1..1, true, None));
        assert!(Page::of(&[], None, 5).prev_iterator.is_none());
    }
}
