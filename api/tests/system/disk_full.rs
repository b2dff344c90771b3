//! A full disk, on a file system of its own: 507, nothing lost, and it heals.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::load::{Fleet, Signals};
use crate::server::{Server, Stopped, announce, systole};

const DISK_BYTES: usize = 64 << 20;
/// What the ballast leaves free at first.
const FREE_BYTES: u64 = 5 << 20;
const WRITERS: usize = 4;
const SEED: u64 = 0xf011;
/// How long it may take to fill the rest.
const FILL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the writers run into the full disk.
const ROUNDS_WHILE_FULL: usize = 5;
/// A full disk is looked at again at the latest after 15 s; and some slack.
const HEAL_TIMEOUT: Duration = Duration::from_secs(25);
/// Endpoints that are made at most until the disk is full: what one answer lists.
const ENDPOINTS_MAX: usize = 200;
/// How long the healed server is written to.
const HEALED_LOAD: Duration = Duration::from_millis(500);

/// A small file system in memory, unmounted when it is dropped.
struct SmallDisk {
    folder: TempDir,
}

#[test]
fn a_full_disk_is_507_and_reads_go_on_and_it_heals_without_a_restart() {
    let Some(disk) = SmallDisk::mount() else { return };
    let mut fleet = Fleet::new(WRITERS, SEED);
    let server = disk.systole().start();
    disk.drop_ballast();
    let server = fill(&mut fleet, server);
    let full = fleet.counts();
    fleet.check(&server, "while the disk is full");
    server.operator().get("/health").expect(200);
    disk.lift_ballast();
    let healed_after = wait_until_taken(&server).as_millis();
    let server = fleet.load(server, |server, signals| wait_for_end(server, signals, HEALED_LOAD));
    let healed = fleet.counts();
    assert!(healed.batches > full.batches, "{healed:?}");
    fleet.check(&server, "after there was room again");
    server.flush();
    let server = server.kill().start();
    fleet.check(&server, "after a flush and a restart");
    announce(&format!("disk full: {full:?}, healed after {healed_after} ms, then {healed:?}"));
}

#[test]
fn a_server_killed_on_a_full_disk_keeps_what_it_acknowledged_and_nothing_it_refused() {
    let Some(disk) = SmallDisk::mount() else { return };
    let mut fleet = Fleet::new(WRITERS, SEED + 1);
    let server = disk.systole().start();
    disk.drop_ballast();
    let stopped = fill(&mut fleet, server).kill();
    disk.lift_ballast();
    let server = stopped.start();
    fleet.check(&server, "after kill -9 on the full disk");
    server.flush();
    fleet.check(&server, "after a flush");
}

#[test]
fn an_endpoint_that_a_full_disk_cannot_store_is_507_and_is_made_once_there_is_room() {
    let Some(disk) = SmallDisk::mount() else { return };
    let server = disk.systole().start();
    // Long, so that the catalog soon needs room for it.
    let attributes = json!({"filler": "x".repeat(50_000)});
    let url = "https://receiver.example.org/";
    let wish = json!({"url": url, "active": false, "attributes": attributes}).to_string();
    let make = || server.operator().post("/api/v1/webhooks/endpoints", &wish);
    let mut made = 0;
    let refused = loop {
        disk.fill_up();
        let answer = make();
        if answer.status != 201 {
            break answer;
        }
        made += 1;
        assert!(made < ENDPOINTS_MAX, "the disk never filled up");
    };
    assert_eq!(refused.status, 507, "{}", refused.text());
    assert!(refused.text().contains("disk_full"), "{}", refused.text());
    disk.lift_ballast();
    make().expect(201);
    let listed = server.operator().get("/api/v1/webhooks/endpoints?limit=250").expect(200);
    let listed: Value = listed.json();
    assert_eq!(listed["data"].as_array().unwrap().len(), made + 1, "what was refused was not made");
}

/// Writes until the disk is full, and runs into that a few times more.
fn fill(fleet: &mut Fleet, server: Server) -> Server {
    let server = (0..ROUNDS_WHILE_FULL).fold(server, |server, _| {
        fleet.load(server, |server, signals| wait_for_end(server, signals, FILL_TIMEOUT))
    });
    let full = fleet.counts();
    assert!(full.refused >= ROUNDS_WHILE_FULL as u64, "the disk never filled up: {full:?}");
    server
}

fn wait_for_end(server: Server, signals: &Signals, patience: Duration) -> Server {
    let deadline = Instant::now() + patience;
    while !signals.ended() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    signals.end();
    server
}

/// Sends one sample again and again until it is taken.
fn wait_until_taken(server: &Server) -> Duration {
    let body = r#"{"metric":"steps","value":1,"unit":"steps","recorded_at":"2016-02-01T00:00:00Z","source":"probe","user_id":"probe"}"#;
    let started = Instant::now();
    loop {
        let answer = server.operator().post("/api/v1/wearables/ingest", body);
        match answer.status {
            200 => return started.elapsed(),
            507 if started.elapsed() < HEAL_TIMEOUT => thread::sleep(Duration::from_millis(100)),
            status => panic!("{status} {:?} after there was room: {}", started.elapsed(), answer.text()),
        }
    }
}

impl SmallDisk {
    /// A mounted one; says so loudly where nothing can be mounted.
    fn mount() -> Option<SmallDisk> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={DISK_BYTES}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder.path())
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            announce("DISK FULL TEST SKIPPED: no tmpfs can be mounted here (it needs root)");
            return None;
        }
        Some(SmallDisk { folder })
    }

    /// A server on it, with small segments and buffers.
    fn systole(&self) -> Stopped {
        systole()
            .data_dir(self.path("data"))
            .set("SYSTOLE_STORAGE_SEGMENT_BYTES", "1 MiB")
            .set("SYSTOLE_STORAGE_FLUSH_BYTES", "1 MiB")
            .set("SYSTOLE_STORAGE_BUFFER_BYTES_MAX", "8 MiB")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Fills the disk but for [`FREE_BYTES`].
    fn drop_ballast(&self) {
        let mut ballast = File::create(self.path("ballast")).unwrap();
        while ballast.write_all(&[1; 4096]).is_ok() {}
        let bytes = ballast.metadata().unwrap().len();
        ballast.set_len(bytes - FREE_BYTES).unwrap();
    }

    /// Leaves no room at all.
    fn fill_up(&self) {
        let mut ballast = File::options().create(true).append(true).open(self.path("ballast")).unwrap();
        while ballast.write_all(&[1; 4096]).is_ok() {}
    }

    fn lift_ballast(&self) {
        fs::remove_file(self.path("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the server may still be ending.
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}
