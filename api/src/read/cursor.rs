//! The cursor: where the next page begins.
//!
//! URL-safe base64 of: version, first eight bytes of a hash over the question,
//! the window's start and end, and the place of the last that was printed: a
//! sample's time, source and device (version 1), a bucket's key and source
//! (version 2). The window is carried because `days` counts back from now, and now moves on from
//! page to page. A cursor of another question, of another caller's too, is refused.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use systole_engine::{BucketPosition, Order, Position, SeriesQuery};

use super::buckets::Buckets;
use super::window::{Asked, Window};

const OF_SAMPLES: u8 = 1;
const OF_BUCKETS: u8 = 2;
const FINGERPRINT_BYTES: usize = 8;
/// Longest cursor that is looked at: a source, a device and change.
const TEXT_BYTES_MAX: usize = 2048;

/// A page's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) fingerprint: [u8; FINGERPRINT_BYTES],
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) after: Place,
}

/// Where a page ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Sample(Position),
    Bucket(BucketPosition),
}

/// What is the same on all pages of one question.
pub(super) fn fingerprint(
    query: &SeriesQuery,
    window: &Window,
    buckets: Option<&Buckets>,
) -> [u8; FINGERPRINT_BYTES] {
    let mut hash = Sha256::new();
    for text in [&query.org, &query.user, &query.metric, query.source.as_ref().unwrap_or(&String::new())] {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    }
    let descending = matches!(query.order, Order::Descending);
    hash.update([u8::from(query.source.is_some()), u8::from(descending)]);
    match window.asked {
        Asked::Days(days) => hash.update(days.to_le_bytes()),
        Asked::Span { start, end } => {
            for time in [start, end] {
                hash.update([u8::from(time.is_some())]);
                hash.update(time.unwrap_or_default().to_le_bytes());
            }
        }
    }
    if let Some(Buckets { bucketing, zone, .. }) = buckets {
        // The same buckets, however they were written.
        hash.update(format!("{:?} {:?}", bucketing.resolution, bucketing.aggregation));
        hash.update([u8::from(bucketing.combine)]);
        hash.update(zone);
    }
    hash.finalize()[..FINGERPRINT_BYTES].try_into().expect("a hash is longer than its beginning")
}

impl Cursor {
    pub(super) fn encode(&self) -> String {
        let (version, time, texts) = match &self.after {
            Place::Sample(after) => {
                (OF_SAMPLES, after.recorded_at, [Some(after.source.as_str()), after.device.as_deref()])
            }
            Place::Bucket(after) => (OF_BUCKETS, after.key, [after.source.as_deref(), None]),
        };
        let mut bytes = vec![version];
        bytes.extend_from_slice(&self.fingerprint);
        for time in [self.start, self.end, time] {
            bytes.extend_from_slice(&time.to_le_bytes());
        }
        for text in texts {
            put_text(&mut bytes, text);
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The cursor of a text, `None` if it is none of this version.
    pub(super) fn decode(text: &str) -> Option<Cursor> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let mut reader = Reader(&bytes);
        let version = reader.take(1)?[0];
        let fingerprint = reader.take(FINGERPRINT_BYTES)?.try_into().ok()?;
        let (start, end, time) = (reader.time()?, reader.time()?, reader.time()?);
        let texts = (reader.text()?, reader.text()?);
        let after = match (version, texts) {
            (OF_SAMPLES, (Some(source), device)) => {
                Place::Sample(Position { recorded_at: time, source, device })
            }
            (OF_BUCKETS, (source, None)) => Place::Bucket(BucketPosition { key: time, source }),
            _ => return None,
        };
        let cursor = Cursor { fingerprint, start, end, after };
        reader.0.is_empty().then_some(cursor)
    }
}

/// A text as length + 1 and bytes; no text is 0.
fn put_text(bytes: &mut Vec<u8>, text: Option<&str>) {
    let length = text.map_or(0, |text| text.len() + 1);
    bytes.extend_from_slice(&u16::try_from(length).unwrap_or_default().to_le_bytes());
    bytes.extend_from_slice(text.unwrap_or_default().as_bytes());
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(head)
    }

    fn time(&mut self) -> Option<i64> {
        Some(i64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    /// The outer `None` is a broken cursor, the inner one no text.
    fn text(&mut self) -> Option<Option<String>> {
        let length = usize::from(u16::from_le_bytes(self.take(2)?.try_into().ok()?));
        let Some(length) = length.checked_sub(1) else { return Some(None) };
        let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        Some(Some(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(device: Option<&str>) -> Cursor {
        let after =
            Position { recorded_at: -7, source: "gärmin".to_owned(), device: device.map(str::to_owned) };
        Cursor { fingerprint: [3; 8], start: -1, end: i64::MAX, after: Place::Sample(after) }
    }

    #[test]
    fn a_cursor_of_buckets_reads_back() {
        for source in [None, Some("garmin".to_owned())] {
            let after = Place::Bucket(BucketPosition { key: i64::MIN, source });
            let cursor = Cursor { fingerprint: [3; 8], start: -1, end: 1, after };
            assert_eq!(Cursor::decode(&cursor.encode()), Some(cursor));
        }
    }

    #[test]
    fn a_cursor_reads_back_and_is_safe_in_a_url() {
        for device in [None, Some(""), Some("d/1")] {
            let text = cursor(device).encode();
            assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{text}");
            assert_eq!(Cursor::decode(&text), Some(cursor(device)));
        }
    }

    #[test]
    fn garbage_is_no_cursor() {
        let good = cursor(Some("d")).encode();
        assert!(Cursor::decode(&good[..good.len() - 2]).is_none());
        assert!(Cursor::decode(&format!("{good}AAAA")).is_none());
        for text in ["", "x", "!!!!", "AAAA", &"A".repeat(5000)] {
            assert!(Cursor::decode(text).is_none(), "{text}");
        }
    }
}
