//! From what the catalog keeps of endpoints to lanes: settings and secrets, read, checked
//! and prepared.

use std::sync::Arc;

use hashbrown::HashMap;
use systole_dispatch::endpoint::EndpointSettings;
use systole_dispatch::event::Cursor;
use systole_dispatch::lane::{Lane, LaneConfig};
use systole_dispatch::ledger::LaneRecord;
use systole_dispatch::signer::{Secret, Signer};
use systole_dispatch::target::{Target, Targets};
use systole_storage::{Catalog, CatalogError, EndpointRecord};

use super::keyring::Keyring;
use super::ledger::{backlog_of, cursor_of, exception_of, health_of};
use super::webhooks::WebhookError;

/// Reads what the catalog keeps as JSON.
pub(super) trait StoredSettings {
    fn settings(&self) -> Result<EndpointSettings, serde_json::Error>;
}

impl StoredSettings for EndpointRecord {
    fn settings(&self) -> Result<EndpointSettings, serde_json::Error> {
        serde_json::from_str(&self.settings)
    }
}

/// What the catalog keeps of each lane.
fn lane_records(catalog: &Catalog) -> Result<HashMap<String, LaneRecord>, CatalogError> {
    let mut lanes: HashMap<String, LaneRecord> = HashMap::new();
    for (id, cursor) in catalog.lane_cursors()? {
        lanes.entry(id).or_default().row = Some(cursor_of(cursor));
    }
    for record in catalog.lane_health()? {
        let health = health_of(&record);
        lanes.entry(record.endpoint).or_default().health = health;
    }
    for record in catalog.exceptions()? {
        if let Some(exception) = exception_of(&record) {
            lanes.entry(record.endpoint).or_default().exceptions.push(exception);
        }
    }
    for record in catalog.backlogs()? {
        if let Some(backlog) = backlog_of(&record) {
            lanes.entry(record.endpoint).or_default().backlogs.push(backlog);
        }
    }
    Ok(lanes)
}

/// The lanes of the last run, each with what is kept of it. One whose url may not be called
/// any more is there as well: its deliveries fail, wait and are seen as those to any
/// receiver that is down, until the url or the rules are others.
pub(super) fn restore(
    catalog: &Catalog,
    targets: &Targets,
    keyring: &Keyring,
    records: &[EndpointRecord],
) -> Result<Vec<Arc<Lane>>, CatalogError> {
    let mut kept = lane_records(catalog)?;
    let mut lanes = Vec::with_capacity(records.len());
    for record in records {
        let lane = kept.remove(&record.id).unwrap_or_default();
        let lane = LaneRecord { start: Cursor::behind(record.start.0), ..lane };
        let config = record
            .settings()
            .map_err(WebhookError::from)
            .and_then(|settings| config_of(keyring, record, settings));
        match config {
            Ok(config) => {
                if config.settings.active
                    && let Err(fault) = targets.check_url(&config.settings.url)
                {
                    let error = crate::flusher::chain(&fault);
                    tracing::warn!(
                        endpoint = record.id,
                        error,
                        "endpoint may not be called, deliveries fail"
                    );
                }
                let org = record.org.as_str().into();
                lanes.push(Arc::new(Lane::restored(record.id.as_str(), org, config, lane)));
            }
            Err(error) => {
                let error = crate::flusher::chain(&error);
                tracing::error!(endpoint = record.id, error, "endpoint cannot be used and gets nothing");
            }
        }
    }
    Ok(lanes)
}

/// What a lane needs of a record, whose settings these are. Whether their url may be called
/// is for the caller to ask, and for each dial.
pub(super) fn config_of(
    keyring: &Keyring,
    record: &EndpointRecord,
    settings: EndpointSettings,
) -> Result<LaneConfig, WebhookError> {
    let settings = keyring.open_headers(&record.id, settings)?;
    let secret = |stored: &str| -> Result<Secret, WebhookError> {
        let text = keyring.open(&record.id, stored)?;
        Ok(Secret::parse_for(&text, settings.dialect, settings.signature)?)
    };
    let previous = match &record.previous {
        None => None,
        Some(previous) => Some((secret(&previous.secret)?, unix_seconds(previous.until))),
    };
    let secret = secret(&record.secret)?;
    config(settings, &secret, previous, record.number)
}

/// Checks settings, but not where their url leads, and prepares what signs. `previous` is
/// the secret that this one takes over from, and until when in Unix seconds.
pub(super) fn config(
    settings: EndpointSettings,
    secret: &Secret,
    previous: Option<(Secret, u64)>,
    number: u32,
) -> Result<LaneConfig, WebhookError> {
    settings.check()?;
    let dialect = settings.dialect;
    Ok(LaneConfig {
        target: Target::unchecked(&settings.url)?,
        signer: match previous {
            None => Signer::new(dialect, secret)?,
            Some((previous, until)) => Signer::taking_over(dialect, secret, &previous, until)?,
        },
        headers: settings.header_map()?,
        number,
        settings,
    })
}

/// The first whole second at or behind a time in milliseconds.
fn unix_seconds(ms: i64) -> u64 {
    u64::try_from(ms).unwrap_or(0).div_ceil(1000)
}
