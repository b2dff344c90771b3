//! The text of one member of a JSON object, as it was sent.
//!
//! What is only passed on must not be parsed and printed again: that would sort its
//! members and round its numbers.

/// The value of the last top-level member called `name`, in a document that is known
/// to be one valid JSON object.
pub(super) fn member<'a>(document: &'a str, name: &str) -> Option<&'a str> {
    let bytes = document.as_bytes();
    let mut at = blank(bytes, 0) + 1;
    let mut found = None;
    loop {
        at = blank(bytes, at);
        if bytes.get(at)? == &b'}' {
            return found;
        }
        let key_end = value_end(bytes, at)?;
        let key: String = serde_json::from_str(document.get(at..key_end)?).ok()?;
        // Over the colon.
        let begin = blank(bytes, blank(bytes, key_end) + 1);
        let end = value_end(bytes, begin)?;
        if key == name {
            found = document.get(begin..end);
        }
        at = blank(bytes, end);
        if bytes.get(at)? == &b',' {
            at += 1;
        }
    }
}

/// The first byte at or behind `at` that is no white space.
fn blank(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count()
}

/// Where the value that begins at `at` ends.
fn value_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    loop {
        match bytes.get(at)? {
            b'"' => at = string_end(bytes, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                at += 1;
            }
            byte if depth == 0 => {
                let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace();
                debug_assert!(!ends(byte), "a value begins with none of them");
                return Some(at + bytes[at..].iter().position(ends)?);
            }
            _ => at += 1,
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

fn string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_given_as_it_was_sent() {
        let document = r#" { "a" : [1, "}\"", {"data": 2}] ,"data":{"z":1,"a":12345678901234567890123,"f":1.10, "u":"\u00e9\\" },
            "n":-1.5e3,"t":true }"#;
        assert!(serde_json::from_str::<serde_json::Value>(document).is_ok());
        let data = r#"{"z":1,"a":12345678901234567890123,"f":1.10, "u":"\u00e9\\" }"#;
        for (name, text) in [
            ("a", Some(r#"[1, "}\"", {"data": 2}]"#)),
            ("data", Some(data)),
            ("n", Some("-1.5e3")),
            ("t", Some("true")),
            ("z", None),
        ] {
            assert_eq!(member(document, name), text, "{name}");
        }
        assert_eq!(member("{}", "a"), None);
        assert_eq!(member(r#"{"a":1,"a":2}"#, "a"), Some("2"));
        assert_eq!(member(r#"{"a":"x"}"#, "a"), Some(r#""x""#));
    }
}
