//! A server's binary as a process of its own, on a data folder of its own: started,
//! killed by SIGKILL, started again on what it left.
//!
//! ```text
//! Binary::start -> Running -> kill -> Binary::start -> ..
//! ```
//!
//! A process never outlives its [`Running`]. What it says on stderr goes to a file.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

const LISTENING: &str = "listening on ";

/// What is started, and how.
#[derive(Debug, Clone)]
pub struct Binary {
    /// The server's program.
    pub path: PathBuf,
    /// Where its data lie.
    pub data_dir: PathBuf,
    /// Where its stderr goes, appended.
    pub log: PathBuf,
    /// Its environment, besides this process's own without `SYSTOLE_*`.
    pub settings: Vec<(String, String)>,
}

/// A server that accepts.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// Kept open, so that a line that it prints later does not end it.
    _stdout: BufReader<ChildStdout>,
    url: String,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// It cannot be started.
    #[error("{} does not start", path.display())]
    Start {
        /// The program, or its log.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It ended, or said something else.
    #[error("{} said {text:?} instead of where it listens; see {}", path.display(), log.display())]
    Silent {
        /// The program.
        path: PathBuf,
        /// Its first line on stdout.
        text: String,
        /// What it said on stderr.
        log: PathBuf,
    },
}

impl Binary {
    /// Starts it on a free port of 127.0.0.1 and waits until it accepts.
    pub fn start(&self) -> Result<Running, ProcessError> {
        let mut child = self.spawn()?;
        let mut stdout = BufReader::new(child.stdout.take().expect("it was asked for"));
        let mut line = String::new();
        let read = stdout.read_line(&mut line);
        let url = line.trim().strip_prefix(LISTENING).map(str::to_owned);
        // In its place at once, so that it is killed if it did not come up.
        let mut running = Running { child, _stdout: stdout, url: String::new() };
        match (read, url) {
            (Ok(_), Some(url)) => {
                running.url = url;
                Ok(running)
            }
            _ => Err(ProcessError::Silent { path: self.path.clone(), text: line, log: self.log.clone() }),
        }
    }

    /// Starts it and kills it after `moment`, most likely while it recovers.
    pub fn start_and_kill_after(&self, moment: Duration) -> Result<(), ProcessError> {
        let mut child = self.spawn()?;
        sleep(moment);
        end(&mut child);
        Ok(())
    }

    /// Runs `check` on its data, which no server may have open; what it found.
    pub fn check(&self) -> Result<Result<(), String>, ProcessError> {
        let mut command = self.command(&["check"]);
        let output = command.output().map_err(|source| self.refused(source))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(if output.status.success() { Ok(()) } else { Err(text) })
    }

    fn spawn(&self) -> Result<Child, ProcessError> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log: File = log.map_err(|source| ProcessError::Start { path: self.log.clone(), source })?;
        let mut command = self.command(&["serve", "--listen", "127.0.0.1:0"]);
        command.stdout(Stdio::piped()).stderr(log).spawn().map_err(|source| self.refused(source))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.args(arguments).arg("--data-dir").arg(&self.data_dir).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SYSTOLE_") {
                command.env_remove(name);
            }
        }
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
    }

    fn refused(&self, source: io::Error) -> ProcessError {
        ProcessError::Start { path: self.path.clone(), source }
    }
}

impl Running {
    /// Its address as `http://HOST:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Ends it by SIGKILL and waits until it is gone.
    pub fn kill(mut self) {
        end(&mut self.child);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    // One that is gone already is what was wanted.
    child.kill().ok();
    child.wait().ok();
}
