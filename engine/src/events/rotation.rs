//! Rotation of an endpoint's secret.
//!
//! The new key signs at once; the one before goes on signing beside it for the grace
//! (see `systole_dispatch::signer` for how each dialect shows both), over restarts too.
//! The grace ends by the clock. At most two keys sign: a rotation during a grace ends
//! that grace, and the key that was current begins a grace of its own. A rotation to the
//! key that is current changes nothing, so repeating one is harmless.

use systole_dispatch::signer::Secret;
use systole_storage::{EndpointChange, PreviousSecret};

use super::settings::StoredSettings as _;
use super::webhooks::{WebhookError, Webhooks, now_ms};

/// Longest grace in seconds: a week, within which any release reaches its receivers.
pub const GRACE_SECONDS_MAX: u32 = 604_800;
/// A grace unless another is asked for: a day.
pub const GRACE_SECONDS_DEFAULT: u32 = 86_400;

impl Webhooks {
    /// Gives an endpoint a new key, `brought` or made here, and returns it.
    ///
    /// # Errors
    /// [`WebhookError`]; then nothing changed.
    pub fn rotate_secret(
        &self,
        org: &str,
        id: &str,
        grace_seconds: u32,
        brought: Option<&str>,
    ) -> Result<String, WebhookError> {
        let mut endpoints = self.endpoints.lock();
        let record = endpoints.get_mut(id).filter(|record| record.org == org).ok_or(WebhookError::Unknown)?;
        let settings = record.settings()?;
        let current = self.keyring.open(id, &record.secret)?;
        let secret = match brought {
            Some(text) => Secret::parse_for(text, settings.dialect, settings.signature)?,
            None => Secret::generate_for(settings.signature)?,
        };
        if secret.expose() == current {
            return Ok(current);
        }
        let now = now_ms();
        let previous = (grace_seconds > 0).then(|| PreviousSecret {
            secret: record.secret.clone(),
            until: now.saturating_add(i64::from(grace_seconds) * 1000),
        });
        let mut changed = record.clone();
        changed.secret = self.keyring.keep(id, secret.expose())?;
        changed.previous = previous;
        changed.updated_at = now;
        let config = self.config_of(&changed, settings)?;
        self.catalog.forget_previous_secrets(now)?;
        self.catalog.change_endpoint(
            id,
            &EndpointChange {
                settings: &changed.settings,
                secret: &changed.secret,
                previous: changed.previous.as_ref(),
                updated_at: now,
                restart: None,
            },
        )?;
        *record = changed;
        if let Some(lane) = self.dispatcher.lane(id) {
            lane.reconfigure(config);
            self.dispatcher.changed(&lane);
        }
        Ok(secret.expose().to_owned())
    }
}
