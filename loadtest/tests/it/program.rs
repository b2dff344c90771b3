//! The program itself: its arguments, its output, its exit codes.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::SystemTime;

use bytes::Bytes;
use loadtest::{Dialect, Key, Server};

use crate::server::{Reply, Seen, TestServer};
use crate::systole::{Flaw, SECRET, Systole};

const PROGRAM: &str = env!("CARGO_BIN_EXE_loadtest");

async fn loadtest(arguments: &[&str]) -> Output {
    program("ingest", arguments).await
}

async fn program(name: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.arg(name).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    output.expect("no panic").expect("the program starts")
}

/// The JSON line at the end of an output.
fn last_json(output: &Output) -> serde_json::Value {
    let text = str::from_utf8(&output.stdout).expect("text");
    let last = text.lines().last().expect("a last line");
    serde_json::from_str(last).unwrap_or_else(|_| panic!("no JSON at the end of\n{text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_prints_its_report_and_ends_with_one_json_line() {
    let server = TestServer::start(Reply::accepted).await;
    let url = server.url();
    let output = loadtest(&[
        "--url",
        &url,
        "--key",
        "avk_test",
        "--connections",
        "4",
        "--batches",
        "12",
        "--warmup-seconds",
        "0",
        "--metrics",
        "fleet",
        "--run-prefix",
        "p1",
        "--json",
    ])
    .await;
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{text}");
    assert!(text.contains("whole run 6,000 samples acknowledged, 12 requests"), "{text}");
    let last = text.lines().last().expect("a last line");
    let json: serde_json::Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(json["samples_acknowledged"], 6_000);
    assert_eq!(json["metrics"], "fleet");
    let users: Vec<String> = server.ingests().iter().map(Seen::user_id).collect();
    assert!(users.contains(&"load-p1-0000011".to_owned()), "{users:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_an_acknowledgement_exits_with_1() {
    let server = TestServer::start(|_| Reply::json(401, r#"{"code":"unauthorized"}"#)).await;
    let output = loadtest(&["--url", &server.url(), "--key", "avk_test"]).await;
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("unauthorized"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_named_and_exits_with_1() {
    let url = TestServer::start(Reply::accepted).await.url();
    let output = loadtest(&["--url", "http://127.0.0.1:1", "--key", "avk_secret"]).await;
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).expect("text");
    assert!(text.contains("no connection to http://127.0.0.1:1"), "{text}");
    assert!(!text.contains("secret"));
    let output = loadtest(&["--url", &url.replace("http", "https"), "--key", "avk_test"]).await;
    assert_eq!(output.status.code(), Some(1));
}

/// 12 bodies of 100 points of 5 users.
const SHORT: [&str; 14] = [
    "--key",
    "avk_test",
    "--connections",
    "2",
    "--batches",
    "12",
    "--warmup-seconds",
    "0",
    "--points",
    "100",
    "--users",
    "5",
    "--metrics",
    "fleet",
];

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_prints_what_was_delivered_and_leaves_no_endpoint() {
    let systole = Systole::start(Flaw::None).await;
    let url = systole.server.url();
    let arguments = [&SHORT[..], &["--url", &url, "--endpoints", "2", "--json"]].concat();
    let output = program("webhooks", &arguments).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("2,400 of 2,400 samples delivered"), "{text}");
    let json = last_json(&output);
    assert_eq!((&json["samples_delivered"], &json["sound"]), (&2_400.into(), &true.into()));
    assert_eq!(json["load"]["samples_acknowledged"], 1_200);
    assert_eq!(systole.endpoints_left(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_exits_with_1_if_something_acknowledged_is_not_delivered() {
    let systole = Systole::start(Flaw::EventLost).await;
    let url = systole.server.url();
    let arguments = [&SHORT[..], &["--url", &url, "--drain-seconds", "0.2"]].concat();
    let output = program("webhooks", &arguments).await;
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("not delivered in time"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_and_post_prints_the_rate_of_verified_deliveries() {
    let output = program("sign-and-post", &["--seconds", "0.3", "--body-bytes", "2000", "--json"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let json = last_json(&output);
    assert!(json["deliveries_per_second"].as_f64().expect("a rate") > 0.0);
    assert_eq!(json["deliveries"], json["verified"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn receive_prints_what_comes() {
    let mut child = Command::new(PROGRAM)
        .args(["receive", "--listen", "127.0.0.1:0", "--secret", SECRET, "--seconds", "2", "--full"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    let first = lines.next().expect("its address");
    let url = first.strip_prefix("receiving at ").expect("its address").trim_end_matches('/');
    let mut connection =
        Server::without_key(url).expect("a good address").connect().await.expect("it listens");
    let key = Key::prepare(Dialect::Standard, &SECRET.into()).expect("a good secret");
    let headers = key.sign("evt_1", b"{}", SystemTime::now());
    let answer = connection.post_with("/", headers, Bytes::from_static(b"{}")).await.expect("an answer");
    assert_eq!(answer.status.as_u16(), 200);
    let last = tokio::task::spawn_blocking(move || lines.last()).await.expect("no panic");
    assert!(last.expect("a line a second").contains("| 1 events, 0 samples, 0 duplicates, 0 refused"));
    assert!(child.wait().expect("it ends").success());
}
