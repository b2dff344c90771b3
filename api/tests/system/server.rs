//! The real binary on a temporary folder.
//!
//! ```text
//! systole().set("SYSTOLE_...", "...").start() -> Server
//! Server::{kill, terminate} -> Stopped -> start() -> Server, on the same data
//! ```
//!
//! A server never outlives its test: it is killed when it is dropped. When a test
//! fails, the end of the server's log is printed.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::client::Caller;

const BINARY: &str = env!("CARGO_BIN_EXE_systole");
const OPERATOR_KEY: &str = "avk_system-tests-operator";
/// How long a start may take, recovery included.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Lines of the log that a failed test prints.
const LOG_LINES: usize = 60;
/// How often an exit is looked for.
const EXIT_POLL: Duration = Duration::from_millis(5);

/// A line that shows although the test passes.
pub(crate) fn announce(line: &str) {
    // `eprintln!` would be captured with the rest of a passing test's output.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A server with default settings, not started yet.
pub(crate) fn systole() -> Stopped {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let log = folder.path().join("server.log");
    Stopped(Setup { _folder: folder, data_dir, log, settings: BTreeMap::new() })
}

/// What outlives a process.
struct Setup {
    /// Removed with the last server on it.
    _folder: TempDir,
    data_dir: PathBuf,
    log: PathBuf,
    settings: BTreeMap<&'static str, String>,
}

/// A server that does not run.
pub(crate) struct Stopped(Setup);

/// A running server.
pub(crate) struct Server {
    /// `None` only while it is being stopped.
    setup: Option<Setup>,
    child: Child,
    address: SocketAddr,
}

impl Stopped {
    pub(crate) fn set(mut self, variable: &'static str, value: impl ToString) -> Stopped {
        self.0.settings.insert(variable, value.to_string());
        self
    }

    /// Puts the data somewhere else than into a folder of its own.
    pub(crate) fn data_dir(mut self, data_dir: PathBuf) -> Stopped {
        self.0.data_dir = data_dir;
        self
    }

    /// Starts it and waits until it accepts.
    pub(crate) fn start(self) -> Server {
        let mut child = self.spawn();
        let stdout = child.stdout.take().unwrap();
        // In its place at once, so that it is killed if it does not come up.
        let mut server = Server { setup: Some(self.0), child, address: ([0, 0, 0, 0], 0).into() };
        server.address = address_of(stdout);
        server
    }

    /// Starts it and kills it while it recovers.
    pub(crate) fn start_and_kill_after(&self, moment: Duration) {
        let mut child = self.spawn();
        thread::sleep(moment);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn spawn(&self) -> Child {
        let log = OpenOptions::new().create(true).append(true).open(&self.0.log).unwrap();
        command(&self.0.data_dir, &["serve", "--listen", "127.0.0.1:0"])
            .env("SYSTOLE_ADMIN_KEY", OPERATOR_KEY)
            .envs(&self.0.settings)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap()
    }
}

impl Server {
    /// The operator, of the organisation `default`.
    pub(crate) fn operator(&self) -> Caller {
        self.caller(OPERATOR_KEY)
    }

    pub(crate) fn caller(&self, key: &str) -> Caller {
        Caller { address: self.address, key: key.to_owned() }
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.setup.as_ref().unwrap().data_dir
    }

    /// Runs `systole key create` beside the server and returns the key.
    pub(crate) fn create_key(&self, flags: &[&str]) -> String {
        let arguments = [&["key", "create"], flags].concat();
        let output = command(self.data_dir(), &arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Brings everything acknowledged into files.
    pub(crate) fn flush(&self) {
        self.operator().post("/api/v1/admin/flush", b"").expect(200);
    }

    pub(crate) fn compact(&self) {
        self.operator().post("/api/v1/admin/compact", b"").expect(200);
    }

    /// A figure of `GET /metrics`.
    pub(crate) fn figure(&self, name: &str) -> f64 {
        let text = String::from_utf8(self.operator().get("/metrics").expect(200).body).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::trim);
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// Ends it as a power cut would end its process.
    pub(crate) fn kill(mut self) -> Stopped {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        Stopped(self.setup.take().unwrap())
    }

    /// Tells it to drain.
    pub(crate) fn terminate(&self) {
        let kill = format!("kill -TERM {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(mut self, patience: Duration) -> (ExitStatus, Stopped) {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, Stopped(self.setup.take().unwrap()));
            }
            assert!(Instant::now() < deadline, "the server still runs after {patience:?}");
            thread::sleep(EXIT_POLL);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let (true, Some(setup)) = (thread::panicking(), &self.setup) {
            eprintln!("the end of the server's log:\n{}", tail(&setup.log));
        }
    }
}

/// The binary with none of the settings of whoever runs the tests.
fn command(data_dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SYSTOLE_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).arg("--data-dir").arg(data_dir);
    command
}

/// Reads the address from the one line a server prints when it accepts.
fn address_of(stdout: ChildStdout) -> SocketAddr {
    let (sender, line) = mpsc::channel();
    // Ends with the line, or with the process.
    thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        let _ = sender.send(read.map(|_| line));
    });
    let line = line.recv_timeout(START_TIMEOUT).expect("the server did not come up").unwrap();
    let address = line.trim().strip_prefix("listening on http://");
    address.unwrap_or_else(|| panic!("the server did not come up: {line:?}")).parse().unwrap()
}

fn tail(log: &Path) -> String {
    let Ok(file) = File::open(log) else { return "no log".to_owned() };
    let lines: Vec<String> = BufReader::new(file).lines().map_while(Result::ok).collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// Every data file below a folder.
pub(crate) fn data_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}
