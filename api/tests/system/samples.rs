//! What the server answers when it is asked for samples.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::client::Caller;

/// All samples of the tests lie in it.
const WINDOW: &str = "start=2016-01-01T00:00:00Z&end=2017-01-01T00:00:00Z";

/// One sample of a series.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(crate) struct Sample {
    pub(crate) value: f64,
    pub(crate) recorded_at: String,
    pub(crate) source: String,
    pub(crate) source_device_id: Option<String>,
}

/// `GET /metric/{metric}`.
#[derive(Debug, Deserialize)]
pub(crate) struct Series {
    pub(crate) metric: String,
    pub(crate) unit: String,
    pub(crate) data_points: Vec<Sample>,
    pub(crate) next_cursor: Option<String>,
}

/// The newest sample of a metric, of `GET /latest`.
#[derive(Debug, Deserialize, PartialEq)]
pub(crate) struct Latest {
    pub(crate) value: f64,
    pub(crate) unit: String,
    pub(crate) recorded_at: String,
}

#[derive(Deserialize)]
struct LatestAnswer {
    latest: BTreeMap<String, Latest>,
}

impl Caller {
    /// A user's samples of a metric, oldest first.
    pub(crate) fn series(&self, user: &str, metric: &str) -> Series {
        self.get(&series_path(user, metric, "&order=asc")).expect(200).json()
    }

    /// The same by pages of `limit`.
    pub(crate) fn series_by_pages(&self, user: &str, metric: &str, order: &str, limit: usize) -> Vec<Sample> {
        let path = series_path(user, metric, &format!("&order={order}&limit={limit}"));
        let mut samples = Vec::new();
        let mut page: Series = self.get(&path).expect(200).json();
        loop {
            assert!(page.data_points.len() <= limit);
            samples.extend(page.data_points);
            let Some(cursor) = page.next_cursor else { return samples };
            page = self.get(&format!("{path}&cursor={cursor}")).expect(200).json();
        }
    }

    pub(crate) fn latest(&self, user: &str) -> BTreeMap<String, Latest> {
        let answer: LatestAnswer =
            self.get(&format!("/api/v1/wearables/latest?user_id={user}")).expect(200).json();
        answer.latest
    }
}

/// Where a user's samples are asked for; `more` are further parameters.
pub(crate) fn series_path(user: &str, metric: &str, more: &str) -> String {
    format!("/api/v1/wearables/metric/{metric}?user_id={user}&{WINDOW}{more}")
}
