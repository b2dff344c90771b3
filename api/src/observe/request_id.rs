//! The id that ties an answer to its log line.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::HeaderValue;

const CHARS_MAX: usize = 64;

/// Makes ids: the process's random number and a counter.
pub(crate) struct RequestIds {
    process: u32,
    next: AtomicU64,
}

impl RequestIds {
    pub(crate) fn new() -> RequestIds {
        let mut random = [0; 4];
        // Without random numbers ids of two processes may meet, nothing else.
        let _ = getrandom::fill(&mut random);
        RequestIds { process: u32::from_le_bytes(random), next: AtomicU64::new(1) }
    }

    /// The id the client sent, if it is a sane one, else a new one.
    pub(crate) fn of(&self, headers: &HeaderMap) -> HeaderValue {
        match headers.get("x-request-id") {
            Some(id) if is_sane(id.as_bytes()) => id.clone(),
            _ => self.make(),
        }
    }

    fn make(&self) -> HeaderValue {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let text = format!("{:08x}-{number:08x}", self.process);
        HeaderValue::from_maybe_shared(Bytes::from(text)).expect("hex digits and a dash are a header value")
    }
}

fn is_sane(id: &[u8]) -> bool {
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"._-".contains(b);
    !id.is_empty() && id.len() <= CHARS_MAX && id.iter().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_id_is_kept_and_another_replaced() {
        let ids = RequestIds::new();
        let of = |id: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-request-id", HeaderValue::from_str(id).unwrap());
            ids.of(&headers)
        };
        assert_eq!(of("abc.DEF_1-2"), "abc.DEF_1-2");
        for bad in ["", "a b", "a\"b", &"x".repeat(65)] {
            let made = of(bad);
            assert_ne!(made, bad);
            assert!(is_sane(made.as_bytes()));
        }
        assert_ne!(ids.of(&HeaderMap::new()), ids.of(&HeaderMap::new()));
    }
}
