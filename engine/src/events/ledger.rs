//! The dispatcher's ledger: positions, cursors and exceptions in the catalog.

use std::sync::Arc;

use systole_dispatch::endpoint::EndpointSettings;
use systole_dispatch::event::Cursor;
use systole_dispatch::ledger::{Changes, Exception, Ledger, LedgerFault};
use systole_dispatch::{EventKind, Place};
use systole_storage::{Catalog, CursorRecord, ExceptionRecord, LaneChanges, Sequence};

use super::Subscribed;
use super::webhooks::{Endpoints, now_ms};

/// Saves what lanes must not forget.
#[derive(Debug)]
pub(super) struct CatalogLedger {
    pub(super) catalog: Arc<Catalog>,
    pub(super) subscribed: Arc<Subscribed>,
    /// Locked while an endpoint is being made or changed: meanwhile the floor does
    /// not rise.
    pub(super) endpoints: Endpoints,
}

impl Ledger for CatalogLedger {
    fn save(&self, changes: &Changes) -> Result<(), LedgerFault> {
        if !self.subscribed.is_any() {
            // Nobody has an endpoint, so nothing depends on where we are.
            return Ok(());
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
        };
        self.catalog.save_lanes(&records).map_err(|error| LedgerFault(Box::new(error)))?;
        if let Some(_idle) = self.endpoints.try_lock() {
            self.subscribed.set_floor(changes.floor.min(changes.routed).min(classified.0));
        }
        Ok(())
    }

    fn switch_off(&self, endpoint: &str) -> Result<(), LedgerFault> {
        let mut endpoints = self.endpoints.lock();
        let Some(record) = endpoints.get_mut(endpoint) else { return Ok(()) };
        let settings: Result<EndpointSettings, _> = serde_json::from_str(&record.settings);
        let mut settings = settings.map_err(|error| LedgerFault(Box::new(error)))?;
        settings.active = false;
        let text = serde_json::to_string(&settings).map_err(|error| LedgerFault(Box::new(error)))?;
        let now = now_ms();
        let secret = record.secret.as_str();
        let updated = self.catalog.update_endpoint(endpoint, &text, secret, now, Some(record.start));
        updated.map_err(|error| LedgerFault(Box::new(error)))?;
        record.settings = text;
        record.updated_at = now;
        Ok(())
    }
}

pub(super) fn cursor_of(record: CursorRecord) -> Cursor {
    Cursor { sequence: record.sequence, ordinal: record.ordinal }
}

fn cursor_record(cursor: Cursor) -> CursorRecord {
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
    }
}
