//! The commands by which a server is judged, against the stand-in: what they print,
//! what they find, and how they exit.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

use crate::systole::{Flaw, Systole};

/// 60 users for 4 days: about 10,000 samples.
const FLEET: [&str; 14] = [
    "--users",
    "120",
    "--days",
    "4",
    "--density",
    "0.005",
    "--connections",
    "4",
    "--start-date",
    "2026-06-01",
    "--verify-users",
    "121",
    "--points",
    "100",
];

/// Runs the program against a stand-in; the JSON report is read back.
async fn judged(systole: &Systole, name: &str, arguments: &[&str]) -> (Output, String, Value) {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let report = temporary(&format!("report-{number}.json"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command.args([name, "--url", &systole.server.url(), "--key", "avk_test", "--json"]).arg(&report);
    command.args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let output = output.expect("no panic").expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let json =
        fs::read(&report).ok().map_or(Value::Null, |json| serde_json::from_slice(&json).expect("JSON"));
    fs::remove_file(&report).ok();
    (output, text, json)
}

fn temporary(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("loadtest-judged-{}-{name}", std::process::id()))
}

#[tokio::test(flavor = "multi_thread")]
async fn fleet_prints_its_figures_and_finds_everything_that_it_sent() {
    let systole = Systole::start(Flaw::None).await;
    let (output, text, json) = judged(&systole, "fleet", &[&FLEET[..], &["--compact"]].concat()).await;
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let distinct = json["sent"]["distinct"].as_u64().expect("a count");
    assert_eq!(distinct, systole.samples());
    assert!(json["sent"]["kinds"]["corrected"].as_u64().expect("a count") > 0, "{json}");
    assert_eq!(json["stores"]["compacted"]["bytes_a_sample"], 2.0);
    assert_eq!(json["verified"], true);
    for part in ["verified  121 users", ": 0 faults", "compacted: 3 files", "2.000 bytes for each sample"] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fleet_exits_with_1_if_a_correction_or_a_sample_is_missing() {
    for flaw in [Flaw::CorrectionLost, Flaw::SampleMissing, Flaw::ValueAltered] {
        let systole = Systole::start(flaw).await;
        let (output, text, json) = judged(&systole, "fleet", &FLEET).await;
        assert_eq!(output.status.code(), Some(1), "{flaw:?}: {text}");
        assert!(text.contains("fault     ") && json["verified"] == false, "{flaw:?}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dataset_then_query_prints_wanted_and_measured() {
    let systole = Systole::start(Flaw::None).await;
    let size = ["--users", "7", "--samples", "600"];
    let (output, text, json) = judged(&systole, "dataset", &[&size[..], &["--compact"]].concat()).await;
    assert!(output.status.success(), "{text}");
    assert_eq!(json["samples"], systole.samples());
    let short = ["--seconds", "0.1", "--warmup-seconds", "0"];
    let (output, text, json) = judged(&systole, "query", &[&size[..], &short].concat()).await;
    assert!(output.status.success(), "{text}");
    assert_eq!(json["reads"].as_array().map(Vec::len), Some(6));
    assert_eq!(json["reads"][0]["requests"], 64);
    assert!(text.contains("newest 500, cold") && text.contains("wanted p50 < 0.3 ms"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn query_exits_with_1_if_samples_are_missing() {
    let systole = Systole::start(Flaw::None).await;
    judged(&systole, "dataset", &["--users", "3", "--samples", "100"]).await;
    let arguments = ["--users", "3", "--samples", "600", "--only", "cold"];
    let (output, text, _) = judged(&systole, "query", &arguments).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("64 faults, the first: ") && text.contains("100 samples instead of 500"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_reports_stretches_and_compares_two_runs() {
    let systole = Systole::start(Flaw::None).await;
    let first = temporary("held.json");
    let file = first.to_str().expect("a plain path");
    let run = ["--rate", "20000", "--seconds", "1", "--stretch-seconds", "0.4", "--connections", "2"];
    let pid = std::process::id().to_string();
    let more = ["--label", "held", "--json", file, "--pid", &pid, "--saturated-seconds", "0.8"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command.args(["soak", "--url", &systole.server.url(), "--key", "avk_test"]).args(run).args(more);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
    let output = output.expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("offered ") && text.contains("saturated ") && text.contains("MiB"), "{text}");
    let held: Value = serde_json::from_slice(&fs::read(&first).expect("a report")).expect("JSON");
    assert_eq!((&held["label"], held["put_off"].as_u64()), (&"held".into(), Some(0)));
    assert!(held["sustained_samples_per_second"].as_f64().expect("a rate") > 0.0);
    let (_, text, json) = judged(&systole, "soak", &[&run[..], &["--against", file]].concat()).await;
    assert!(text.contains("against   held: p99 "), "{text}");
    assert!(json["against"]["p99_ratio"].as_f64().expect("a ratio") > 0.0);
    fs::remove_file(&first).expect("it is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn mixed_measures_acknowledgements_with_and_without_sql() {
    let systole = Systole::start(Flaw::None).await;
    let run = ["--rate", "5000", "--seconds", "0.5", "--rounds", "1", "--connections", "2"];
    let (output, text, json) = judged(&systole, "mixed", &run).await;
    assert!(output.status.success(), "{text}");
    assert!(json["rounds"][0]["scans"]["statuses"]["200"].as_u64().expect("scans") > 0, "{text}");
    assert!(text.contains("ratio     p99 with SQL by p99 alone"), "{text}");
}

/// A stand-in for a Python with DuckDB, which answers each question alike.
fn python(name: &str, first: &str, answer: &str) -> PathBuf {
    let path = temporary(name);
    let script = format!("#!/bin/sh\nread line\necho '{first}'\nwhile read line; do echo '{answer}'; done\n");
    fs::write(&path, script).expect("a writable folder");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our file");
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn compare_duckdb_wants_equal_answers_and_names_what_is_missing() {
    let systole = Systole::start(Flaw::None).await;
    let equal = r#"{"seconds":0.5,"rows":[["u_1",12.5]]}"#;
    let other = r#"{"seconds":0.5,"rows":[["u_1",12.6]]}"#;
    for (name, first, answer, code, said) in [
        ("equal", r#"{"ready":"9.9"}"#, equal, 0, "wanted <= 1.3 kept"),
        ("other", r#"{"ready":"9.9"}"#, other, 1, "the answers differ: row 0"),
        ("missing", r#"{"missing":"No module named duckdb"}"#, equal, 1, "pip install duckdb"),
    ] {
        let python = python(name, first, answer);
        let program = python.to_str().expect("a plain path");
        let arguments = ["--data-dir", "/nowhere", "--python", program, "--rounds", "2"];
        let (output, text, _) = judged(&systole, "compare-duckdb", &arguments).await;
        let text = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{name}: {text}");
        assert!(text.contains(said), "{name}: {text}");
        fs::remove_file(&python).expect("it is there");
    }
}
