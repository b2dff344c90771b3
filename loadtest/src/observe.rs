//! What a server says of itself (`/metrics`) and what the system says of its
//! process (`/proc`). A figure that a server does not tell is absent, not zero.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::client::{ClientError, Server};
use crate::report::{error_excerpt, grouped};

const MIB: f64 = 1_048_576.0;

/// Metrics by name, those of one name with different labels added up.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exposition(BTreeMap<String, f64>);

/// What the store holds and what it wrote for it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoreFigures {
    /// Parquet files.
    pub files: Option<f64>,
    /// Their bytes.
    pub file_bytes: Option<f64>,
    /// Those of them that are not in their periods yet.
    pub runs: Option<f64>,
    /// The most files of one partition.
    pub partition_files: Option<f64>,
    /// Bytes that flushes wrote.
    pub flushed_bytes: Option<f64>,
    /// Bytes that compaction wrote.
    pub compaction_written_bytes: Option<f64>,
    /// Bytes written for a byte flushed.
    pub write_amplification: Option<f64>,
}

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Resident now.
    pub resident: u64,
    /// The most that ever was.
    pub peak: u64,
}

/// Why a server could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObserveError {
    /// No answer.
    #[error("{path} was not answered")]
    Client {
        /// What was asked.
        path: &'static str,
        /// What went wrong.
        #[source]
        source: ClientError,
    },
    /// Another answer than 2xx.
    #[error("{path} was answered {status}: {text}")]
    Refused {
        /// What was asked.
        path: &'static str,
        /// The status.
        status: u16,
        /// The beginning of the answer.
        text: String,
    },
}

impl Exposition {
    /// Asks the server.
    pub async fn fetch(server: &Server) -> Result<Self, ObserveError> {
        let path = "/metrics";
        let client = |source| ObserveError::Client { path, source };
        let mut connection = server.connect().await.map_err(client)?;
        let answer = connection.get(path).await.map_err(client)?;
        if !answer.status.is_success() {
            let (status, text) = (answer.status.as_u16(), error_excerpt(&answer.body));
            return Err(ObserveError::Refused { path, status, text });
        }
        Ok(Self::parse(&String::from_utf8_lossy(&answer.body)))
    }

    /// Reads the text format; lines that are none of it are passed over.
    pub fn parse(text: &str) -> Self {
        let mut metrics = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let (Some(name), Ok(value)) = (series.split('{').next(), value.parse::<f64>()) else { continue };
            *metrics.entry(name.trim().to_owned()).or_default() += value;
        }
        Self(metrics)
    }

    /// A metric by its name, for counters with or without `_total`.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).or_else(|| self.0.get(&format!("{name}_total"))).copied()
    }

    /// What it says of the store.
    pub fn store(&self) -> StoreFigures {
        let (flushed, compacted) =
            (self.get("systole_flushed_bytes"), self.get("systole_compaction_written_bytes"));
        let worked_out = flushed.zip(compacted).filter(|(flushed, _)| *flushed > 0.0);
        let worked_out = worked_out.map(|(flushed, compacted)| (flushed + compacted) / flushed);
        StoreFigures {
            files: self.get("systole_files"),
            file_bytes: self.get("systole_file_bytes"),
            runs: self.get("systole_runs"),
            partition_files: self.get("systole_partition_files"),
            flushed_bytes: flushed,
            compaction_written_bytes: compacted,
            write_amplification: self.get("systole_write_amplification").or(worked_out),
        }
    }
}

impl StoreFigures {
    /// Bytes of files for each of `samples`.
    pub fn bytes_a_sample(&self, samples: u64) -> Option<f64> {
        self.file_bytes.filter(|_| samples > 0).map(|bytes| bytes / samples as f64)
    }

    /// One JSON object; what is not told is null.
    pub fn to_json(&self) -> Value {
        json!({
            "files": self.files,
            "file_bytes": self.file_bytes,
            "runs": self.runs,
            "partition_files": self.partition_files,
            "flushed_bytes": self.flushed_bytes,
            "compaction_written_bytes": self.compaction_written_bytes,
            "write_amplification": self.write_amplification,
        })
    }
}

impl fmt::Display for StoreFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |number: Option<f64>| number.map_or("?".to_owned(), |n| grouped(n as u64));
        let mib = |bytes: Option<f64>| bytes.map_or("?".to_owned(), |bytes| format!("{:.1}", bytes / MIB));
        write!(f, "{} files of {} MiB", whole(self.files), mib(self.file_bytes))?;
        for (count, what) in [(self.runs, "of them runs"), (self.partition_files, "the most of a partition")]
        {
            if let Some(count) = count {
                write!(f, ", {} {what}", grouped(count as u64))?;
            }
        }
        write!(
            f,
            "; flushed {} MiB, compaction wrote {} MiB, write amplification {}",
            mib(self.flushed_bytes),
            mib(self.compaction_written_bytes),
            self.write_amplification.map_or("?".to_owned(), |factor| format!("{factor:.2}"))
        )
    }
}

impl Memory {
    /// Of the process with this id; `None` where there is none or no `/proc`.
    pub fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
    }

    fn parse(status: &str) -> Option<Self> {
        let kib = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field))?;
            line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
        };
        Some(Self { resident: kib("VmRSS:")? * 1_024, peak: kib("VmHWM:")? * 1_024 })
    }

    /// One JSON object, in bytes.
    pub fn to_json(&self) -> Value {
        json!({ "resident_bytes": self.resident, "peak_bytes": self.peak })
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / MIB;
        write!(f, "{:.0} MiB resident, {:.0} MiB at most", mib(self.resident), mib(self.peak))
    }
}

/// Brings what the server buffers into files; needs an operator's key.
pub async fn flush(server: &Server) -> Result<(), ObserveError> {
    command(server, "/api/v1/admin/flush").await
}

/// Flushes, brings everything into its periods and waits for it; needs an operator's key.
pub async fn compact(server: &Server) -> Result<(), ObserveError> {
    command(server, "/api/v1/admin/compact").await
}

async fn command(server: &Server, path: &'static str) -> Result<(), ObserveError> {
    let client = |source| ObserveError::Client { path, source };
    let mut connection = server.connect().await.map_err(client)?;
    let answer = connection.post(path, Bytes::new()).await.map_err(client)?;
    if answer.status.is_success() {
        return Ok(());
    }
    let (status, text) = (answer.status.as_u16(), error_excerpt(&answer.body));
    Err(ObserveError::Refused { path, status, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP systole_files Parquet files\n# TYPE systole_files gauge\nsystole_files 12\n\
        systole_file_bytes 2097152\nsystole_flushed_bytes_total 1000\n\
        systole_compaction_written_bytes_total{level=\"1\"} 1500\n\
        systole_compaction_written_bytes_total{level=\"2\"} 500\nbroken\n";

    #[test]
    fn figures_are_read_and_labels_added_up() {
        let store = Exposition::parse(TEXT).store();
        assert_eq!(store.files, Some(12.0));
        assert_eq!(store.compaction_written_bytes, Some(2_000.0));
        assert_eq!(store.write_amplification, Some(3.0));
        assert_eq!(store.bytes_a_sample(1_048_576), Some(2.0));
        assert!(store.to_string().starts_with("12 files of 2.0 MiB; flushed"), "{store}");
    }

    #[test]
    fn what_a_server_does_not_tell_is_absent() {
        let store = Exposition::parse("systole_files 3\n").store();
        assert_eq!((store.file_bytes, store.write_amplification), (None, None));
        assert!(store.to_string().contains("write amplification ?"), "{store}");
        let told = Exposition::parse("systole_write_amplification 4.5\n").store();
        assert_eq!(told.write_amplification, Some(4.5));
    }

    #[test]
    fn the_memory_of_this_process_is_known_and_of_none_is_not() {
        let memory = Memory::of(std::process::id()).expect("a process");
        assert!(memory.peak >= memory.resident && memory.resident > 100_000);
        assert_eq!(Memory::of(u32::MAX), None);
        assert_eq!(Memory::parse("VmRSS: x kB"), None);
    }
}
