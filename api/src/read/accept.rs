//! What an answer is written as, by `Accept`.

use hyper::header::{ACCEPT, HeaderValue};

use crate::error::Refusal;
use crate::route::Call;

/// A way to write an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Csv,
    Arrow,
}

impl Format {
    /// In the order in which a caller gets them who does not care.
    pub(crate) const ALL: [Format; 3] = [Format::Json, Format::Csv, Format::Arrow];

    pub(crate) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Format::Json => "application/json",
            Format::Csv => "text/csv; charset=utf-8; header=present",
            Format::Arrow => "application/vnd.apache.arrow.stream",
        })
    }

    /// The format of `offered` that the caller takes most gladly.
    pub(crate) fn wanted(call: &Call<'_>, offered: &'static [Format]) -> Result<Format, Refusal> {
        let mut wishes = call.head.headers.get_all(ACCEPT).iter().peekable();
        if wishes.peek().is_none() {
            return Ok(offered[0]);
        }
        let texts: Vec<&str> = wishes.filter_map(|wish| wish.to_str().ok()).collect();
        let accept = texts.join(", ");
        choose(&accept, offered).ok_or(Refusal::Accept { found: accept, offered: names(offered) })
    }

    /// Type and subtype.
    fn essence(self) -> (&'static str, &'static str) {
        match self {
            Format::Json => ("application", "json"),
            Format::Csv => ("text", "csv"),
            Format::Arrow => ("application", "vnd.apache.arrow.stream"),
        }
    }
}

fn names(offered: &[Format]) -> String {
    let names = offered.iter().map(|format| {
        let (kind, subtype) = format.essence();
        format!("{kind}/{subtype}")
    });
    names.collect::<Vec<_>>().join(", ")
}

/// How gladly a format is taken: the weight of the most exact wish that names it,
/// and how exact that is.
type Weight = (u32, u8);

fn choose(accept: &str, offered: &[Format]) -> Option<Format> {
    if accept.trim().is_empty() {
        return offered.first().copied();
    }
    let weighed = offered.iter().map(|format| (weight(accept, *format), *format));
    let mut best: Option<(Weight, Format)> = None;
    for (weight, format) in weighed.filter(|((weight, _), _)| *weight > 0) {
        if best.is_none_or(|(most, _)| weight > most) {
            best = Some((weight, format));
        }
    }
    best.map(|(_, format)| format)
}

fn weight(accept: &str, format: Format) -> Weight {
    let mut found = (0, 0);
    for wish in accept.split(',') {
        let mut parts = wish.split(';').map(str::trim);
        let exactness = exactness(parts.next().unwrap_or_default(), format);
        if exactness > found.1 {
            let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            found = (thousandths(quality), exactness);
        }
    }
    found
}

/// 3 for the type itself, 1 for all there are, 0 for another.
fn exactness(range: &str, format: Format) -> u8 {
    let (kind, subtype) = format.essence();
    let Some((asked_kind, asked_subtype)) = range.split_once('/') else {
        return u8::from(range == "*");
    };
    if asked_kind.eq_ignore_ascii_case(kind) && asked_subtype.eq_ignore_ascii_case(subtype) {
        3
    } else if asked_kind.eq_ignore_ascii_case(kind) && asked_subtype == "*" {
        2
    } else {
        u8::from(asked_kind == "*" && asked_subtype == "*")
    }
}

/// A quality as RFC 9110 has it; what is none counts as 1.
fn thousandths(quality: Option<&str>) -> u32 {
    let quality = quality.and_then(|text| text.parse::<f64>().ok()).unwrap_or(1.0);
    (quality.clamp(0.0, 1.0) * 1000.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_the_caller_takes_most_gladly_is_chosen() {
        for (accept, expected) in [
            ("", Some(Format::Json)),
            ("*/*", Some(Format::Json)),
            ("*", Some(Format::Json)),
            ("application/*", Some(Format::Json)),
            ("text/*", Some(Format::Csv)),
            ("text/csv", Some(Format::Csv)),
            ("Text/CSV; charset=utf-8", Some(Format::Csv)),
            ("text/csv, */*", Some(Format::Csv)),
            ("application/vnd.apache.arrow.stream", Some(Format::Arrow)),
            ("application/json;q=0.5, text/csv;q=0.7", Some(Format::Csv)),
            ("application/json, text/csv", Some(Format::Json)),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Some(Format::Json)),
            ("application/json;q=0, */*", Some(Format::Csv)),
            ("application/json;q=0", None),
            ("text/html", None),
            ("nonsense", None),
        ] {
            assert_eq!(choose(accept, &Format::ALL), expected, "{accept}");
        }
        assert_eq!(choose("text/csv", &[Format::Json]), None);
    }
}
