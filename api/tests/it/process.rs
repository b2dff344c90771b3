//! The binary: exit codes, what it prints, keys beside a running server, SIGTERM.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use crate::client::Request;

const ADMIN: &str = "avk_admin-of-the-process";

fn systole() -> Command {
    without_settings(Command::new(env!("CARGO_BIN_EXE_systole")))
}

/// The command with none of the settings of whoever runs the tests.
fn without_settings(mut command: Command) -> Command {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SYSTOLE_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// Arguments, variables, and the name that stands in the one line.
type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);

/// A server process, killed with its test.
struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
    address: std::net::SocketAddr,
}

impl Running {
    fn start(dir: &Path, admin: bool) -> Running {
        let mut command = systole();
        if admin {
            command.env("SYSTOLE_ADMIN_KEY", ADMIN);
        }
        Running::start_with(command, dir)
    }

    /// Starts it by a command that still lacks the arguments.
    fn start_with(mut command: Command, dir: &Path) -> Running {
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(dir);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").unwrap().parse().unwrap();
        Running { child, out, address }
    }

    /// Sends SIGTERM; returns exit code, the rest of stdout, and stderr.
    fn terminate(mut self) -> (Option<i32>, String, String) {
        let kill = format!("kill -TERM {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        let (mut out, mut err) = (String::new(), String::new());
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        self.out.read_to_string(&mut out).unwrap();
        (self.child.wait().unwrap().code(), out, err)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    systole().args(arguments).envs(environment.iter().copied()).output().unwrap()
}

#[test]
fn a_wrong_setting_ends_the_start_with_one_line_and_64() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("systole.toml");
    std::fs::write(&config, "[ingest]\npoint_max = 3\n").unwrap();
    let (config, data) = (config.to_str().unwrap(), dir.path().to_str().unwrap());
    let missing = [("SYSTOLE_TLS_CERT", "/nowhere.pem"), ("SYSTOLE_TLS_KEY", "/nowhere.pem")];
    let cases: [Case<'_>; 10] = [
        (&["serve", "--listen", "nonsense"], &[], "--listen"),
        (&["serve", "--config", config], &[], "ingest.point_max"),
        (&["serve", "--config", "/nowhere.toml"], &[], "/nowhere.toml"),
        (&["serve"], &[("SYSTOLE_ADMIN_KEY", "avk_short")], "SYSTOLE_ADMIN_KEY"),
        (&["serve"], &[("SYSTOLE_ADMIN_KEY", "a-long-key-without-prefix")], "SYSTOLE_ADMIN_KEY"),
        (&["serve"], &[("SYSTOLE_LOG_LEVEL", "loud")], "SYSTOLE_LOG_LEVEL"),
        (&["serve", "--data-dir", data], &missing, "tls.cert"),
        (&["serve"], &[("SYSTOLE_DISPATCH_MASTER_KEY", "hunter2")], "SYSTOLE_DISPATCH_MASTER_KEY"),
        (&["key", "create", "--data-dir", data, "--org", "Big Clinic"], &[], "--org"),
        (&["key", "create", "--data-dir", data, "--scope", "read,everything"], &[], "--scope"),
    ];
    for (arguments, environment, name) in cases {
        let output = run(arguments, environment);
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {err}");
        assert_eq!(err.lines().count(), 1, "{arguments:?}: {err}");
        assert!(err.contains(name), "{arguments:?}: {err}");
        assert!(!err.contains("hunter2"), "{err}");
        assert!(output.stdout.is_empty());
    }
    assert_eq!(run(&["serve", "--nonsense"], &[]).status.code(), Some(64));
    let help = run(&["--help"], &[]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).starts_with("Systole, a server for wearable data"), "{}", text(&help.stdout));
}

#[test]
fn a_wrong_setting_says_once_what_is_wrong_and_what_was_meant() {
    let dir = tempfile::tempdir().unwrap();
    let (config, missing) = (dir.path().join("systole.toml"), dir.path().join("nofile.toml"));
    std::fs::write(&config, "[ingest]\npoint_max = 3\n").unwrap();
    let [config, missing] = [&config, &missing].map(|path| path.to_str().unwrap());
    let cases = [
        (
            ["serve", "--config", missing],
            format!("cannot read {missing}: No such file or directory (os error 2)"),
        ),
        (
            ["serve", "--config", config],
            format!("ingest.point_max in {config}; did you mean ingest.points_max?"),
        ),
        (["serve", "--data-dir", config], format!("setting --data-dir: {config} is not a directory")),
        (["check", "--data-dir", config], format!("setting --data-dir: {config} is not a directory")),
    ];
    for (arguments, expected) in cases {
        let output = run(&arguments, &[]);
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {err}");
        assert!(err.trim_end().ends_with(&expected) && err.lines().count() == 1, "{arguments:?}: {err}");
    }
    let output = run(&["key", "create"], &[("SYSTOLE_DATA_DIR", config)]);
    assert!(text(&output.stderr).contains("SYSTOLE_DATA_DIR"), "{}", text(&output.stderr));
}

#[test]
fn the_document_is_printed() {
    let output = run(&["openapi"], &[]);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["info"]["title"], "Systole");
}

#[tokio::test]
async fn a_key_made_beside_a_running_server_works_at_once_and_sigterm_drains() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(dir.path(), true);
    let latest = "/api/v1/wearables/latest";
    let admin = Request::new(server.address, "GET", &format!("{latest}?user_id=u1")).key(ADMIN);
    admin.send().await.expect(200);
    let data = dir.path().to_str().unwrap();
    let made = run(
        &["key", "create", "--data-dir", data, "--org", "new-clinic", "--user", "u1", "--name", "n"],
        &[],
    );
    assert!(made.status.success() && made.stderr.is_empty(), "{}", text(&made.stderr));
    let out = text(&made.stdout);
    let key = out.trim();
    assert!(key.starts_with("avk_") && out.lines().count() == 1, "{out}");
    let answer = Request::new(server.address, "GET", latest).key(key).send().await.expect(200);
    assert_eq!(answer.text(), "{\"latest\":{}}");
    Request::new(server.address, "GET", "/api/v1/api-keys").key(key).send().await.expect(403);
    let org = Request::new(server.address, "GET", "/api/v1/api-keys?org=new-clinic").key(ADMIN);
    assert_eq!(org.send().await.expect(200).json()["data"][0]["name"], "n");

    let (code, out, err) = server.terminate();
    assert_eq!(code, Some(0), "{err}");
    assert!(out.is_empty(), "{out}");
    assert!(!err.contains(ADMIN) && !err.contains(key), "{err}");
    for stage in ["no longer accepting", "requests in flight have ended", "engine stopped"] {
        assert!(err.contains(stage), "{stage}: {err}");
    }
    assert!(err.contains("request_id="), "{err}");
}

#[tokio::test]
async fn encrypted_secrets_without_their_key_end_the_start_with_one_line_and_64() {
    let dir = tempfile::tempdir().unwrap();
    let (mut command, key) = (systole(), "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    command.env("SYSTOLE_ADMIN_KEY", ADMIN).env("SYSTOLE_DISPATCH_MASTER_KEY", key);
    let server = Running::start_with(command, dir.path());
    let secret = "a-secret-nobody-logs";
    let wish = format!(r#"{{"url":"https://example.org/","dialect":"avon","secret":"{secret}"}}"#);
    let endpoints = Request::new(server.address, "POST", "/api/v1/webhooks/endpoints").key(ADMIN);
    endpoints.body(wish).send().await.expect(201);
    let (code, _, log) = server.terminate();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains(secret) && !log.contains(key), "{log}");
    let data = dir.path().to_str().unwrap();
    let output =
        run(&["serve", "--listen", "127.0.0.1:0", "--data-dir", data], &[("SYSTOLE_ADMIN_KEY", ADMIN)]);
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{err}");
    assert!(err.lines().last().unwrap().contains("setting dispatch.master_key"), "{err}");
    assert!(!err.contains(secret), "{err}");
}

#[tokio::test]
async fn the_first_start_shows_an_operator_key_once() {
    let dir = tempfile::tempdir().unwrap();
    let (_, _, err) = Running::start(dir.path(), false).terminate();
    let line = err.lines().find(|line| line.contains("avk_")).unwrap();
    let key = line.rsplit(' ').next().unwrap();
    let again = Running::start(dir.path(), false);
    let flush = Request::new(again.address, "POST", "/api/v1/admin/flush").key(key);
    flush.send().await.expect(200);
    let (_, _, err) = again.terminate();
    assert!(!err.contains("avk_"), "{err}");
}

#[test]
fn a_key_made_in_a_folder_without_data_says_so_once() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("typing-error");
    let create = || run(&["key", "create", "--data-dir", data.to_str().unwrap()], &[]);
    let (first, second) = (create(), create());
    assert_eq!(text(&first.stderr), format!("made a new data folder at {}\n", data.display()));
    assert_eq!(text(&second.stderr), "");
    for output in [first, second] {
        let out = text(&output.stdout);
        assert!(output.status.success() && out.starts_with("avk_") && out.lines().count() == 1, "{out}");
    }
}

#[test]
fn connections_are_kept_to_parts_of_the_open_files_that_the_system_can_allow() {
    let dir = tempfile::tempdir().unwrap();
    let lowered = [
        "http.connections_max is lowered from 400 to 300",
        "dispatch.connections_max is lowered from 200 to 150",
    ];
    for (hard, lines) in [("600", Some(lowered)), ("900", None)] {
        let mut command = without_settings(Command::new("sh"));
        command.args(["-c", &format!("ulimit -Sn 100 && ulimit -Hn {hard} && exec \"$0\" \"$@\"")]);
        command.arg(env!("CARGO_BIN_EXE_systole")).env("SYSTOLE_HTTP_CONNECTIONS_MAX", "400");
        command.env("SYSTOLE_DISPATCH_CONNECTIONS_MAX", "200");
        let (code, _, err) = Running::start_with(command, dir.path()).terminate();
        assert_eq!(code, Some(0), "{err}");
        match lines {
            Some(lines) => lines.iter().for_each(|line| assert_eq!(err.matches(line).count(), 1, "{err}")),
            None => assert!(!err.contains("connections_max"), "{err}"),
        }
    }
}

#[test]
fn a_port_that_is_taken_is_a_failure_that_names_the_address_and_costs_no_key() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(&["serve", "--listen", &address, "--data-dir", dir.path().to_str().unwrap()], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&address), "{}", text(&output.stderr));
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
    let (_, _, err) = Running::start(dir.path(), false).terminate();
    assert_eq!(err.matches("operator key, shown this once: avk_").count(), 1, "{err}");
}
