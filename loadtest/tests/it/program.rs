//! The program itself: its arguments, its output, its exit codes.

use std::process::{Command, Output};

use crate::server::{Reply, Seen, TestServer};

async fn loadtest(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command.arg("ingest").args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    output.expect("no panic").expect("the program starts")
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
