//! `loadtest compare-duckdb`: the same SQL by the server and by DuckDB.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use loadtest::duckdb::{DuckDbSettings, RATIO_MAX, compare};
use loadtest::observe::compact;

use super::{Outcome, Target, runtime, write_json};

#[derive(Debug, Args)]
pub(crate) struct CompareDuckdb {
    #[command(flatten)]
    target: Target,
    /// The server's data folder; DuckDB reads samples/ in it.
    #[arg(long)]
    data_dir: PathBuf,
    /// A Python with the package duckdb (pip install duckdb).
    #[arg(long, default_value = "python3")]
    python: String,
    /// The organisation of the key.
    #[arg(long, default_value = "default")]
    org: String,
    /// How often each question is timed, after once to warm up.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    rounds: u16,
    /// Threads of DuckDB; 0 is one a core.
    #[arg(long, default_value_t = 0)]
    duckdb_threads: u32,
    /// Does not compact before (which needs an operator's key): right only if nothing
    /// was written since the last time.
    #[arg(long)]
    no_compact: bool,
    /// Exits with 1 too if a wanted ratio is missed.
    #[arg(long)]
    strict: bool,
    /// Writes the report to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl CompareDuckdb {
    pub(crate) fn run(&self) -> Outcome {
        runtime(1)?.block_on(self.drive())
    }

    async fn drive(&self) -> Outcome {
        let server = self.target.server()?;
        if !self.no_compact {
            compact(&server).await?;
        }
        let settings = DuckDbSettings {
            python: &self.python,
            data_dir: &self.data_dir,
            org: &self.org,
            threads: self.duckdb_threads,
            rounds: self.rounds.into(),
        };
        let report = compare(&settings, &server).await?;
        print!("{report}");
        write_json(self.json.as_deref(), &report.to_json())?;
        let mut ratios = report.compared.iter().filter_map(|compared| compared.ratios());
        let kept = ratios.all(|[_, middle, _]| middle <= RATIO_MAX);
        let good = report.is_sound() && (!self.strict || kept);
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
