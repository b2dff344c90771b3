//! Bytes that request bodies in flight and queued frames may hold together.
//!
//! What full answers: a request without a permit is 429; nothing waits here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A shared number of bytes, taken and given back.
#[derive(Debug)]
pub struct ByteBudget {
    total: usize,
    used: AtomicUsize,
}

impl ByteBudget {
    /// A budget of `total` bytes.
    #[must_use]
    pub fn new(total: usize) -> Arc<ByteBudget> {
        Arc::new(ByteBudget { total, used: AtomicUsize::new(0) })
    }

    /// Takes `bytes`, or nothing if they are not there.
    #[must_use]
    pub fn try_take(self: &Arc<ByteBudget>, bytes: usize) -> Option<Permit> {
        self.reserve(bytes).then(|| Permit { budget: self.clone(), bytes })
    }

    /// Bytes taken now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// All bytes there are.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }

    fn reserve(&self, bytes: usize) -> bool {
        let take = |used: usize| used.checked_add(bytes).filter(|&after| after <= self.total);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

/// Bytes taken from a budget; dropping it gives them back.
#[derive(Debug)]
pub struct Permit {
    budget: Arc<ByteBudget>,
    bytes: usize,
}

impl Permit {
    /// Takes `bytes` more; false leaves the permit as it is.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        let grown = self.budget.reserve(bytes);
        if grown {
            self.bytes += bytes;
        }
        grown
    }

    /// Parts with up to `bytes` of it, which are given back on their own.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Permit {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Permit { budget: self.budget.clone(), bytes }
    }

    /// Bytes it stands for.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_gives_back_all_it_took() {
        let budget = ByteBudget::new(100);
        let mut permit = budget.try_take(60).unwrap();
        assert!(budget.try_take(41).is_none());
        assert!(permit.grow(40));
        assert!(!permit.grow(1));
        assert_eq!(budget.used(), 100);
        drop(permit);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_permit_in_parts_is_given_back_part_by_part() {
        let budget = ByteBudget::new(100);
        let mut permit = budget.try_take(60).unwrap();
        let (some, rest) = (permit.split(20), permit.split(1000));
        assert_eq!((some.bytes(), rest.bytes(), permit.bytes(), budget.used()), (20, 40, 0, 60));
        drop(some);
        assert_eq!(budget.used(), 40);
        drop((permit, rest));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_request_beyond_all_numbers_is_refused() {
        let budget = ByteBudget::new(100);
        let _held = budget.try_take(1).unwrap();
        assert!(budget.try_take(usize::MAX).is_none());
        assert_eq!(budget.used(), 1);
    }
}
