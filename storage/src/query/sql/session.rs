//! What a statement can name: the tables of one organisation, and functions of their
//! columns. There is nothing else to name: no other catalog, no `information_schema`, no
//! table functions, no file formats, no object stores, no settings.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::error::Result;
use datafusion::execution::SessionStateDefaults;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::ScalarUDF;
use datafusion::prelude::SessionConfig;

use super::attempts::OrgAttempts;
use super::date_trunc::DateTrunc;
use super::latest::OrgLatest;
use super::neighbours::GroupNeighbours;
use super::samples::OrgSamples;
use crate::query::footers::Footers;
use crate::query::metadata::CheckedReaders;
use crate::store::Store;

/// Names that nobody has to write; `systole.public.samples` is `samples`.
const CATALOG: &str = "systole";
const SCHEMA: &str = "public";

/// The tables, for texts that name another.
pub(super) const TABLES: &str = "samples, latest and attempts";

/// Functions that are left out: those that give another answer each time or tell about
/// the server, and those whose result can be any number of times longer than what they
/// are given, which no memory limit would see.
const FUNCTIONS_REFUSED: [&str; 11] = [
    "input_file_name",
    "lpad",
    "overlay",
    "random",
    "regexp_replace",
    "repeat",
    "replace",
    "rpad",
    "space",
    "uuid",
    "version",
];

/// What is the same for all statements.
pub(super) fn base(environment: Arc<RuntimeEnv>, threads: usize) -> SessionState {
    let mut config = SessionConfig::new()
        .with_target_partitions(threads)
        .with_default_catalog_and_schema(CATALOG, SCHEMA)
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(false);
    config.options_mut().execution.parquet.pushdown_filters = false;
    SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(environment)
        .with_expr_planners(SessionStateDefaults::default_expr_planners())
        .with_scalar_functions(functions())
        .with_aggregate_functions(SessionStateDefaults::default_aggregate_functions())
        .with_window_functions(SessionStateDefaults::default_window_functions())
        .with_physical_optimizer_rule(Arc::new(GroupNeighbours))
        .build()
}

fn functions() -> Vec<Arc<ScalarUDF>> {
    let refused = |name: &str| FUNCTIONS_REFUSED.contains(&name);
    let all = SessionStateDefaults::default_scalar_functions().into_iter();
    let allowed = all.filter(|it| !refused(it.name()) && !it.aliases().iter().any(|alias| refused(alias)));
    allowed.map(|it| if it.name() == "date_trunc" { DateTrunc::over(it) } else { it }).collect()
}

/// A session that sees one organisation.
pub(super) fn of_org(
    base: &SessionState,
    org: &str,
    store: &Arc<Store>,
    readers: &Arc<CheckedReaders>,
    footers: &Arc<Footers>,
) -> SessionState {
    let tables = OrgTables {
        samples: Arc::new(OrgSamples::new(org, store.snapshot(), readers.clone())),
        latest: Arc::new(OrgLatest::new(org, store.clone(), readers.clone(), footers.clone())),
        attempts: Arc::new(OrgAttempts::new(org, store.snapshot())),
    };
    let catalogs = Arc::new(OrgCatalogs(Arc::new(OrgCatalog(Arc::new(tables)))));
    let mut state = SessionStateBuilder::new_from_existing(base.clone()).with_catalog_list(catalogs).build();
    // One moment for every `now()` of the statement.
    state.mark_start_execution();
    state
}

/// Everything that can stand behind FROM. A further table is a field and a line here.
#[derive(Debug)]
struct OrgTables {
    samples: Arc<dyn TableProvider>,
    latest: Arc<dyn TableProvider>,
    attempts: Arc<dyn TableProvider>,
}

impl OrgTables {
    fn find(&self, name: &str) -> Option<&Arc<dyn TableProvider>> {
        match name {
            "samples" => Some(&self.samples),
            "latest" => Some(&self.latest),
            "attempts" => Some(&self.attempts),
            _ => None,
        }
    }
}

#[async_trait]
impl SchemaProvider for OrgTables {
    fn table_names(&self) -> Vec<String> {
        ["samples", "latest", "attempts"].map(str::to_owned).to_vec()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        Ok(self.find(name).cloned())
    }

    fn table_exist(&self, name: &str) -> bool {
        self.find(name).is_some()
    }
}

#[derive(Debug)]
struct OrgCatalog(Arc<OrgTables>);

impl CatalogProvider for OrgCatalog {
    fn schema_names(&self) -> Vec<String> {
        vec![SCHEMA.to_owned()]
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        (name == SCHEMA).then(|| self.0.clone() as Arc<dyn SchemaProvider>)
    }
}

#[derive(Debug)]
struct OrgCatalogs(Arc<OrgCatalog>);

impl CatalogProviderList for OrgCatalogs {
    /// Nothing is ever added.
    fn register_catalog(&self, _: String, _: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![CATALOG.to_owned()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        (name == CATALOG).then(|| self.0.clone() as Arc<dyn CatalogProvider>)
    }
}
