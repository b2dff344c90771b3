//! What a caller may do.

use std::fmt;

/// One permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Send samples.
    Ingest,
    /// Ask for samples.
    Read,
    /// Manage webhooks.
    Webhooks,
    /// The three above and the keys of its organisation.
    Admin,
    /// Everything, in any organisation.
    Operator,
}

const ALL: [Scope; 5] = [Scope::Ingest, Scope::Read, Scope::Webhooks, Scope::Admin, Scope::Operator];

impl Scope {
    /// Its name outside.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Ingest => "ingest",
            Scope::Read => "read",
            Scope::Webhooks => "webhooks",
            Scope::Admin => "admin",
            Scope::Operator => "operator",
        }
    }

    /// The scope of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Scope> {
        ALL.into_iter().find(|scope| scope.as_str() == name)
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// The set of these.
    #[must_use]
    pub fn of(scopes: &[Scope]) -> Scopes {
        Scopes(scopes.iter().fold(0, |bits, scope| bits | scope.bit()))
    }

    /// Adds one.
    pub fn insert(&mut self, scope: Scope) {
        self.0 |= scope.bit();
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether a caller with this set may do what needs `scope`: an operator
    /// anything, an admin all but what an operator does.
    #[must_use]
    pub fn allow(self, scope: Scope) -> bool {
        let admin = self.contains(Scope::Admin) && scope != Scope::Operator;
        self.contains(scope) || self.contains(Scope::Operator) || admin
    }

    /// Those of `self` that `max` allows.
    #[must_use]
    pub fn within(self, max: Scopes) -> Scopes {
        let allowed = self.iter().filter(|scope| max.allow(*scope));
        allowed.fold(Scopes::default(), |mut set, scope| {
            set.insert(scope);
            set
        })
    }

    /// The set's scopes, the lesser ones first.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        ALL.into_iter().filter(move |scope| self.contains(*scope))
    }

    /// The scopes of a text that separates them by spaces; names that are no
    /// scope are left out, as tokens carry scopes of other systems too.
    #[must_use]
    pub fn parse_known(text: &str) -> Scopes {
        let mut scopes = Scopes::default();
        text.split_ascii_whitespace().filter_map(Scope::parse).for_each(|scope| scopes.insert(scope));
        scopes
    }

    fn contains(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }
}

/// The names, separated by spaces: the form the catalog keeps.
impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, scope) in self.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{scope}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_may_what_its_organisation_needs_and_no_more() {
        let admin = Scopes::of(&[Scope::Admin]);
        assert!([Scope::Ingest, Scope::Read, Scope::Webhooks, Scope::Admin].iter().all(|s| admin.allow(*s)));
        assert!(!admin.allow(Scope::Operator));
        assert!(ALL.iter().all(|scope| Scopes::of(&[Scope::Operator]).allow(*scope)));
        assert!(!Scopes::of(&[Scope::Ingest]).allow(Scope::Read));
    }

    #[test]
    fn a_set_prints_and_reads_back() {
        let set = Scopes::parse_known("read  openid ingest");
        assert_eq!(set.to_string(), "ingest read");
        assert_eq!(Scopes::parse_known(&set.to_string()), set);
        assert_eq!(Scopes::parse_known("ingest admin").within(set).to_string(), "ingest");
    }
}
