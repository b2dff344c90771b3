//! Tombstones on their way: hidden in commit order, in the catalog before any flush
//! moves the journal's position over them, gone once they were carried out.

use std::sync::Arc;

use super::{Orders, Snapshot, Store, StoreError};
use crate::catalog::{Catalog, CatalogError};
use crate::frame::{Erased, Frame, SamplesFrame, Sequence, Tombstone};
use crate::hidden::{Hidden, RetentionRule};

/// What the catalog says is hidden.
pub(crate) fn load_hidden(catalog: &Catalog) -> Result<Hidden, CatalogError> {
    let mut hidden = Hidden::default();
    for tombstone in catalog.waiting_tombstones()? {
        hidden = hidden.with(&Arc::new(tombstone));
    }
    for (org, hash) in catalog.blocked_users()? {
        hidden = hidden.with_blocked(&org, hash);
    }
    let rules = catalog.retention()?;
    for of_org in rules.chunk_by(|a, b| a.0 == b.0) {
        let rules: Vec<RetentionRule> = of_org.iter().map(|(_, rule)| rule.clone()).collect();
        hidden = hidden.with_retention(&of_org[0].0, rules);
    }
    Ok(hidden)
}

impl Store {
    /// What must not be seen any more.
    #[must_use]
    pub fn hidden(&self) -> Arc<Hidden> {
        self.snapshot.load().hidden.clone()
    }

    /// Makes a durable group visible, in its order: samples and attempts are added, tombstones
    /// hide what came before them. The committer's.
    pub fn publish_frames(&self, frames: &[Frame]) {
        let mut samples: Vec<SamplesFrame> = Vec::with_capacity(frames.len());
        for frame in frames {
            match frame {
                Frame::Samples(frame) => {
                    samples.push(frame.clone());
                }
                Frame::Attempts(frame) => self.publish_attempts(frame),
                Frame::Tombstone(_, tombstone) => {
                    self.publish(&std::mem::take(&mut samples));
                    self.hide(tombstone);
                }
                _ => {}
            }
        }
        self.publish(&samples);
        if let Some(other) = frames.iter().rev().find(|frame| frame.as_samples().is_none()) {
            self.advance(&other.header().stamp);
        }
    }

    /// Hides what a durable tombstone covers. The committer's, and recovery's.
    pub(super) fn hide(&self, tombstone: &Arc<Tombstone>) {
        self.unrecorded.lock().push(tombstone.clone());
        self.change_hidden(|hidden| hidden.with(tombstone));
        if let Erased::User { .. } = tombstone.erased {
            // A group of this user that was marked before is widened anew with its rows.
            self.series.forget(&tombstone.org, &tombstone.user, tombstone.sequence);
        }
    }

    /// Brings tombstones that are only in the journal into the catalog: before their
    /// receipts are given, and before a flush moves the position over them.
    ///
    /// # Errors
    /// [`StoreError::Catalog`]; then they wait for the next call.
    pub fn record_tombstones(&self) -> Result<(), StoreError> {
        // Locked over the transaction, so that nobody finds none waiting before they
        // are durable.
        let mut unrecorded = self.unrecorded.lock();
        if !unrecorded.is_empty() {
            self.catalog.put_tombstones(&unrecorded)?;
            unrecorded.clear();
        }
        Ok(())
    }

    /// Takes what came of blocked users behind their orders out of the series map:
    /// samples that were on their way in that moment. Files and journal lose them with
    /// the others.
    pub fn forget_blocked(&self, orders: &Orders) {
        for order in orders.all() {
            if let Erased::User { block: true } = order.erased {
                self.series.forget(&order.org, &order.user, Sequence(u64::MAX));
            }
        }
    }

    /// Shows again what carried-out tombstones covered: nothing of it is left.
    pub fn unhide(&self, done: &[Arc<Tombstone>]) {
        self.change_hidden(|hidden| hidden.without(done));
    }

    /// Replaces an organisation's rules of how long it keeps what, durably.
    ///
    /// # Errors
    /// [`StoreError::Catalog`].
    pub fn set_retention(&self, org: &str, rules: Vec<RetentionRule>) -> Result<(), StoreError> {
        // One at a time, so that memory follows the catalog.
        let _turn = self.unrecorded.lock();
        self.catalog.put_retention(org, &rules)?;
        self.change_hidden(|hidden| hidden.with_retention(org, rules.clone()));
        Ok(())
    }

    /// How long samples are kept where an organisation has no rule; `None` for ever.
    pub fn set_default_retention(&self, days: Option<u32>) {
        self.change_hidden(|hidden| hidden.with_default_days(days));
    }

    fn change_hidden(&self, change: impl Fn(&Hidden) -> Hidden) {
        self.snapshot.rcu(|snapshot| {
            let mut next = Snapshot::clone(snapshot);
            next.hidden = Arc::new(change(&next.hidden));
            next
        });
    }
}
