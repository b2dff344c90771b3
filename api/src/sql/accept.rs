//! Which of three types an answer has.

use hyper::HeaderMap;
use hyper::header::ACCEPT;
use systole_engine::SqlFormat;

use crate::error::Refusal;

pub(super) const JSON: &str = "application/json";
pub(super) const ARROW: &str = "application/vnd.apache.arrow.stream";
const OFFERED: &str = "application/json, text/csv and application/vnd.apache.arrow.stream";

/// The type the caller likes best; of equals the first it names. JSON without a wish.
pub(super) fn format(headers: &HeaderMap) -> Result<SqlFormat, Refusal> {
    let texts: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|wish| wish.to_str().ok()).collect();
    let mut best: Option<(f32, SqlFormat)> = None;
    for wish in texts.iter().flat_map(|text| text.split(',')) {
        let mut parts = wish.split(';').map(str::trim);
        let Some(format) = parts.next().and_then(named) else { continue };
        let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(1.0, |q| q.parse().unwrap_or(0.0));
        if weight > best.map_or(0.0, |(weight, _)| weight) {
            best = Some((weight, format));
        }
    }
    match best {
        Some((_, format)) => Ok(format),
        None if texts.iter().all(|text| text.trim().is_empty()) => Ok(SqlFormat::Json),
        None => Err(Refusal::Accept { found: texts.join(", "), offered: OFFERED.to_owned() }),
    }
}

fn named(essence: &str) -> Option<SqlFormat> {
    match essence.to_ascii_lowercase().as_str() {
        "*/*" | "application/*" | JSON => Some(SqlFormat::Json),
        "text/*" | "text/csv" => Some(SqlFormat::Csv),
        ARROW => Some(SqlFormat::Arrow),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn the_best_of_what_is_accepted_is_sent() {
        let cases = [
            (None, Some(SqlFormat::Json)),
            (Some("*/*"), Some(SqlFormat::Json)),
            (Some("text/csv"), Some(SqlFormat::Csv)),
            (Some("text/csv; header=present"), Some(SqlFormat::Csv)),
            (Some(ARROW), Some(SqlFormat::Arrow)),
            (Some("text/html, application/json;q=0.5, text/csv;q=0.9"), Some(SqlFormat::Csv)),
            (Some("application/json, text/csv"), Some(SqlFormat::Json)),
            (Some("text/html"), None),
            (Some("application/json;q=0"), None),
        ];
        for (wish, expected) in cases {
            let mut headers = HeaderMap::new();
            if let Some(wish) = wish {
                headers.insert(ACCEPT, HeaderValue::from_static(wish));
            }
            assert_eq!(format(&headers).ok(), expected, "{wish:?}");
        }
    }
}
