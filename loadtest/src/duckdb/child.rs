//! A Python process with DuckDB in it: asked and answering by lines of JSON.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::report::error_excerpt;

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
    /// The process cannot be spoken with.
    #[error("DuckDB's process cannot be spoken with")]
    Process(#[source] io::Error),
    /// The process ended, having said why on stderr.
    #[error("DuckDB's process ended instead of answering")]
    Ended,
    /// The process said something else than JSON.
    #[error("DuckDB's process answered {text:?}, which is not JSON")]
    Answer {
        /// The beginning of what it said.
        text: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
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
        Self::start_by(Command::new(python), python, files, org, threads)
    }

    /// The same by a command that starts a Python.
    fn start_by(
        mut command: Command,
        python: &str,
        files: &Path,
        org: &str,
        threads: u32,
    ) -> Result<Self, DuckDbError> {
        let mut child = command
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
        if self.answers.read_line(&mut line).map_err(DuckDbError::Process)? == 0 {
            return Err(DuckDbError::Ended);
        }
        let answer: Result<Value, _> = serde_json::from_str(&line);
        let answer =
            answer.map_err(|source| DuckDbError::Answer { text: error_excerpt(line.as_bytes()), source })?;
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

#[cfg(test)]
mod tests {
    use std::{env, fs, process};

    use super::*;

    /// A package that writes to stdout as it pleases, at each step.
    const LOUD: &str = r#"
import os
__version__ = "loud"
Error = RuntimeError
os.write(1, b"imported\n")

class Connection:
    def execute(self, sql):
        os.write(1, b"\r 76% done")
        print("of", sql)
        self.sql = sql
        if "refuse" in sql:
            raise RuntimeError("two\nlines")
        if "leave" in sql:
            os._exit(0)
        return self

    def fetchall(self):
        return [("a\nb", 1.5, None), (float("nan"), 2, float("inf"))]

def connect():
    return Connection()
"#;

    fn loud(name: &str) -> DuckDb {
        let folder = env::temp_dir().join(format!("loadtest-{name}-{}", process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("duckdb.py"), LOUD).expect("a file");
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", &folder).stderr(Stdio::null());
        let started = DuckDb::start_by(command, "python3", Path::new("/nowhere"), "default", 1);
        fs::remove_dir_all(&folder).expect("it is there");
        started.expect("a process that answers")
    }

    #[test]
    fn answers_stay_whole_whatever_the_package_writes_to_stdout() {
        let mut duckdb = loud("whole");
        assert_eq!(duckdb.version, "loud");
        for _ in 0..3 {
            let (rows, _) = duckdb.ask("SELECT 1").expect("an answer");
            assert_eq!(rows, json!([["a\nb", 1.5, null], ["nan", 2, "inf"]]));
        }
    }

    #[test]
    fn a_refusal_and_the_end_of_the_process_are_told_apart() {
        let mut duckdb = loud("refusal");
        let refused = duckdb.ask("refuse");
        assert!(matches!(refused, Err(DuckDbError::Sql { text }) if text == "two\nlines"));
        assert!(duckdb.ask("SELECT 1").is_ok(), "it goes on after a refusal");
        assert!(matches!(duckdb.ask("leave"), Err(DuckDbError::Ended)));
    }
}
