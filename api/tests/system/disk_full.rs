//! A full disk, on a file system of its own: 507, nothing lost, and it heals.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::load::{Fleet, Signals};
use crate::server::{Server, announce, systole};

const DISK_BYTES: usize = 64 << 20;
/// What the ballast leaves free at first.
const FREE_BYTES: usize = 5 << 20;
const WRITERS: usize = 4;
const SEED: u64 = 0xf011;
/// How long it may take to fill the rest.
const FILL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the full disk is run into.
const ROUNDS_WHILE_FULL: usize = 5;
/// A full disk is looked at again at the latest after 15 s; and some slack.
const HEAL_TIMEOUT: Duration = Duration::from_secs(25);
/// How long the healed server is written to.
const HEALED_LOAD: Duration = Duration::from_millis(500);

/// A small file system in memory, unmounted when it is dropped.
struct SmallDisk {
    folder: TempDir,
}

#[test]
fn a_full_disk_is_507_and_heals_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount() else { return };
    let mut fleet = Fleet::new(WRITERS, SEED);
    let server = systole()
        .data_dir(disk.path("data"))
        .set("SYSTOLE_STORAGE_SEGMENT_BYTES", "1 MiB")
        .set("SYSTOLE_STORAGE_FLUSH_BYTES", "1 MiB")
        .set("SYSTOLE_STORAGE_BUFFER_BYTES_MAX", "8 MiB")
        .start();
    disk.drop_ballast();
    let server = fleet.load(server, |server, signals| wait_for_end(server, signals, FILL_TIMEOUT));
    let first = fleet.counts();
    assert!(first.refused > 0, "the disk never filled up: {first:?}");
    let server = (0..ROUNDS_WHILE_FULL).fold(server, |server, _| {
        fleet.load(server, |server, signals| wait_for_end(server, signals, FILL_TIMEOUT))
    });
    let full = fleet.counts();
    fleet.check(&server, "while the disk is full");
    server.operator().get("/health").expect(200);
    fs::remove_file(disk.path("ballast")).unwrap();
    let healed_after = wait_until_taken(&server);
    let server = fleet.load(server, |server, signals| wait_for_end(server, signals, HEALED_LOAD));
    let healed = fleet.counts();
    assert!(healed.batches > full.batches, "{healed:?}");
    fleet.check(&server, "after there was room again");
    server.flush();
    fleet.check(&server, "after a flush");
    let server = server.kill().start();
    fleet.check(&server, "after kill -9 and restart");
    let millis = healed_after.as_millis();
    announce(&format!(
        "disk full: 507 after {} batches, healed after {millis} ms, {healed:?}",
        first.batches
    ));
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

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Fills the disk but for [`FREE_BYTES`].
    fn drop_ballast(&self) {
        let mut ballast = File::create(self.path("ballast")).unwrap();
        let used = bytes_below(&self.path("data"));
        ballast.write_all(&vec![1; DISK_BYTES - FREE_BYTES - used]).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the server may still be ending.
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

fn bytes_below(folder: &Path) -> usize {
    let files = crate::server::data_files(folder);
    files.iter().map(|file| usize::try_from(fs::metadata(file).unwrap().len()).unwrap()).sum()
}
