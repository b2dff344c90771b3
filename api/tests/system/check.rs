//! `systole check` as people run it, and what a server makes of the same damage.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::json;

use crate::server::{Server, Stopped, data_files, systole};

const USER: &str = "u_1";
const METRIC: &str = "heart_rate";

/// A server with some thousand samples in files and some in the journal only.
fn filled() -> Server {
    let server = systole().start();
    push(&server, 0);
    server.flush();
    push(&server, 1);
    server
}

fn push(server: &Server, day: u32) {
    for hour in 0..8 {
        let points: Vec<_> = (0..400)
            .map(|second| {
                let time = format!("2026-06-{:02}T{hour:02}:{:02}:{:02}Z", day + 1, second / 60, second % 60);
                let value = 60 + (second * 7 + hour) % 31;
                json!({"metric": METRIC, "value": value, "unit": "bpm", "recorded_at": time, "source": "garmin", "user_id": USER})
            })
            .collect();
        let body = json!({ "data_points": points }).to_string();
        server.operator().post("/api/v1/wearables/bulk-ingest", body).expect(200);
    }
}

fn lines(output: &Output) -> Vec<String> {
    String::from_utf8(output.stdout.clone()).unwrap().lines().map(str::to_owned).collect()
}

fn expect_sound(stopped: &Stopped) {
    let output = stopped.check(&[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), lines(&output)), (Some(0), Vec::new()), "{said}");
    // A kill may have come while the next segment was being made, which is no fault.
    let mut told = said.lines().filter(|line| !line.ends_with("was being made; the next start removes it"));
    assert!(told.next().is_some_and(|line| line.starts_with("no fault in ")), "{said}");
    let output = stopped.check(&["--quiet"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

/// The data files, largest first.
fn parquet_files(data_dir: &Path) -> Vec<PathBuf> {
    let folders = ["runs", "samples"].map(|name| data_dir.join(name));
    let mut files: Vec<PathBuf> =
        folders.iter().filter(|folder| folder.exists()).flat_map(|folder| data_files(folder)).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
    files.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    files
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 4;
    // In place: a server that has the file open sees it.
    std::os::unix::fs::FileExt::write_all_at(
        &fs::OpenOptions::new().write(true).open(path).unwrap(),
        &bytes,
        0,
    )
    .unwrap();
}

#[test]
fn a_stopped_server_is_sound_through_kills_flushes_and_compaction_and_a_running_one_is_refused() {
    let server = filled();
    let refused = server.check();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("is in use by another process"), "{said}");
    let stopped = server.kill();
    expect_sound(&stopped);
    let server = stopped.start();
    server.operator().post("/api/v1/admin/compact", b"").expect(200);
    push(&server, 2);
    let stopped = server.kill();
    expect_sound(&stopped);
    let server = stopped.start();
    server.terminate();
    let (status, stopped) = server.wait(std::time::Duration::from_secs(30));
    assert!(status.success());
    expect_sound(&stopped);
}

#[test]
fn a_flipped_bit_is_named_by_the_check_and_stops_the_start_that_meets_it() {
    let stopped = filled().kill();
    let data_dir = stopped.path().to_owned();
    let file = parquet_files(&data_dir).remove(0);
    let journal = data_files(&data_dir.join("journal")).remove(0);
    let bytes = fs::metadata(&file).unwrap().len() as usize;
    for (path, at) in [(&file, bytes / 3), (&file, bytes - 7), (&journal, 500)] {
        flip(path, at);
        let output = stopped.check(&[]);
        let name = path.strip_prefix(&data_dir).unwrap().to_str().unwrap();
        let named = lines(&output);
        assert_eq!(output.status.code(), Some(1), "{name} at {at}");
        assert!(!named.is_empty() && named.iter().all(|line| line.starts_with(name)), "{name} {named:?}");
        flip(path, at);
    }
    expect_sound(&stopped);
    // The journal's frames are all read at a start.
    flip(&journal, 500);
    let (status, said) = stopped.start_and_fail();
    assert!(!status.success() && said.contains("0000000001.segment"), "{said}");
    flip(&journal, 500);
    stopped.start();
}

#[test]
fn a_read_that_meets_a_flipped_bit_is_500_and_never_another_number() {
    let server = filled();
    let file = parquet_files(server.data_dir()).remove(0);
    let whole = fs::read(&file).unwrap();
    let path = format!(
        "/api/v1/wearables/metric/{METRIC}?user_id={USER}&start=2026-01-01T00:00:00Z&end=2027-01-01T00:00:00Z"
    );
    let expected = server.operator().get(&path).expect(200).body;
    assert!(expected.len() > 100_000);
    let mut refused = 0;
    for at in (0..whole.len()).step_by(whole.len() / 40) {
        flip(&file, at);
        // Whatever is cached may be answered from, and that is right.
        let answer = server.operator().get(&path);
        match answer.status {
            200 => assert_eq!(answer.body, expected, "byte {at}"),
            _ => {
                assert_eq!(answer.status, 500, "byte {at}: {}", answer.text());
                refused += 1;
            }
        }
        flip(&file, at);
    }
    assert!(refused > 0);
    assert!(server.operator().get(&path).expect(200).body == expected);
    let name = file.file_name().unwrap().to_str().unwrap().to_owned();
    let log = server.log();
    assert!(log.lines().any(|line| line.contains(&name) && line.contains("checksum")), "{log}");
}
