//! Spellings of units and what lies between them and the canonical unit.

use super::table::Cause;

/// How a value becomes canonical: `value * factor + offset`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// What the value is multiplied with.
    pub factor: f64,
    /// What is added afterwards.
    pub offset: f64,
}

impl Scale {
    /// The canonical unit itself: values stay as they are, bit for bit.
    pub const SAME: Scale = Scale { factor: 1.0, offset: 0.0 };

    /// The canonical value.
    #[inline]
    #[must_use]
    pub fn apply(self, value: f64) -> f64 {
        // Adding an offset of zero would turn -0.0 into 0.0; multiplying with
        // one changes nothing.
        if self.offset == 0.0 { value * self.factor } else { value * self.factor + self.offset }
    }
}

/// A spelling that a metric accepts beside its unit.
#[derive(Clone, Debug, PartialEq)]
pub struct UnitAlias {
    /// The spelling, letter case included.
    pub name: String,
    /// How a value in it becomes canonical.
    pub scale: Scale,
}

impl UnitAlias {
    /// Reads `name`, `name=f` or `name=f+o`; the offset has its own sign.
    pub(super) fn parse(text: &str) -> Result<UnitAlias, Cause> {
        let (name, scale) = match text.rsplit_once('=') {
            None => (text, Scale::SAME),
            Some((name, terms)) => (name, parse_scale(terms).ok_or_else(|| Cause::unit(text))?),
        };
        if name.is_empty() {
            return Err(Cause::unit(text));
        }
        Ok(UnitAlias { name: name.to_owned(), scale })
    }
}

fn parse_scale(terms: &str) -> Option<Scale> {
    let (factor, offset) = terms.split_once('+').unwrap_or((terms, "0"));
    let scale = Scale { factor: factor.parse().ok()?, offset: offset.parse().ok()? };
    (scale.factor.is_finite() && scale.factor != 0.0 && scale.offset.is_finite()).then_some(scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_have_a_name_and_at_most_a_factor_and_an_offset() {
        let read = |text: &str| {
            UnitAlias::parse(text).ok().map(|alias| (alias.name, alias.scale.factor, alias.scale.offset))
        };
        for (text, expected) in [
            ("bpm", Some(("bpm", 1.0, 0.0))),
            ("Hz=60", Some(("Hz", 60.0, 0.0))),
            ("K=1+-273.15", Some(("K", 1.0, -273.15))),
            ("°F=0.5+17", Some(("°F", 0.5, 17.0))),
            ("a=b=2", Some(("a=b", 2.0, 0.0))),
            ("", None),
            ("=60", None),
            ("Hz=", None),
            ("Hz=sixty", None),
            ("Hz=0", None),
            ("Hz=inf", None),
            ("K=1+", None),
            ("K=1+NaN", None),
        ] {
            let expected = expected.map(|(name, factor, offset)| (name.to_owned(), factor, offset));
            assert_eq!(read(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_scale_of_one_changes_no_bit() {
        for value in [0.0, -0.0, 0.1, 1e-310, f64::MAX, f64::MIN_POSITIVE, -37.5] {
            assert_eq!(Scale::SAME.apply(value).to_bits(), value.to_bits(), "{value}");
        }
    }
}
