//! Every organisation's registry.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use parking_lot::Mutex;
use systole_storage::{Catalog, CatalogError};

use super::own::DefinitionFault;
use super::{Metric, Registry};

/// Most metrics of its own that an organisation has; one more is refused.
pub const OWN_METRICS_MAX: usize = 1000;

/// Why a metric was not added.
#[derive(Debug, thiserror::Error)]
pub enum AddMetricError {
    /// The definition is wrong.
    #[error("the definition is wrong")]
    Definition(#[from] DefinitionFault),
    /// The key is, or can be taken for, a name of a built-in metric.
    #[error("{key} is a name of the built-in metric {builtin}")]
    BuiltIn {
        /// What was asked for.
        key: String,
        /// Whose name it is.
        builtin: String,
    },
    /// The organisation has defined the key otherwise.
    #[error("{key} is defined otherwise; a metric cannot be changed once it is there")]
    Defined {
        /// What was asked for.
        key: String,
    },
    /// The organisation has as many as it may.
    #[error("an organisation has at most {OWN_METRICS_MAX} metrics of its own")]
    TooMany,
    /// The catalog failed.
    #[error("the catalog failed")]
    Catalog(#[from] CatalogError),
}

/// What adding a metric did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It is new.
    New,
    /// The same definition was there.
    Already,
}

/// The registries of all organisations. Reads take no lock.
#[derive(Debug)]
pub struct Registries {
    /// What an organisation without metrics of its own has.
    builtin: Arc<Registry>,
    /// Those of the others; replaced as a whole.
    own: ArcSwap<HashMap<String, Arc<Registry>>>,
    /// Held while a metric is added, over the catalog's transaction.
    adding: Mutex<()>,
}

impl Registries {
    /// The registries as the catalog has them.
    ///
    /// # Errors
    /// [`CatalogError`], also for a definition that cannot be read.
    pub fn load(catalog: &Catalog) -> Result<Registries, CatalogError> {
        let builtin = Registry::builtin();
        let mut own: HashMap<String, Registry> = HashMap::new();
        for record in catalog.metrics()? {
            let metric = Metric::of_record(&record).ok_or(CatalogError::Malformed { what: "metric" })?;
            if let Some(alike) = builtin.builtin.alike(&metric.key) {
                let (org, metric, builtin) = (&record.org, &metric.key, &alike.key);
                tracing::warn!(
                    org,
                    metric,
                    builtin,
                    "an organisation's metric keeps a name that is built in now"
                );
            }
            own.entry(record.org).or_insert_with(|| builtin.clone()).own.add_own(metric);
        }
        let own = own.into_iter().map(|(org, registry)| (org, Arc::new(registry))).collect();
        Ok(Registries {
            builtin: Arc::new(builtin),
            own: ArcSwap::from_pointee(own),
            adding: Mutex::default(),
        })
    }

    /// What an organisation can name now.
    #[must_use]
    pub fn of(&self, org: &str) -> Arc<Registry> {
        let own = self.own.load();
        if own.is_empty() { self.builtin.clone() } else { own.get(org).unwrap_or(&self.builtin).clone() }
    }

    /// Every metric that any organisation has of its own.
    pub fn for_each_own(&self, mut each: impl FnMut(&Metric)) {
        self.own.load().values().flat_map(|registry| registry.own_metrics()).for_each(&mut each);
    }

    /// Adds a metric to an organisation; it is durable and can be named when this
    /// returns. `announce` is called before it can be named. Blocks.
    ///
    /// # Errors
    /// [`AddMetricError`]; then nothing was added.
    pub fn add(
        &self,
        catalog: &Catalog,
        org: &str,
        metric: Metric,
        announce: impl FnOnce(&Metric),
    ) -> Result<Added, AddMetricError> {
        metric.check_own()?;
        let _adding = self.adding.lock();
        let known = self.of(org);
        if let Some(id) = known.own.id(&metric.key) {
            let same = *known.metric(id) == metric;
            return if same { Ok(Added::Already) } else { Err(AddMetricError::Defined { key: metric.key }) };
        }
        if let Some(alike) = self.builtin.builtin.alike(&metric.key) {
            return Err(AddMetricError::BuiltIn { key: metric.key, builtin: alike.key.clone() });
        }
        if known.own_metrics().len() >= OWN_METRICS_MAX {
            return Err(AddMetricError::TooMany);
        }
        catalog.put_metric(&metric.to_record(org, now_ms()))?;
        announce(&metric);
        let mut registry = Registry::clone(&known);
        registry.own.add_own(metric);
        let mut own = HashMap::clone(&self.own.load());
        own.insert(org.to_owned(), Arc::new(registry));
        self.own.store(Arc::new(own));
        Ok(Added::New)
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
