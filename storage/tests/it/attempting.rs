//! Delivery attempts on a machine that tests can stop: committed, promised, and looked
//! for.

use std::cmp::Reverse;

use systole_storage::frame::{AttemptRow, Erased, Frame, Stamp, encode_attempts};
use systole_storage::{AttemptQuery, StoreError, Unhurried};

use super::erasing::Order;
use super::machine::{EVERYTHING, Promise, Refused, Running, Work};

/// A time at which the days of the attempts are over, and not long ago.
const DAY_OVER: i64 = 1_782_805_500_000 + 3 * 86_400_000;

impl Order {
    /// Whether it covers attempts about the messages of this user in a frame.
    fn covers_message(&self, org: &str, user: Option<&str>) -> bool {
        let Erased::User { user: of, .. } = &self.erased else { return false };
        self.org == org && user == Some(of.as_str())
    }
}

impl Running {
    /// Commits a frame of attempts. Of a blocked user there are none but those that were
    /// on their way in that moment.
    pub(super) fn commit_attempts(
        &mut self,
        org: &'static str,
        rows: &[AttemptRow],
        promise: &mut Promise,
    ) -> Result<(), Refused> {
        let hidden = self.store.hidden();
        let taken = |row: &&AttemptRow| {
            row.user
                .as_deref()
                .is_none_or(|name| !hidden.hides_user(org, name, EVERYTHING) || hidden.waits_for(org, name))
        };
        let rows: Vec<AttemptRow> = rows.iter().filter(taken).cloned().collect();
        if rows.is_empty() {
            return Ok(());
        }
        self.given = self.given.next();
        let stamp = Stamp {
            sequence: self.given,
            synced: self.synced,
            ordering: self.given.0,
            committed_at: 1_782_805_500_000_000,
        };
        let bytes = encode_attempts(org, &rows).seal(stamp);
        let frame = Frame::parse(bytes.clone().into()).unwrap();
        let Frame::Attempts(attempts) = &frame else { panic!("it holds attempts") };
        let placed = attempts.iter().map(|row| row.owned()).collect();
        self.append(&[&bytes], vec![(self.given.0, Work::Attempts(org, placed))], promise)?;
        self.store.publish_frames(&[frame]);
        Ok(())
    }

    /// Does one merge of files of attempts that is due; says whether there was one.
    pub(super) fn compact_some_attempts(&self) -> Result<bool, StoreError> {
        Ok(self.store.compact_attempts(DAY_OVER, &mut Unhurried)?.is_some())
    }

    /// Each attempt once.
    pub(super) fn check_attempts(&self, promise: &Promise, what: &str) {
        for org in ["acme", "default"] {
            let query = AttemptQuery { org: org.to_owned(), limit: usize::MAX, ..AttemptQuery::default() };
            let found = self.store.attempts(&query).unwrap().rows;
            let of_org = promise.attempts.iter().filter(|(of, _)| *of == org);
            let mut promised: Vec<AttemptRow> = of_org.map(|(_, row)| row.clone()).collect();
            promised.sort_by_key(|row| Reverse((row.at_ms, row.tie)));
            assert_eq!(found, promised, "{what}: attempts of {org}");
        }
    }
}

impl Promise {
    /// Attempts are durable, but for those about messages that were erased before.
    pub(super) fn add_attempts(&mut self, org: &'static str, rows: Vec<AttemptRow>) {
        for row in rows {
            // One of a test stands for itself.
            let erased = |(sequence, order): &(u64, Order)| {
                let before = row.sequence > 0 && row.sequence <= *sequence;
                order.covers_message(org, row.user.as_deref()) && (before || order.blocks())
            };
            if self.orders.iter().any(erased) {
                continue;
            }
            if let Some(user) = &row.user {
                self.name(org, user);
            }
            self.attempts.push((org, row));
        }
    }

    /// What an order at a sequence takes away of the attempts before it.
    pub(super) fn erase_attempts(&mut self, sequence: u64, order: &Order) {
        self.attempts.retain(|(org, row)| {
            let before = row.sequence <= sequence || order.blocks();
            !(before && order.covers_message(org, row.user.as_deref()))
        });
    }
}
