//! How far events are that were routed, in terms of their orderings.
//!
//! The log promises that nothing behind its head will have an ordering up to some. The router
//! is behind the head nearly always while much comes in: a promise is kept until it is where
//! the head was then, for it still holds.

use crate::event::{Cursor, Settled};

/// The promise of the log that the router has not come up with.
#[derive(Debug, Default)]
pub(crate) struct Promise(Option<Settled>);

impl Promise {
    /// The ordering up to which every event was routed, if more is known of it than before:
    /// the log promises `now`, and `routed` was read before or is where the router still is.
    pub(crate) fn keep(&mut self, now: Settled, routed: Cursor) -> Option<u64> {
        let is_routed = |promise: &Settled| routed >= Cursor::behind(promise.head);
        if is_routed(&now) {
            self.0 = None;
            return Some(now.ordering);
        }
        match self.0.filter(is_routed) {
            Some(kept) => {
                self.0 = Some(now);
                Some(kept.ordering)
            }
            None => {
                self.0.get_or_insert(now);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_router_that_is_always_behind_the_head_settles_what_it_has_come_up_with() {
        let mut promise = Promise::default();
        let mut keep =
            |head, routed| promise.keep(Settled { head, ordering: 10 * head }, Cursor::behind(routed));
        assert_eq!(keep(5, 5), Some(50));
        assert_eq!([(8, 7), (9, 7)].map(|(head, routed)| keep(head, routed)), [None, None]);
        // It is where the head was first, and what was promised since is kept next.
        assert_eq!(
            [(12, 9), (14, 11), (15, 13)].map(|(head, routed)| keep(head, routed)),
            [Some(80), None, Some(120)]
        );
        assert_eq!(keep(15, 15), Some(150));
    }
}
