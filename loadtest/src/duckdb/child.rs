//! A Python process with DuckDB in it: asked and answering by lines of JSON.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

const PROGRAM: &str = include_str!("child.py");

/// A running DuckDB. Ends when it is dropped.
#[derive(Debug)]
pub(super) struct DuckDb {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub(super) version: String,
}

/// Why DuckDB does not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DuckDbError {
    /// No such program.
    #[error("{python:?} does not start; name another with --python")]
    Python {
        /// What was started.
        python: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The package is not installed there.
    #[error("{python} has no package duckdb ({text}): pip install duckdb")]
    Missing {
        /// What was started.
        python: String,
        /// What it said.
        text: String,
    },
    /// The process ended, or said something else than JSON.
    #[error("DuckDB's process stopped answering")]
    Process(#[source] io::Error),
    /// DuckDB refused.
    #[error("DuckDB: {text}")]
    Sql {
        /// What it said.
        text: String,
    },
}

impl DuckDb {
    /// Starts one over the files of an organisation.
    pub(super) fn start(python: &str, files: &Path, org: &str, threads: u32) -> Result<Self, DuckDbError> {
        let mut child = Command::new(python)
            .args(["-c", PROGRAM])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|source| DuckDbError::Python { python: python.to_owned(), source })?;
        let questions = child.stdin.take().expect("it was asked for");
        let answers = BufReader::new(child.stdout.take().expect("it was asked for"));
        let mut duckdb = Self { child, questions, answers, version: String::new() };
        let glob = files.join("**/*.parquet");
        let settings = json!({ "glob": glob.to_string_lossy(), "org": org, "threads": threads });
        let answer = duckdb.exchange(&settings)?;
        if let Some(text) = answer["missing"].as_str() {
            return Err(DuckDbError::Missing { python: python.to_owned(), text: text.to_owned() });
        }
        duckdb.version = answer["ready"].as_str().unwrap_or("?").to_owned();
        Ok(duckdb)
    }

    /// Asks, and how long DuckDB took, by its own clock.
    pub(super) fn ask(&mut self, sql: &str) -> Result<(Value, Duration), DuckDbError> {
        let mut answer = self.exchange(&json!({ "sql": sql }))?;
        let seconds = answer["seconds"].as_f64().unwrap_or_default();
        Ok((answer["rows"].take(), Duration::from_secs_f64(seconds)))
    }

    fn exchange(&mut self, question: &Value) -> Result<Value, DuckDbError> {
        writeln!(self.questions, "{question}").map_err(DuckDbError::Process)?;
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(DuckDbError::Process)?;
        let answer: Value = serde_json::from_str(&line).map_err(|e| DuckDbError::Process(e.into()))?;
        match answer["error"].as_str() {
            Some(text) => Err(DuckDbError::Sql { text: text.to_owned() }),
            None => Ok(answer),
        }
    }
}

impl Drop for DuckDb {
    fn drop(&mut self) {
        // Nobody is left to be told that it is gone already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
