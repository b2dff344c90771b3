//! Whose samples a batch holds.

use crate::auth::is_user_id;
use crate::error::{Entry, Refusal};

/// Where the user of a point comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UserRule<'a> {
    /// The key is bound to this user: naming another refuses the request.
    Bound(&'a str),
    /// The query names this user: a point that names another is a bad point.
    Named(&'a str),
    /// Each point names its own.
    PerPoint,
}

/// What is said of one that is another than the query's.
pub(super) const USER_MISMATCH: &str = "is another user than ?user_id= names";

/// A point whose user cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UserFault {
    /// Another than the key's user: the whole request is refused.
    Forbidden,
    /// Another than the query's.
    Mismatch,
    /// None at all.
    Missing,
}

impl<'a> UserRule<'a> {
    /// The rule for a caller bound to `bound` who asks for `named`.
    pub(crate) fn of(bound: Option<&'a str>, named: Option<&'a str>) -> Result<UserRule<'a>, Refusal> {
        if let Some(named) = named
            && !is_user_id(named)
        {
            let message = "must be 1 to 128 characters of A-Z a-z 0-9 . _ : @ -";
            return Err(Refusal::invalid(Entry::query("user_id", "malformed", message)));
        }
        match (bound, named) {
            (Some(bound), Some(named)) if bound != named => Err(Refusal::OtherUser),
            (Some(bound), _) => Ok(UserRule::Bound(bound)),
            (None, Some(named)) => Ok(UserRule::Named(named)),
            (None, None) => Ok(UserRule::PerPoint),
        }
    }

    /// The user of a point that says `said`.
    #[inline]
    pub(super) fn user(self, said: Option<&'a str>) -> Result<&'a str, UserFault> {
        match (self, said) {
            (UserRule::Bound(bound), Some(said)) if said != bound => Err(UserFault::Forbidden),
            (UserRule::Named(named), Some(said)) if said != named => Err(UserFault::Mismatch),
            (UserRule::Bound(user) | UserRule::Named(user), _) | (UserRule::PerPoint, Some(user)) => Ok(user),
            (UserRule::PerPoint, None) => Err(UserFault::Missing),
        }
    }

    /// Whom an event is about that says `said`; unlike a point it may be about nobody.
    pub(crate) fn user_of_event(self, said: Option<&'a str>) -> Result<Option<&'a str>, Refusal> {
        match self.user(said) {
            Ok(user) => Ok(Some(user)),
            Err(UserFault::Missing) => Ok(None),
            Err(UserFault::Forbidden) => Err(Refusal::OtherUser),
            Err(UserFault::Mismatch) => {
                Err(Refusal::invalid(Entry::body("user_id", "user_mismatch", USER_MISMATCH)))
            }
        }
    }

    /// The one user a question is about.
    pub(crate) fn only(self) -> Result<&'a str, Refusal> {
        match self {
            UserRule::Bound(user) | UserRule::Named(user) => Ok(user),
            UserRule::PerPoint => {
                let message = "is needed: this key is not bound to a user";
                Err(Refusal::invalid(Entry::query("user_id", "missing", message)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_may_only_name_whom_key_and_query_allow() {
        use UserRule::{Bound, Named, PerPoint};
        let cases = [
            (Bound("a"), None, Ok("a")),
            (Bound("a"), Some("a"), Ok("a")),
            (Bound("a"), Some("b"), Err(UserFault::Forbidden)),
            (Named("a"), None, Ok("a")),
            (Named("a"), Some("b"), Err(UserFault::Mismatch)),
            (PerPoint, Some("b"), Ok("b")),
            (PerPoint, None, Err(UserFault::Missing)),
        ];
        for (rule, said, expected) in cases {
            assert_eq!(rule.user(said), expected, "{rule:?} {said:?}");
        }
    }
}
