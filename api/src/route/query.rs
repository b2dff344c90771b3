//! The parameters behind the `?`.

use std::borrow::Cow;

use crate::error::{Entry, Place, Quoted, Refusal};

/// Decoded parameters. Of several with one name the last counts; names that no
/// route knows are ignored.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: Option<&str>) -> Result<Query, Refusal> {
        let pairs = text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let decoded = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decode = |part| percent_decode(part, true).ok_or_else(|| malformed(pair));
            Ok((decode(name)?.into_owned(), decode(value)?.into_owned()))
        });
        decoded.collect::<Result<_, _>>().map(Query)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// A parameter that is `true` or `false`; absent is `false`.
    pub(crate) fn flag(&self, name: &'static str) -> Result<bool, Refusal> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => {
                let message = format!("must be true or false, not {}", Quoted(other));
                Err(Refusal::invalid(Entry::query(name, "wrong_type", message)))
            }
        }
    }

    /// The parameter `limit`: a whole number from 1 to `max`.
    pub(crate) fn limit(&self, max: usize) -> Result<Option<usize>, Refusal> {
        let Some(text) = self.get("limit") else { return Ok(None) };
        match text.parse() {
            Ok(limit) if (1..=max).contains(&limit) => Ok(Some(limit)),
            _ => {
                let message = format!("must be a whole number from 1 to {max}, not {}", Quoted(text));
                Err(Refusal::invalid(Entry::query("limit", "out_of_range", message)))
            }
        }
    }
}

fn malformed(pair: &str) -> Refusal {
    let place = Place { root: "query", index: None, field: None };
    let message = format!("{} is not percent-encoded UTF-8", Quoted(pair));
    Refusal::invalid(Entry::new(place, "malformed", message))
}

/// Undoes percent-encoding; `None` if it is broken or not UTF-8.
pub(crate) fn percent_decode(text: &str, plus_is_space: bool) -> Option<Cow<'_, str>> {
    let plain = |b: &u8| *b != b'%' && !(plus_is_space && *b == b'+');
    if text.as_bytes().iter().all(plain) {
        return Some(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => decoded.push(hex(bytes.next()?)? << 4 | hex(bytes.next()?)?),
            b'+' if plus_is_space => decoded.push(b' '),
            byte => decoded.push(byte),
        }
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_the_last_of_a_name_counts() {
        let query = Query::parse(Some("a=1&b=x%20y+z&a=2&c&d=%C3%A9&&e==")).unwrap();
        assert_eq!(query.get("a"), Some("2"));
        assert_eq!(query.get("b"), Some("x y z"));
        assert_eq!(query.get("c"), Some(""));
        assert_eq!(query.get("d"), Some("é"));
        assert_eq!(query.get("e"), Some("="));
        assert_eq!(query.get("f"), None);
        for broken in ["a=%", "a=%4", "a=%zz", "%ff=1", "a=%ff"] {
            assert!(Query::parse(Some(broken)).is_err(), "{broken}");
        }
    }
}
