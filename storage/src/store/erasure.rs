//! Tombstones on their way: hidden in commit order, in the catalog before any flush
//! moves the journal's position over them, gone once they were carried out.

use std::sync::Arc;

use super::{Orders, Snapshot, Store, StoreError};
use crate::catalog::{Catalog, CatalogError};
use crate::frame::{Erased, Frame, SamplesFrame, Sequence, Tombstone};
use crate::hidden::{EVERY_METRIC, Hidden, RetentionRule, dropped_within};
use crate::series::{LatestValue, Newest};

/// What the catalog says is hidden.
pub(crate) fn load_hidden(catalog: &Catalog) -> Result<Hidden, CatalogError> {
    let mut hidden = Hidden::default();
    for tombstone in catalog.waiting_tombstones()? {
        hidden.add(&Arc::new(tombstone));
    }
    for (org, hash) in catalog.blocked_users()? {
        hidden.block(&org, hash);
    }
    let rules = catalog.retention()?;
    for of_org in rules.chunk_by(|a, b| a.0 == b.0) {
        let rules: Vec<RetentionRule> = of_org.iter().map(|(_, rule)| rule.clone()).collect();
        hidden.set_retention(&of_org[0].0, &rules);
    }
    hidden.note_dropped(&catalog.dropped()?);
    if let Some(days) = catalog.default_days()? {
        hidden.note_dropped(&[dropped_within("", EVERY_METRIC, days)]);
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
        if let Erased::User { user, .. } = &tombstone.erased {
            // A group of this user that was marked before is widened anew with its rows.
            self.series.forget(&tombstone.org, user, tombstone.sequence);
        }
    }

    /// Brings tombstones that are only in the journal into the catalog: before their
    /// receipts are given, and before a flush moves the position over them.
    ///
    /// # Errors
    /// [`StoreError::Catalog`]; then they wait for the next call.
    pub fn record_tombstones(&self) -> Result<(), StoreError> {
        // Held over the transaction, so that nobody finds none waiting before they
        // are durable.
        let _turn = self.recording.lock();
        let waiting = self.unrecorded.lock().clone();
        if !waiting.is_empty() {
            self.catalog.put_tombstones(&waiting)?;
            // What came meanwhile stands behind them.
            self.unrecorded.lock().drain(..waiting.len());
        }
        Ok(())
    }

    /// Takes what came of blocked users behind their orders out of the series map:
    /// samples that were on their way in that moment. Files and journal lose them with
    /// the others.
    pub fn forget_blocked(&self, orders: &Orders) {
        for order in orders.all() {
            if let Erased::User { user, block: true } = &order.erased {
                self.series.forget(&order.org, user, Sequence(u64::MAX));
            }
        }
    }

    /// Brings the newest values right that lie in deleted ranges. Until the orders are done
    /// readers look for them among the samples. `find` is given organisation, user and metric,
    /// and looks for the newest sample that is left; its position is one that the snapshot it
    /// looked into has everything up to. It is asked again until that is far enough.
    ///
    /// Of an order about all users every record of the organisation is looked at, a page at
    /// a time, and those that change are written down on the way as memory demands it.
    ///
    /// # Errors
    /// What `find` says, and [`StoreError::Series`]; then some values are right already.
    pub fn set_newest<E: From<StoreError>>(
        &self,
        orders: &Orders,
        mut find: impl FnMut(&str, &str, &str) -> Result<(Sequence, Option<Newest>), E>,
    ) -> Result<(), E> {
        let mut find = |org: &str, user: &str, value: &LatestValue| find(org, user, &value.metric);
        for (org, user) in orders.ranges() {
            let pages = if user.is_some() { 1 } else { self.series.pages() };
            for page in 0..pages {
                for (user, values) in self.newest_of(org, user, page)? {
                    for value in values.iter().filter(|value| orders.hidden().deletes(org, &user, value)) {
                        self.find_newest(org, &user, value, &mut find)?;
                    }
                }
                if self.series.is_pressing() {
                    self.checkpoint_series(self.flushed_position(), false)?;
                }
            }
        }
        Ok(())
    }

    /// Takes newest values out of the series map whose samples age took, and writes it down.
    /// `find` is given organisation, user and the value, and looks for the newest sample that
    /// is there, shown or not, which is none that is newer than the value; its position is as
    /// for [`Store::set_newest`]. Returns how many values changed.
    ///
    /// # Errors
    /// What `find` says, and [`StoreError::Series`]; then some values are right already.
    pub fn forget_aged<E: From<StoreError>>(
        &self,
        mut find: impl FnMut(&str, &str, &LatestValue) -> Result<(Sequence, Option<Newest>), E>,
    ) -> Result<u64, E> {
        let (hidden, mut changed) = (self.hidden(), 0);
        if !hidden.drops_some() {
            return Ok(0);
        }
        let mut swept = Ok(());
        for page in 0..self.series.pages() {
            swept = self.forget_aged_of(page, &hidden, &mut changed, &mut find);
            if swept.is_err() {
                break;
            }
        }
        if changed > 0 {
            self.checkpoint_series(self.flushed_position(), true)?;
        }
        swept.map(|()| changed)
    }

    fn forget_aged_of<E: From<StoreError>>(
        &self,
        page: usize,
        hidden: &Hidden,
        changed: &mut u64,
        find: &mut impl FnMut(&str, &str, &LatestValue) -> Result<(Sequence, Option<Newest>), E>,
    ) -> Result<(), E> {
        let users = self.series.latest_of_orgs(page, |org| hidden.drops(org)).map_err(StoreError::from)?;
        for (org, user, values) in users {
            let is_aged =
                |value: &&LatestValue| hidden.may_be_dropped(&org, &value.metric, value.recorded_at);
            for value in values.iter().filter(is_aged) {
                *changed += u64::from(self.find_newest(&org, &user, value, find)?);
            }
        }
        if self.series.is_pressing() {
            self.checkpoint_series(self.flushed_position(), false)?;
        }
        Ok(())
    }

    /// Brings one newest value right; says whether it was another one that `find` found. What
    /// comes while it looks counts too.
    fn find_newest<E: From<StoreError>>(
        &self,
        org: &str,
        user: &str,
        value: &LatestValue,
        find: &mut impl FnMut(&str, &str, &LatestValue) -> Result<(Sequence, Option<Newest>), E>,
    ) -> Result<bool, E> {
        loop {
            let known = self.series.seek_newest(org, user, &value.metric);
            let (mut through, mut found) = find(org, user, value)?;
            // A sample is in the map a moment before it is in a snapshot.
            while through < known {
                std::thread::yield_now();
                (through, found) = find(org, user, value)?;
            }
            if found.is_some_and(|found| found.is(value)) {
                return Ok(false);
            }
            let replaced = self.series.replace_newest(org, user, value, found);
            if replaced.map_err(StoreError::from)? {
                return Ok(true);
            }
        }
    }

    /// The newest values of one user, or of all users of a page.
    fn newest_of(
        &self,
        org: &str,
        user: Option<&str>,
        page: usize,
    ) -> Result<Vec<(String, Vec<LatestValue>)>, StoreError> {
        Ok(match user {
            Some(user) => vec![(user.to_owned(), self.series.latest(org, user)?)],
            None => self.series.latest_of_page(org, page)?,
        })
    }

    /// Shows again what carried-out tombstones covered: nothing of it is left.
    pub fn unhide(&self, done: &[Arc<Tombstone>]) {
        self.change_hidden(|hidden| hidden.without(done));
    }

    /// Replaces an organisation's rules of how long it keeps what, durably. What those of
    /// before may have dropped is noted with it.
    ///
    /// # Errors
    /// [`StoreError::Catalog`].
    pub fn set_retention(&self, org: &str, mut rules: Vec<RetentionRule>) -> Result<(), StoreError> {
        // One at a time, so that memory follows the catalog.
        let _turn = self.recording.lock();
        let dropped = self.hidden().dropped_now(org);
        if let Err(error) = self.catalog.put_retention(org, &rules, &dropped) {
            // A commit that failed may have become durable all the same.
            let stored = self.catalog.retention()?.into_iter().filter(|(of, _)| of == org);
            rules.sort_by(|a, b| a.metric.cmp(&b.metric));
            if !stored.map(|(_, rule)| rule).eq(rules.iter().cloned()) {
                return Err(error.into());
            }
        }
        self.change_hidden(|hidden| {
            let mut hidden = hidden.with_retention(org, &rules);
            hidden.note_dropped(&dropped);
            hidden
        });
        Ok(())
    }

    /// How long samples are kept where an organisation has no rule; `None` for ever. What may
    /// have been dropped under another number before is noted with it.
    ///
    /// # Errors
    /// [`StoreError::Catalog`].
    pub fn set_default_retention(&self, days: Option<u32>) -> Result<(), StoreError> {
        let _turn = self.recording.lock();
        let before = self.catalog.default_days()?;
        if before != days {
            let dropped = before.map(|before| dropped_within("", EVERY_METRIC, before));
            self.catalog.put_default_days(days, dropped.as_slice())?;
        }
        // Memory knows what may have been dropped since the catalog was read.
        self.change_hidden(|hidden| hidden.with_default_days(days));
        Ok(())
    }

    fn change_hidden(&self, change: impl Fn(&Hidden) -> Hidden) {
        self.snapshot.rcu(|snapshot| {
            let mut next = Snapshot::clone(snapshot);
            next.hidden = Arc::new(change(&next.hidden));
            next
        });
    }
}
