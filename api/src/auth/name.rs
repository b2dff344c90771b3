//! The ids of organisations and users.

/// Longest id of an organisation.
const ORG_CHARS_MAX: usize = 64;
/// Longest id of a user.
const USER_CHARS_MAX: usize = 128;

/// 1 to 64 characters of `a-z 0-9 _ -`, the first a letter.
#[must_use]
pub fn is_org_id(id: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    let first = id.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    first && id.len() <= ORG_CHARS_MAX && id.bytes().all(allowed)
}

/// 1 to 128 characters of `A-Z a-z 0-9 . _ : @ -`.
#[must_use]
pub fn is_user_id(id: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._:@-".contains(&b);
    !id.is_empty() && id.len() <= USER_CHARS_MAX && id.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_keep_to_their_alphabet() {
        assert!(is_org_id("clinic-7_b") && is_org_id(&"a".repeat(64)));
        assert!(
            ["", "7x", "_a", "Clinic", "a b", "a/b", "..", &"a".repeat(65)].iter().all(|id| !is_org_id(id))
        );
        assert!(is_user_id("u_1:a@B.c-d") && is_user_id(&"7".repeat(128)));
        assert!(["", "a b", "a/b", "ä", "a+b", &"7".repeat(129)].iter().all(|id| !is_user_id(id)));
    }
}
