//! The dispatcher's ledger: positions, cursors and exceptions in the catalog.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use systole_dispatch::endpoint::EndpointSettings;
use systole_dispatch::event::{Cursor, Member};
use systole_dispatch::ledger::{
    Backlog, BacklogKind, Changes, Exception, GivenUp, Health, Ledger, LedgerFault,
};
use systole_dispatch::notice::{DisabledReason, EndpointDisabled};
use systole_dispatch::{EventKind, Place, offer_core};
use systole_storage::journal::Log;
use systole_storage::{
    BacklogRecord, Catalog, CatalogError, CursorRecord, DisabledRecord, ExceptionRecord, GivenUpRecord,
    HealthRecord, LaneChanges, LaneRanges, Sequence,
};

use super::Subscribed;
use super::webhooks::{Endpoints, KnownEndpoints};

/// How long a save offers its core: others wait for the catalog meanwhile.
const OFFERED_FOR: Duration = Duration::from_millis(20);

/// Saves what lanes must not forget.
#[derive(Debug)]
pub(super) struct CatalogLedger {
    pub(super) catalog: Arc<Catalog>,
    pub(super) subscribed: Arc<Subscribed>,
    /// Knows which frames are gone.
    pub(super) log: Arc<Log>,
    /// Locked while an endpoint is being made or changed: meanwhile the floor does
    /// not rise. Who has it may wait for a save to end, so a save does not wait for it.
    pub(super) endpoints: Endpoints,
    /// Of frames up to this what was given up is forgotten; `None` until the first save that
    /// forgets. Held for a look or a change, by the saver.
    pub(super) forgotten: Mutex<Option<Sequence>>,
}

impl Ledger for CatalogLedger {
    fn save(&self, changes: &Changes) -> Result<bool, LedgerFault> {
        if !self.subscribed.is_any() {
            // Nobody has an endpoint, so nothing depends on where we are.
            return Ok(true);
        }
        let classified = self.subscribed.classified();
        let records = LaneChanges {
            routed: Some(Sequence(changes.routed)),
            classified: Some(classified),
            wiped: changes.wiped.clone(),
            cursors: changes
                .cursors
                .iter()
                .map(|(id, cursor)| (id.clone(), cursor_record(*cursor)))
                .collect(),
            caught_up: changes.caught_up.clone(),
            failed: changes.failed.iter().map(|(id, failed)| exception_record(id, failed)).collect(),
            settled: changes
                .settled
                .iter()
                .map(|(id, place)| (id.clone(), place.sequence, place.group, place.chunk, place.kind as u8))
                .collect(),
            ranges: self.ranges(changes),
        };
        let begun = Instant::now();
        let mut between_rows = || {
            if begun.elapsed() < OFFERED_FOR {
                offer_core();
            }
        };
        self.catalog.save_lanes_row_by_row(&records, &mut between_rows).map_err(catalog_fault)?;
        if let Some(removed) = records.ranges.removed {
            *self.forgotten.lock() = Some(removed);
        }
        let Some(_idle) = self.endpoints.try_lock() else { return Ok(false) };
        self.subscribed.set_floor(changes.floor.min(changes.routed).min(classified.0));
        Ok(true)
    }

    fn switch_off(
        &self,
        disabled: &EndpointDisabled,
        is_ending: &dyn Fn() -> bool,
        ended: &dyn Fn(),
    ) -> Result<bool, LedgerFault> {
        // Who switches or changes an endpoint holds this until its lane knows.
        let mut endpoints = self.endpoints.lock();
        let is_stored = is_ending() && self.store_off(&mut endpoints, disabled)?;
        ended();
        Ok(is_stored)
    }

    fn given_up(&self, endpoint: &str, sequences: RangeInclusive<u64>) -> Result<Vec<GivenUp>, LedgerFault> {
        let (first, last) = (Sequence(*sequences.start()), Sequence(*sequences.end()));
        let records = self.catalog.given_up(endpoint, first, last);
        let records = records.map_err(catalog_fault)?;
        Ok(records.iter().map(given_up_of).collect())
    }
}

impl CatalogLedger {
    /// Stores that an endpoint is off; false if there is no such endpoint.
    fn store_off(
        &self,
        endpoints: &mut KnownEndpoints,
        disabled: &EndpointDisabled,
    ) -> Result<bool, LedgerFault> {
        let Some(record) = endpoints.get_mut(&disabled.endpoint) else { return Ok(false) };
        let settings: Result<EndpointSettings, _> = serde_json::from_str(&record.settings);
        let mut settings = settings.map_err(|error| LedgerFault::Failed(Box::new(error)))?;
        settings.active = false;
        let text = serde_json::to_string(&settings).map_err(|error| LedgerFault::Failed(Box::new(error)))?;
        let stored = self.catalog.disable_endpoint(&text, record.start, &disabled_record(disabled));
        let is_stored = stored.map_err(catalog_fault)?;
        record.settings = text;
        record.updated_at = disabled.at_ms;
        Ok(is_stored)
    }

    fn ranges(&self, changes: &Changes) -> LaneRanges {
        let given_up = |(id, range): &(String, GivenUp)| GivenUpRecord {
            endpoint: id.clone(),
            from: cursor_record(range.from),
            through: cursor_record(range.through),
            at: range.at_ms,
            announced: range.quiet,
        };
        LaneRanges {
            health: changes.health.iter().map(|(id, health)| health_record(id, *health)).collect(),
            backlogs: changes.backlogs.iter().map(|(id, range)| backlog_record(id, range)).collect(),
            finished: changes.finished.clone(),
            given_up: changes.given_up.iter().map(given_up).collect(),
            removed: newly_removed(&changes.given_up, self.log.removed(), *self.forgotten.lock()),
        }
    }
}

/// Up to where frames are gone, if a save is to forget what was given up of them: it gives
/// something up itself, which is seldom enough, and often enough for that not to pile up, and
/// since the one before there are more such frames, or it gives up some of them.
fn newly_removed(
    given_up: &[(String, GivenUp)],
    removed: Sequence,
    forgotten: Option<Sequence>,
) -> Option<Sequence> {
    let is_gone = |(_, range): &(String, GivenUp)| range.through.sequence <= removed.0;
    let moved = forgotten.is_none_or(|forgotten| forgotten < removed);
    (!given_up.is_empty() && (moved || given_up.iter().any(is_gone))).then_some(removed)
}

/// A full disk is told as it is.
fn catalog_fault(error: CatalogError) -> LedgerFault {
    if error.is_full() {
        LedgerFault::DiskFull(Box::new(error))
    } else {
        LedgerFault::Failed(Box::new(error))
    }
}

fn health_record(endpoint: &str, health: Health) -> HealthRecord {
    let Health { failing_since_ms, failed_ms, paused_at_ms } = health;
    HealthRecord {
        endpoint: endpoint.to_owned(),
        failing_since: failing_since_ms,
        failed_at: failed_ms,
        paused_at: paused_at_ms,
    }
}

/// How a lane fares, as it keeps it.
pub(super) fn health_of(record: &HealthRecord) -> Health {
    Health {
        failing_since_ms: record.failing_since,
        failed_ms: record.failed_at,
        paused_at_ms: record.paused_at,
    }
}

fn backlog_record(endpoint: &str, backlog: &Backlog) -> BacklogRecord {
    BacklogRecord {
        endpoint: endpoint.to_owned(),
        number: backlog.number,
        kind: backlog.kind as u8,
        asked_from: cursor_record(backlog.asked_from),
        from: cursor_record(backlog.from),
        through: cursor_record(backlog.through),
    }
}

/// A range as the lane keeps it; `None` for a kind of a later program.
pub(super) fn backlog_of(record: &BacklogRecord) -> Option<Backlog> {
    Some(Backlog {
        number: record.number,
        kind: BacklogKind::from_number(record.kind)?,
        asked_from: cursor_of(record.asked_from),
        from: cursor_of(record.from),
        through: cursor_of(record.through),
    })
}

/// What was given up, as the lane keeps it.
pub(super) fn given_up_of(record: &GivenUpRecord) -> GivenUp {
    GivenUp {
        from: cursor_of(record.from),
        through: cursor_of(record.through),
        at_ms: record.at,
        quiet: record.announced,
    }
}

fn disabled_record(disabled: &EndpointDisabled) -> DisabledRecord {
    DisabledRecord {
        endpoint: disabled.endpoint.to_string(),
        reason: disabled.reason.as_str().to_owned(),
        failing_since: disabled.failing_since_ms,
        at: disabled.at_ms,
    }
}

/// An endpoint of an organisation that was switched off, as it is announced; `None` for a
/// reason of a later program.
pub(super) fn disabled_of(record: &DisabledRecord, org: &str) -> Option<EndpointDisabled> {
    Some(EndpointDisabled {
        endpoint: record.endpoint.as_str().into(),
        org: org.into(),
        reason: DisabledReason::from_name(&record.reason)?,
        failing_since_ms: record.failing_since,
        at_ms: record.at,
    })
}

pub(super) fn cursor_of(record: CursorRecord) -> Cursor {
    Cursor { sequence: record.sequence, ordinal: record.ordinal }
}

pub(super) fn cursor_record(cursor: Cursor) -> CursorRecord {
    CursorRecord { sequence: cursor.sequence, ordinal: cursor.ordinal }
}

/// An exception as the lane keeps it; `None` for a kind of a later program.
pub(super) fn exception_of(record: &ExceptionRecord) -> Option<Exception> {
    let place = Place {
        sequence: record.sequence,
        group: record.group,
        chunk: record.chunk,
        kind: EventKind::from_number(record.kind)?,
    };
    Some(Exception {
        place,
        decided_at: record.decided_at,
        key: record.key,
        attempts: record.attempts,
        due_at_ms: record.due_at,
        ordinal: record.ordinal,
        quiet: record.quiet,
        members: members_of(&record.members)?.into(),
    })
}

/// Bytes of a member in the catalog, little-endian: sequence 8, group 4, chunk 2,
/// kind 1, ordinal 4, decided_at 8, key 8, joined 1, cut 1.
const MEMBER_BYTES: usize = 37;

fn member_bytes(members: &[Member]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(members.len() * MEMBER_BYTES);
    for member in members {
        let Place { sequence, group, chunk, kind } = member.place;
        bytes.extend_from_slice(&sequence.to_le_bytes());
        bytes.extend_from_slice(&group.to_le_bytes());
        bytes.extend_from_slice(&chunk.to_le_bytes());
        bytes.push(kind as u8);
        bytes.extend_from_slice(&member.ordinal.to_le_bytes());
        bytes.extend_from_slice(&member.decided_at.to_le_bytes());
        bytes.extend_from_slice(&member.key.to_le_bytes());
        bytes.extend_from_slice(&[u8::from(member.joined), member.cut]);
    }
    bytes
}

/// The members as a lane keeps them; `None` for what a later program wrote.
fn members_of(bytes: &[u8]) -> Option<Vec<Member>> {
    let (members, []) = bytes.as_chunks::<MEMBER_BYTES>() else { return None };
    members.iter().map(member_of).collect()
}

fn member_of(bytes: &[u8; MEMBER_BYTES]) -> Option<Member> {
    let (sequence, rest) = bytes.split_first_chunk()?;
    let (group, rest) = rest.split_first_chunk()?;
    let (chunk, rest) = rest.split_first_chunk()?;
    let ([kind], rest) = rest.split_first_chunk()?;
    let (ordinal, rest) = rest.split_first_chunk()?;
    let (decided_at, rest) = rest.split_first_chunk()?;
    let (key, rest) = rest.split_first_chunk()?;
    let [joined, cut] = *rest else { return None };
    Some(Member {
        place: Place {
            sequence: u64::from_le_bytes(*sequence),
            group: u32::from_le_bytes(*group),
            chunk: u16::from_le_bytes(*chunk),
            kind: EventKind::from_number(*kind)?,
        },
        ordinal: u32::from_le_bytes(*ordinal),
        decided_at: u64::from_le_bytes(*decided_at),
        key: u64::from_le_bytes(*key),
        joined: joined != 0,
        cut,
    })
}

fn exception_record(endpoint: &str, exception: &Exception) -> ExceptionRecord {
    ExceptionRecord {
        endpoint: endpoint.to_owned(),
        sequence: exception.place.sequence,
        group: exception.place.group,
        chunk: exception.place.chunk,
        kind: exception.place.kind as u8,
        decided_at: exception.decided_at,
        key: exception.key,
        attempts: exception.attempts,
        due_at: exception.due_at_ms,
        ordinal: exception.ordinal,
        quiet: exception.quiet,
        members: member_bytes(&exception.members),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_off_comes_back_from_the_catalog_as_it_was() {
        for (reason, failing_since_ms) in [(DisabledReason::Failing, Some(7)), (DisabledReason::Gone, None)] {
            let (endpoint, org) = ("ep_1".into(), "acme".into());
            let disabled = EndpointDisabled { endpoint, org, reason, failing_since_ms, at_ms: 9 };
            let record = disabled_record(&disabled);
            assert_eq!(disabled_of(&record, "acme"), Some(disabled));
            assert_eq!(disabled_of(&DisabledRecord { reason: "bored".to_owned(), ..record }, "acme"), None);
        }
    }

    #[test]
    fn what_was_given_up_is_forgotten_only_when_more_is_gone() {
        let given_up = |through: u64| {
            let cursor = |sequence| Cursor { sequence, ordinal: 0 };
            let range = GivenUp { from: cursor(1), through: cursor(through), at_ms: 1, quiet: false };
            ("ep_1".to_owned(), range)
        };
        let (gone, there) = (given_up(10), given_up(11));
        let cases: [(&[_], _, _); 6] = [
            (&[], None, None),
            (&[], Some(9), None),
            (std::slice::from_ref(&there), None, Some(10)),
            (std::slice::from_ref(&there), Some(9), Some(10)),
            (std::slice::from_ref(&there), Some(10), None),
            (&[there.clone(), gone], Some(10), Some(10)),
        ];
        for (given_up, forgotten, expected) in cases {
            let found = newly_removed(given_up, Sequence(10), forgotten.map(Sequence));
            assert_eq!(found, expected.map(Sequence), "{given_up:?} {forgotten:?}");
        }
    }

    #[test]
    fn how_a_lane_fares_comes_back_from_the_catalog_as_it_was() {
        let health = Health { failing_since_ms: Some(7), failed_ms: Some(8), paused_at_ms: Some(9) };
        assert_eq!(health_of(&health_record("ep_1", health)), health);
    }

    #[test]
    fn members_come_back_from_the_catalog_as_they_were() {
        let member = |sequence, kind, joined, cut| Member {
            place: Place { sequence, group: 1 << 20, chunk: 2047, kind },
            ordinal: 9,
            decided_at: sequence + 1,
            key: u64::MAX - sequence,
            joined,
            cut,
        };
        let members = [
            member(1, EventKind::Created, false, 7),
            member(u64::MAX >> 1, EventKind::Updated, true, 0),
            member(3, EventKind::Published, false, 0),
        ];
        let bytes = member_bytes(&members);
        assert_eq!(members_of(&bytes).as_deref(), Some(members.as_slice()));
        assert_eq!(members_of(&[]), Some(Vec::new()));
        assert_eq!(members_of(&bytes[1..]), None);
        let mut unknown = bytes;
        unknown[14] = 9;
        assert_eq!(members_of(&unknown), None);
    }
}
