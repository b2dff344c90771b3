//! The journal crashed at each of its operations.

use std::path::Path;
use std::sync::Arc;

use systole_storage::Sequence;
use systole_storage::disk::Disk;
use systole_storage::journal::{AppendError, JournalWriter, RecoverError, Recovered, recover};

use super::fixture::frame;
use super::simulated_disk::{Fault, SimulatedDisk};

const DIR: &str = "/data/journal";
const SEGMENT_BYTES: u64 = 4096;
/// Samples of the frames of each group; sizes from 200 bytes to more than a
/// segment, so that groups fill, span and outgrow segments.
const GROUPS: &[&[usize]] =
    &[&[1], &[3, 40, 2], &[100], &[1, 1, 1, 1], &[120, 120], &[400], &[5], &[60, 1, 200]];

fn open(disk: &SimulatedDisk, seen: &mut Vec<u64>) -> Result<Recovered, RecoverError> {
    open_behind(disk, Sequence::ZERO, seen)
}

fn open_behind(disk: &SimulatedDisk, from: Sequence, seen: &mut Vec<u64>) -> Result<Recovered, RecoverError> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    recover(&shared, Path::new(DIR), SEGMENT_BYTES, from, |header, _| {
        seen.push(header.stamp.sequence.0);
        Ok(())
    })
}

/// Appends the groups until one fails. Returns what was acknowledged, and what
/// was on its way.
fn append_groups(writer: &mut JournalWriter, acknowledged: &mut Vec<u64>) -> Vec<u64> {
    let mut sequence = acknowledged.last().copied().unwrap_or(0);
    for group in GROUPS {
        let synced = acknowledged.last().copied().unwrap_or(0);
        let mut sequences = Vec::new();
        let frames: Vec<Vec<u8>> = group
            .iter()
            .map(|&samples| {
                sequence += 1;
                sequences.push(sequence);
                frame(sequence, synced, samples)
            })
            .collect();
        let slices: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        if writer.append(&slices).is_err() {
            return sequences;
        }
        acknowledged.extend(sequences);
    }
    Vec::new()
}

/// Checks a recovery: all that was acknowledged, then at most the first frames
/// of the group that was on its way.
fn check(seen: &[u64], acknowledged: &[u64], on_its_way: &[u64], what: &str) {
    assert!(seen.len() >= acknowledged.len(), "{what}: lost {acknowledged:?}, has {seen:?}");
    let (kept, more) = seen.split_at(acknowledged.len());
    assert_eq!(kept, acknowledged, "{what}");
    assert!(on_its_way.starts_with(more), "{what}: {more:?} of {on_its_way:?}");
}

#[test]
fn acknowledged_frames_survive_a_power_loss_at_every_operation() {
    let mut crashes = 0;
    for operation in 0.. {
        let disk = SimulatedDisk::default();
        disk.fault_at(operation, Fault::Crash);
        let mut acknowledged = Vec::new();
        let on_its_way = match open(&disk, &mut Vec::new()) {
            Ok(mut recovered) => append_groups(&mut recovered.writer, &mut acknowledged),
            Err(_) => Vec::new(),
        };
        if disk.operations() <= operation {
            break;
        }
        crashes += 1;
        for seed in 0..20 {
            let what = format!("operation {operation}, seed {seed}");
            let disk = disk.after_power_loss(seed);
            let mut seen = Vec::new();
            let mut recovered = open(&disk, &mut seen).unwrap_or_else(|error| panic!("{what}: {error}"));
            check(&seen, &acknowledged, &on_its_way, &what);
            // It goes on, and what it recovered stays, whatever is lost next.
            let rest = append_groups(&mut recovered.writer, &mut seen);
            assert!(rest.is_empty(), "{what}");
            let mut again = Vec::new();
            open(&disk.after_power_loss(seed + 1), &mut again)
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(again, seen, "{what}");
        }
    }
    assert!(crashes > 30, "only {crashes} operations");
}

#[test]
fn a_crash_during_recovery_loses_nothing() {
    let disk = SimulatedDisk::default();
    let mut acknowledged = Vec::new();
    let mut recovered = open(&disk, &mut Vec::new()).unwrap();
    append_groups(&mut recovered.writer, &mut acknowledged);
    drop(recovered);
    // A torn group at the end.
    let mut recovered = open(&disk, &mut Vec::new()).unwrap();
    disk.fault_at(1, Fault::Crash);
    let on_its_way = append_groups(&mut recovered.writer, &mut acknowledged.clone());
    for seed in 0..20 {
        for operation in 0..12 {
            let torn = disk.after_power_loss(seed);
            torn.fault_at(operation, Fault::Crash);
            let _ = open(&torn, &mut Vec::new());
            let mut seen = Vec::new();
            open(&torn.after_power_loss(seed + 7), &mut seen).unwrap();
            check(&seen, &acknowledged, &on_its_way, &format!("seed {seed}, operation {operation}"));
        }
    }
}

#[test]
fn a_failed_write_or_sync_poisons_until_a_restart() {
    let (mut poisoned, mut healed) = (0, 0);
    for operation in 0.. {
        let disk = SimulatedDisk::default();
        let mut acknowledged = Vec::new();
        let mut recovered = open(&disk, &mut Vec::new()).unwrap();
        let before = disk.operations();
        disk.fault_at(operation, Fault::Fail);
        let on_its_way = append_groups(&mut recovered.writer, &mut acknowledged);
        if disk.operations() - before <= operation {
            break;
        }
        assert!(!on_its_way.is_empty(), "operation {operation} failed unnoticed");
        let synced = acknowledged.last().copied().unwrap_or(0);
        let later = frame(synced + 100, synced, 1);
        let on_its_way = match recovered.writer.append(&[&later]) {
            // The frames were safe, only the next segment could not be had.
            Ok(()) => {
                healed += 1;
                acknowledged.push(synced + 100);
                Vec::new()
            }
            Err(AppendError::Poisoned { .. }) => {
                poisoned += 1;
                on_its_way
            }
            Err(other) => panic!("operation {operation}: {other}"),
        };
        for seed in 0..5 {
            let mut seen = Vec::new();
            open(&disk.after_power_loss(seed), &mut seen).unwrap();
            check(&seen, &acknowledged, &on_its_way, &format!("operation {operation}, seed {seed}"));
        }
    }
    assert!(poisoned > 10 && healed > 3, "{poisoned} poisoned, {healed} healed");
}

#[test]
fn a_full_disk_refuses_and_heals() {
    let mut refusals = 0;
    for operation in 0.. {
        let disk = SimulatedDisk::default();
        let mut recovered = open(&disk, &mut Vec::new()).unwrap();
        let before = disk.operations();
        disk.fault_at(operation, Fault::Full);
        let (mut kept, mut sequence) = (Vec::new(), 0);
        let mut poisoned = false;
        for group in GROUPS {
            let synced = kept.last().copied().unwrap_or(0);
            let first = sequence + 1;
            let frames: Vec<Vec<u8>> = group
                .iter()
                .map(|&samples| {
                    sequence += 1;
                    frame(sequence, synced, samples)
                })
                .collect();
            let slices: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
            match recovered.writer.append(&slices) {
                Ok(()) => kept.extend(first..=sequence),
                // A refused group's sequences are never used again.
                Err(AppendError::Full(_)) => refusals += 1,
                Err(AppendError::NoSegment(error)) => panic!("operation {operation}: {error}"),
                Err(AppendError::Poisoned { .. }) => {
                    poisoned = true;
                    break;
                }
            }
        }
        if disk.operations() - before <= operation {
            break;
        }
        for disk in [disk.after_kill(), disk.after_power_loss(operation as u64)] {
            let mut seen = Vec::new();
            open(&disk, &mut seen).unwrap();
            let known = &seen[..kept.len().min(seen.len())];
            assert_eq!(known, kept, "operation {operation}");
            // A group that found no room after it had filled a segment, or a
            // sync that did, leaves the file in doubt: that poisons.
            assert!(poisoned || seen.len() == kept.len(), "operation {operation}: refused frames came back");
        }
    }
    assert!(refusals > 10, "only {refusals} refusals");
}

#[test]
fn a_group_costs_one_sync() {
    let disk = SimulatedDisk::default();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut recovered = recover(&shared, Path::new(DIR), 1 << 20, Sequence::ZERO, |_, _| Ok(())).unwrap();
    let before = disk.syncs();
    for group in 0..10 {
        let frames: Vec<Vec<u8>> = (1..=64).map(|at| frame(group * 64 + at, group * 64, 2)).collect();
        let slices: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        recovered.writer.append(&slices).unwrap();
    }
    assert_eq!(disk.syncs() - before, 10);
}

#[test]
fn sealed_segments_go_once_everything_in_them_is_flushed() {
    let disk = SimulatedDisk::default();
    let mut recovered = open(&disk, &mut Vec::new()).unwrap();
    let mut acknowledged = Vec::new();
    append_groups(&mut recovered.writer, &mut acknowledged);
    let sealed = recovered.writer.sealed().to_vec();
    assert!(sealed.len() >= 3);
    assert_eq!(recovered.writer.remove_through(Sequence(sealed[1].last.0 - 1)).unwrap(), 1);
    assert_eq!(recovered.writer.remove_through(sealed[1].last).unwrap(), 1);
    // Nothing was flushed as far as this start knows: what is gone is missed.
    let missed = open(&disk.after_kill(), &mut Vec::new());
    assert!(matches!(missed, Err(RecoverError::Damaged { .. })));
    for seed in 0..5 {
        let mut seen = Vec::new();
        open_behind(&disk.after_power_loss(seed), sealed[1].last, &mut seen).unwrap();
        let expected: Vec<u64> = acknowledged.iter().copied().filter(|&at| at > sealed[1].last.0).collect();
        assert_eq!(seen, expected);
    }
}
