//! How far a feed came, in a small JSON file: everything before a body's number is
//! acknowledged. A feed that ended early begins there again; what was acknowledged
//! beyond it is sent a second time, which is harmless.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Bodies between two writings of the file: about a second's worth.
const BODIES_BETWEEN: u64 = 2_000;

/// A progress file.
#[derive(Debug)]
pub struct Progress {
    path: PathBuf,
    /// What is fed; a file of something else is refused.
    of: Value,
    bodies_done: u64,
    saved: u64,
}

/// What is wrong with a progress file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgressError {
    /// It cannot be read.
    #[error("{path:?} cannot be read")]
    Read {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It cannot be written.
    #[error("{path:?} cannot be written")]
    Write {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is not one.
    #[error("{path:?} is not a progress file")]
    Format {
        /// Where.
        path: PathBuf,
    },
    /// It belongs to other settings.
    #[error("{path:?} is of another feed ({found}, not {wanted}); remove it to begin anew")]
    Other {
        /// Where.
        path: PathBuf,
        /// What it is of.
        found: Value,
        /// What is fed.
        wanted: Value,
    },
}

impl Progress {
    /// Reads the file of a feed of `of`, or begins at 0 where there is none.
    pub fn open(path: &Path, of: Value) -> Result<Self, ProgressError> {
        let fresh = Self { path: path.to_owned(), of, bodies_done: 0, saved: 0 };
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(fresh),
            Err(source) => return Err(ProgressError::Read { path: path.to_owned(), source }),
        };
        let format = || ProgressError::Format { path: path.to_owned() };
        let value: Value = serde_json::from_slice(&text).map_err(|_| format())?;
        let done = value["bodies_done"].as_u64().ok_or_else(format)?;
        if value["of"] != fresh.of {
            let (path, found) = (path.to_owned(), value["of"].clone());
            return Err(ProgressError::Other { path, found, wanted: fresh.of });
        }
        Ok(Self { bodies_done: done, saved: done, ..fresh })
    }

    /// Bodies that were acknowledged, without a gap from the first on.
    pub fn bodies_done(&self) -> u64 {
        self.bodies_done
    }

    /// Keeps the number, sooner or later.
    pub(super) fn note(&mut self, done: u64) -> Result<(), ProgressError> {
        if done < self.saved + BODIES_BETWEEN { Ok(()) } else { self.save(done) }
    }

    /// Keeps the number now: the file is replaced whole.
    pub(super) fn save(&mut self, done: u64) -> Result<(), ProgressError> {
        let failed = |source| ProgressError::Write { path: self.path.clone(), source };
        let text = json!({ "of": self.of, "bodies_done": done }).to_string();
        let beside = self.path.with_extension("new");
        fs::write(&beside, text).map_err(failed)?;
        fs::rename(&beside, &self.path).map_err(failed)?;
        (self.bodies_done, self.saved) = (done, done);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_back_and_one_of_another_feed_is_refused() {
        let path = std::env::temp_dir().join(format!("loadtest-progress-{}.json", std::process::id()));
        let mut progress = Progress::open(&path, json!({ "users": 3 })).expect("no file yet");
        assert_eq!(progress.bodies_done(), 0);
        progress.note(10).expect("nothing is written");
        assert!(!path.exists());
        progress.save(4_000).expect("a writable folder");
        let again = Progress::open(&path, json!({ "users": 3 })).expect("the file");
        assert_eq!(again.bodies_done(), 4_000);
        let other = Progress::open(&path, json!({ "users": 4 }));
        assert!(matches!(other, Err(ProgressError::Other { .. })));
        fs::write(&path, "[]").expect("a writable folder");
        assert!(matches!(Progress::open(&path, json!({})), Err(ProgressError::Format { .. })));
        fs::remove_file(&path).expect("the file is there");
    }
}
