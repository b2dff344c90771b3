//! The same SQL by a server and by DuckDB over the server's own files, in turn, on
//! the same machine: what an embedded engine that was made for it needs, and what a
//! server needs that also hides, authorises and answers over HTTP.
//!
//! The text is one for both. It keeps to what both dialects mean alike: `CAST(.. AS
//! DATE)` rather than `date_trunc` (whose results have different types), ordinals in
//! `GROUP BY` and `ORDER BY`, `count(*)`. DuckDB sees a view `samples` of one
//! organisation; the server's table is one by construction. DuckDB is timed by its
//! own clock inside its process, the server from the request's first byte to the
//! answer's last.
//!
//! Answers must be equal: same rows in the same order, numbers to one part in 10^9,
//! since sums of floating numbers depend on their order.

mod child;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::Instant;

use child::DuckDb;
pub use child::DuckDbError;

use crate::client::{ClientError, Connection, Server};
use crate::report::error_excerpt;

/// How often the server may take DuckDB's time.
pub const RATIO_MAX: f64 = 1.3;
/// Relative difference up to which numbers are equal.
const TOLERANCE: f64 = 1e-9;

/// A question to both.
#[derive(Debug, Clone, Copy)]
pub struct Sql {
    /// How it is called in reports.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// The questions of issue 4.
pub static QUESTIONS: [Sql; 2] = [
    Sql {
        name: "daily mean of heart rate over all users",
        text: "SELECT CAST(recorded_at AS DATE) AS day, avg(value) AS mean, count(*) AS samples \
               FROM samples WHERE metric = 'heart_rate' GROUP BY 1 ORDER BY 1",
    },
    Sql {
        name: "the 20 users with the most steps",
        text: "SELECT user_id, sum(value) AS steps FROM samples WHERE metric = 'steps' \
               GROUP BY user_id ORDER BY steps DESC, user_id LIMIT 20",
    },
];

/// What to compare.
#[derive(Debug, Clone)]
pub struct DuckDbSettings<'a> {
    /// The Python that has the package.
    pub python: &'a str,
    /// The server's data folder.
    pub data_dir: &'a Path,
    /// The organisation of the key.
    pub org: &'a str,
    /// Threads of DuckDB, 0 for one a core.
    pub threads: u32,
    /// How often each is asked, after once to warm up.
    pub rounds: usize,
}

/// The figures of one question.
#[derive(Debug, Clone)]
pub struct Compared {
    /// How it is called.
    pub name: &'static str,
    /// Its rows.
    pub rows: usize,
    /// Time of the server and of DuckDB, by rounds.
    pub times: Vec<(Duration, Duration)>,
    /// Where the answers differ.
    pub difference: Option<String>,
}

/// Everything.
#[derive(Debug, Clone)]
pub struct DuckDbReport {
    /// DuckDB's version.
    pub version: String,
    /// By question.
    pub compared: Vec<Compared>,
}

/// Why there is no comparison.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// DuckDB does not answer.
    #[error("DuckDB was not asked")]
    DuckDb(#[from] DuckDbError),
    /// The server does not answer.
    #[error("the server was not asked")]
    Client(#[source] ClientError),
    /// The server refused.
    #[error("the server answered {status} to {name:?}: {text}")]
    Refused {
        /// The question.
        name: &'static str,
        /// The status.
        status: u16,
        /// The beginning of the answer.
        text: String,
    },
    /// The answer is not JSON.
    #[error("the server's answer to {name:?} is not JSON")]
    Shape {
        /// The question.
        name: &'static str,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}

/// Asks both each question in turn.
pub async fn compare(settings: &DuckDbSettings<'_>, server: &Server) -> Result<DuckDbReport, CompareError> {
    let files = settings.data_dir.join("samples");
    let mut duckdb = DuckDb::start(settings.python, &files, settings.org, settings.threads)?;
    let mut connection = server.connect().await.map_err(CompareError::Client)?;
    let mut compared = Vec::new();
    for sql in &QUESTIONS {
        // The first answers warm both up and are compared; the others are timed.
        let (ours, _) = ask(&mut connection, sql).await?;
        let (theirs, _) = duckdb.ask(sql.text)?;
        let difference = difference(&ours, &theirs);
        let rows = ours.as_array().map_or(0, Vec::len);
        let mut times = Vec::new();
        for _ in 0..settings.rounds {
            let (_, ours) = ask(&mut connection, sql).await?;
            let (_, theirs) = duckdb.ask(sql.text)?;
            times.push((ours, theirs));
        }
        compared.push(Compared { name: sql.name, rows, times, difference });
    }
    Ok(DuckDbReport { version: duckdb.version.clone(), compared })
}

/// The server's rows, and how long it took.
async fn ask(connection: &mut Connection, sql: &Sql) -> Result<(Value, Duration), CompareError> {
    let body = Bytes::from(json!({ "sql": sql.text }).to_string());
    let since = Instant::now();
    let answer = connection.post("/api/v1/query", body).await.map_err(CompareError::Client)?;
    let elapsed = since.elapsed();
    if !answer.status.is_success() {
        let (status, text) = (answer.status.as_u16(), error_excerpt(&answer.body));
        return Err(CompareError::Refused { name: sql.name, status, text });
    }
    let value: Result<Value, _> = serde_json::from_slice(&answer.body);
    let mut value = value.map_err(|source| CompareError::Shape { name: sql.name, source })?;
    Ok((value["rows"].take(), elapsed))
}

/// Where two answers differ first.
fn difference(ours: &Value, theirs: &Value) -> Option<String> {
    let (Some(ours), Some(theirs)) = (ours.as_array(), theirs.as_array()) else {
        return Some("an answer without rows".to_owned());
    };
    if ours.len() != theirs.len() || ours.is_empty() {
        return Some(format!("{} rows, DuckDB has {}", ours.len(), theirs.len()));
    }
    let mut rows = ours.iter().zip(theirs).enumerate();
    let (row, (ours, theirs)) = rows.find(|(_, (ours, theirs))| !equal(ours, theirs))?;
    Some(format!("row {row}: {ours}, DuckDB has {theirs}"))
}

fn equal(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Array(ours), Value::Array(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| equal(ours, theirs))
        }
        (Value::Number(ours), Value::Number(theirs)) => {
            let [ours, theirs] = [ours, theirs].map(|number| number.as_f64().unwrap_or(f64::NAN));
            (ours - theirs).abs() <= TOLERANCE * ours.abs().max(theirs.abs())
        }
        // A day may be printed as the moment at which it begins.
        (Value::String(ours), Value::String(theirs)) => day(ours) == day(theirs),
        _ => ours == theirs,
    }
}

fn day(text: &str) -> &str {
    let midnight = ["T00:00:00Z", "T00:00:00", " 00:00:00"];
    midnight.iter().find_map(|end| text.strip_suffix(end)).unwrap_or(text)
}

impl Compared {
    /// Least, middle and greatest of server by DuckDB, over the rounds.
    pub fn ratios(&self) -> Option<[f64; 3]> {
        let ratio =
            |(ours, theirs): &(Duration, Duration)| ours.as_secs_f64() / theirs.as_secs_f64().max(1e-9);
        let mut ratios: Vec<f64> = self.times.iter().map(ratio).collect();
        ratios.sort_by(f64::total_cmp);
        Some([*ratios.first()?, ratios[ratios.len() / 2], *ratios.last()?])
    }

    fn to_json(&self) -> Value {
        let [ours, theirs]: [Vec<f64>; 2] = [
            self.times.iter().map(|(ours, _)| ours.as_secs_f64()).collect(),
            self.times.iter().map(|(_, theirs)| theirs.as_secs_f64()).collect(),
        ];
        json!({
            "name": self.name,
            "rows": self.rows,
            "server_seconds": ours,
            "duckdb_seconds": theirs,
            "ratio_min_median_max": self.ratios(),
            "difference": self.difference,
        })
    }
}

impl DuckDbReport {
    /// Whether all answers were equal.
    pub fn is_sound(&self) -> bool {
        self.compared.iter().all(|compared| compared.difference.is_none())
    }

    /// One JSON object; times in seconds.
    pub fn to_json(&self) -> Value {
        let compared: Vec<Value> = self.compared.iter().map(Compared::to_json).collect();
        json!({ "duckdb": self.version, "sound": self.is_sound(), "compared": compared })
    }
}

impl fmt::Display for DuckDbReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "sql       server against DuckDB {}, in turn", self.version)?;
        for compared in &self.compared {
            writeln!(f, "question  {}, {} rows", compared.name, compared.rows)?;
            for (ours, theirs) in &compared.times {
                let millis = |time: &Duration| time.as_secs_f64() * 1_000.0;
                writeln!(f, "          {:>9.1} ms, DuckDB {:>9.1} ms", millis(ours), millis(theirs))?;
            }
            if let Some([least, middle, most]) = compared.ratios() {
                let mark = if middle <= RATIO_MAX { "kept" } else { "MISSED" };
                writeln!(
                    f,
                    "ratio     min {least:.2}, median {middle:.2}, max {most:.2}; wanted <= {RATIO_MAX} {mark}"
                )?;
            }
            if let Some(difference) = &compared.difference {
                writeln!(f, "fault     the answers differ: {difference}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_equal_up_to_rounding_and_the_way_a_day_is_printed() {
        let ours = json!([["2026-06-01T00:00:00Z", 62.000000000001, 10], ["2026-06-02", 61.5, 7]]);
        let theirs = json!([["2026-06-01", 62.0, 10], ["2026-06-02", 61.5, 7.0]]);
        assert_eq!(difference(&ours, &theirs), None);
    }

    #[test]
    fn other_rows_values_and_empty_answers_are_differences() {
        let one = json!([["u", 1.0]]);
        for other in [json!([["u", 1.1]]), json!([["v", 1.0]]), json!([]), json!(null), json!([["u"]])] {
            assert!(difference(&one, &other).is_some(), "{other}");
        }
        assert!(difference(&json!([]), &json!([])).is_some(), "nothing was compared");
    }

    #[test]
    fn the_ratio_is_the_middle_one_of_the_rounds() {
        let seconds = Duration::from_secs;
        let times = vec![(seconds(3), seconds(1)), (seconds(1), seconds(1)), (seconds(4), seconds(2))];
        let compared = Compared { name: "x", rows: 1, times, difference: None };
        assert_eq!(compared.ratios(), Some([1.0, 2.0, 3.0]));
        let report = DuckDbReport { version: "1".to_owned(), compared: vec![compared] };
        assert!(report.to_string().contains("median 2.00, max 3.00; wanted <= 1.3 MISSED"));
    }

    #[test]
    fn a_python_that_is_not_there_is_named() {
        let missing = DuckDb::start("no-such-python", Path::new("/nowhere"), "default", 0);
        assert!(matches!(missing, Err(DuckDbError::Python { .. })));
    }
}
