//! A disk that forgets: it keeps what was synced and decides by a seed what of
//! the rest survives a power loss.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use systole_storage::Commits;
use systole_storage::disk::{Disk, DiskFile};

const SECTOR_BYTES: usize = 512;

/// What a disk does at one of its operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The machine stops: this and every later operation fails.
    Crash,
    /// This one operation fails, after having done part of its work.
    Fail,
    /// This one operation finds no room, after having written part.
    Full,
}

#[derive(Debug, Default)]
struct State {
    /// Content by file number: what is durable, and what was written since.
    files: Vec<FileState>,
    /// Names that are durable.
    durable_names: BTreeMap<PathBuf, usize>,
    /// Names as a running program sees them.
    names: BTreeMap<PathBuf, usize>,
    operations: usize,
    fault: Option<(usize, Fault)>,
    crashed: bool,
    /// No file can be made or grow.
    full: bool,
    /// Whether the fault met a commit of the catalog.
    refused_commit: bool,
    syncs: usize,
}

#[derive(Clone, Debug, Default)]
struct FileState {
    durable: Vec<u8>,
    seen: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
}

/// A disk in memory; clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct SimulatedDisk(Arc<Mutex<State>>);

impl SimulatedDisk {
    /// Lets operation `number` (from 0) go wrong.
    pub fn fault_at(&self, number: usize, fault: Fault) {
        let mut state = self.0.lock().unwrap();
        state.fault = Some((state.operations + number, fault));
    }

    /// Takes all room away, or gives it back. What a file has stays its own.
    pub fn set_full(&self, full: bool) {
        self.0.lock().unwrap().full = full;
    }

    /// What was told to go wrong last.
    pub fn last_fault(&self) -> Option<Fault> {
        self.0.lock().unwrap().fault.map(|(_, fault)| fault)
    }

    /// Whether the fault has come.
    pub fn has_failed(&self) -> bool {
        let state = self.0.lock().unwrap();
        state.fault.is_some_and(|(at, _)| state.operations > at)
    }

    /// Whether the fault met a commit of the catalog.
    pub fn has_refused_commit(&self) -> bool {
        self.0.lock().unwrap().refused_commit
    }

    /// Whether the machine has stopped.
    pub fn has_crashed(&self) -> bool {
        self.0.lock().unwrap().crashed
    }

    /// How many operations there were.
    pub fn operations(&self) -> usize {
        self.0.lock().unwrap().operations
    }

    /// How many syncs of files there were.
    pub fn syncs(&self) -> usize {
        self.0.lock().unwrap().syncs
    }

    /// The disk after a power loss now: of what was not synced, `seed` decides
    /// write by write and sector by sector what was kept.
    pub fn after_power_loss(&self, seed: u64) -> SimulatedDisk {
        let state = self.0.lock().unwrap();
        let mut random = Random(seed);
        let mut files = state.files.clone();
        for file in &mut files {
            let mut content = file.durable.clone();
            for (at, bytes) in std::mem::take(&mut file.pending) {
                keep_some(&mut content, at, &bytes, &mut random);
            }
            (file.durable, file.seen) = (content.clone(), content);
        }
        // Names come and go in any combination until their folder is synced.
        let mut names = state.durable_names.clone();
        for (path, file) in &state.names {
            if names.get(path) != Some(file) && random.coin() {
                names.insert(path.clone(), *file);
            }
        }
        for path in state.durable_names.keys().filter(|path| !state.names.contains_key(*path)) {
            if random.coin() {
                names.remove(path);
            }
        }
        let durable_names = names.clone();
        SimulatedDisk(Arc::new(Mutex::new(State { files, durable_names, names, ..State::default() })))
    }

    /// The disk after the process was killed: the system keeps all writes.
    pub fn after_kill(&self) -> SimulatedDisk {
        let state = self.0.lock().unwrap();
        let (files, names) = (state.files.clone(), state.names.clone());
        let durable_names = state.durable_names.clone();
        SimulatedDisk(Arc::new(Mutex::new(State { files, durable_names, names, ..State::default() })))
    }

    /// Changes the durable content of a file, as decay would.
    pub fn corrupt(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.0.lock().unwrap();
        let file = state.names[path];
        let file = &mut state.files[file];
        change(&mut file.seen);
        file.durable = file.seen.clone();
        file.pending.clear();
    }

    fn operation(&self) -> io::Result<(std::sync::MutexGuard<'_, State>, Option<Fault>)> {
        let mut state = self.0.lock().unwrap();
        if state.crashed {
            return Err(io::Error::other("the machine has stopped"));
        }
        let number = state.operations;
        state.operations += 1;
        let fault = state.fault.filter(|&(at, _)| at == number).map(|(_, fault)| fault);
        if fault == Some(Fault::Crash) {
            state.crashed = true;
        }
        Ok((state, fault))
    }

    fn commit(&self) -> bool {
        let done = self.whole().is_ok();
        self.0.lock().unwrap().refused_commit |= !done;
        done
    }

    /// An operation that is done whole or not at all.
    fn whole(&self) -> io::Result<std::sync::MutexGuard<'_, State>> {
        let (state, fault) = self.operation()?;
        fault.map_or(Ok(state), |fault| Err(error(fault)))
    }
}

fn error(fault: Fault) -> io::Error {
    match fault {
        Fault::Crash => io::Error::other("the machine has stopped"),
        Fault::Fail => io::Error::other("injected failure"),
        Fault::Full => io::ErrorKind::StorageFull.into(),
    }
}

fn keep_some(content: &mut Vec<u8>, at: usize, bytes: &[u8], random: &mut Random) {
    let all = random.coin();
    for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
        if all || random.coin() {
            put(content, at + index * SECTOR_BYTES, sector);
        }
    }
}

fn put(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if content.len() < at + bytes.len() {
        content.resize(at + bytes.len(), 0);
    }
    content[at..at + bytes.len()].copy_from_slice(bytes);
}

struct Random(u64);

impl Random {
    fn coin(&mut self) -> bool {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 63 == 1
    }
}

impl Disk for SimulatedDisk {
    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.0.lock().unwrap();
        Ok(state.names.keys().filter(|path| path.starts_with(dir)).cloned().collect())
    }

    fn create(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.whole()?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if state.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let zeros = vec![0; usize::try_from(bytes).unwrap()];
        let file = FileState { durable: Vec::new(), seen: zeros.clone(), pending: vec![(0, zeros)] };
        state.files.push(file);
        let number = state.files.len() - 1;
        state.names.insert(path.to_owned(), number);
        Ok(Box::new(SimulatedFile { disk: self.clone(), number }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let state = self.0.lock().unwrap();
        let number = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(SimulatedFile { disk: self.clone(), number }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.whole()?;
        let number = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), number);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.whole()?;
        state.names.remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.whole()?;
        state.durable_names.retain(|path, _| path.parent() != Some(dir));
        let names: Vec<_> = state.names.iter().filter(|(path, _)| path.parent() == Some(dir)).collect();
        let names: Vec<_> = names.into_iter().map(|(path, file)| (path.clone(), *file)).collect();
        state.durable_names.extend(names);
        Ok(())
    }
}

/// Commits of a catalog that lies on this machine count as operations: one is asked
/// for before the transaction is durable, one behind it.
impl Commits for SimulatedDisk {
    fn before(&self) -> bool {
        self.commit()
    }

    fn after(&self) -> bool {
        self.commit()
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    number: usize,
}

impl DiskFile for SimulatedFile {
    fn byte_len(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().unwrap().files[self.number].seen.len() as u64)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.disk.0.lock().unwrap();
        let from = usize::try_from(offset).unwrap();
        let bytes = state.files[self.number].seen.get(from..from + buf.len());
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let (mut state, fault) = self.disk.operation()?;
        if fault.is_some() {
            // Part of it got there.
            bytes.truncate(bytes.len() / 2);
        }
        let at = usize::try_from(offset).unwrap();
        if state.full && at + bytes.len() > state.files[self.number].seen.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = &mut state.files[self.number];
        put(&mut file.seen, at, &bytes);
        file.pending.push((at, bytes));
        fault.map_or(Ok(()), |fault| Err(error(fault)))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.whole()?;
        state.syncs += 1;
        let file = &mut state.files[self.number];
        file.durable = file.seen.clone();
        file.pending.clear();
        Ok(())
    }
}
