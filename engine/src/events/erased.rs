//! What was erased, as payloads ask it: the same question before the journal was
//! rewritten, where tombstones answer it, and behind, where empty groups do.
//!
//! An event is gone as a whole: one of whose samples some were deleted cannot be
//! repeated byte by byte. Age takes nothing from deliveries; the journal is short.
//!
//! Whoever commits something about a user of before has to know of orders that are still
//! on their way, too: no order covers what stands behind it.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use systole_storage::frame::{Erased, EventFrame, SamplesFrame};
use systole_storage::{Sequence, Store};

/// Asks the store's tombstones; without a store nothing is erased.
#[derive(Clone, Debug, Default)]
pub(crate) struct ErasedNow(Option<Arc<Store>>);

impl ErasedNow {
    pub(crate) fn of(store: Arc<Store>) -> ErasedNow {
        ErasedNow(Some(store))
    }

    /// Whether what was committed about a user with a frame was erased.
    pub(super) fn user(&self, org: &str, user: &str, sequence: Sequence) -> bool {
        self.0.as_ref().is_some_and(|store| store.hidden().hides_user(org, user, sequence))
    }

    /// Whether a published event is about an erased user.
    pub(super) fn event(&self, frame: &EventFrame) -> bool {
        self.0.as_ref().is_some_and(|store| store.hidden().hides_event(frame))
    }

    /// Whether something of the event that begins with group `first` was erased.
    pub(super) fn groups(&self, frame: &SamplesFrame, first: usize) -> bool {
        let hidden = self.0.as_ref().map(|store| store.hidden());
        frame.event_groups(first).any(|index| {
            frame.group(index).erased_rows > 0
                || hidden.as_ref().is_some_and(|hidden| hidden.hides_group(frame, &frame.group(index)))
        })
    }
}

/// Users, by organisation and name, whom orders are about that do not hide yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leaving(Arc<Mutex<Vec<(String, String)>>>);

impl Leaving {
    /// Notes whom an order is about, before it is handed in. What is returned is to be
    /// dropped once the order hides, or was refused.
    pub(crate) fn note(&self, org: &str, erased: &Erased) -> Option<Left> {
        let Erased::User { user, .. } = erased else { return None };
        let who = (org.to_owned(), user.clone());
        self.0.lock().push(who.clone());
        Some(Left { leaving: self.clone(), who })
    }

    /// Who leaves now. While it is held no further order is handed in: what is handed in
    /// meanwhile stands before those that it does not have, and is covered by them.
    pub(super) fn hold(&self) -> LeavingNow<'_> {
        LeavingNow(self.0.lock())
    }
}

/// Who leaves, held still.
pub(super) struct LeavingNow<'a>(MutexGuard<'a, Vec<(String, String)>>);

impl LeavingNow<'_> {
    /// Whether this user does.
    pub(super) fn has(&self, org: &str, user: &str) -> bool {
        self.0.iter().any(|(of, who)| of == org && who == user)
    }
}

/// One who leaves, until it is dropped.
#[derive(Debug)]
pub(crate) struct Left {
    leaving: Leaving,
    who: (String, String),
}

impl Drop for Left {
    fn drop(&mut self) {
        let mut all = self.leaving.0.lock();
        // Once: another order may be about the same user.
        if let Some(at) = all.iter().position(|who| *who == self.who) {
            all.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_leaves_until_the_last_of_the_orders_hides() {
        let leaving = Leaving::default();
        let user = |user: &str| Erased::User { user: user.to_owned(), block: false };
        let range = Erased::Range { user: Some("u_1".to_owned()), metric: None, start: 0, end: 1 };
        assert!(leaving.note("acme", &range).is_none());
        let orders = [leaving.note("acme", &user("u_1")), leaving.note("acme", &user("u_1"))];
        let has = |org: &str, user: &str| leaving.hold().has(org, user);
        assert!(has("acme", "u_1") && !has("acme", "u_2") && !has("default", "u_1"));
        let [first, second] = orders;
        drop(first);
        assert!(has("acme", "u_1"));
        drop(second);
        assert!(!has("acme", "u_1"));
    }
}
