//! The indexes of sealed segments: made once, kept beside them, cached in memory.
//!
//! Constraints: [`CACHE_BYTES`] of sections and [`HEADS_MAX`] heads in memory, whatever
//! the number of readers; one segment is gone through at a time, a frame in memory.
//!
//! ```text
//! segment --one pass--> <id>.keys, synced --> <id>.index --> readers of one organisation
//! ```

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hashbrown::HashMap;
use parking_lot::Mutex;

use super::index::JournalIndex;
use super::keys::{EventKey, SegmentKeys};
use super::log::{Log, LogError};
use super::segment::SegmentId;
use super::segment_index::{FrameFilter, IndexBuilder, Section, SegmentIndex, write_temporary};
use crate::disk::Disk;

/// Sections kept in memory: those that the readers of some segments need now.
const CACHE_BYTES: usize = 32 * 1024 * 1024;
/// Heads kept in memory, each with an open file: 32 bytes an organisation.
const HEADS_MAX: usize = 64;
/// How long the thread sleeps when no segment is sealed.
const IDLE: Duration = Duration::from_secs(1);
/// How long it sleeps after a failure.
const RETRY: Duration = Duration::from_secs(10);

/// How often ids of events are looked through for those that are too old.
const FORGET: Duration = Duration::from_secs(3600);

/// Which file of a segment an index is of.
type Version = (SegmentId, u32);

/// Shared by all readers of a log.
#[derive(Debug)]
pub(super) struct Indexes {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    journal: Arc<JournalIndex>,
    /// Held while a segment is gone through: who needs the same index waits.
    making: Mutex<()>,
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    heads: HashMap<Version, (Arc<SegmentIndex>, u64)>,
    sections: HashMap<(Version, u64), (Arc<Section>, u64)>,
    section_bytes: usize,
    /// Counts the uses, so that what was not used for longest goes.
    uses: u64,
}

impl Cache {
    fn head(&mut self, version: Version) -> Option<Arc<SegmentIndex>> {
        self.uses += 1;
        let (head, used) = self.heads.get_mut(&version)?;
        *used = self.uses;
        Some(head.clone())
    }

    fn put_head(&mut self, version: Version, head: Arc<SegmentIndex>) {
        self.heads.insert(version, (head, self.uses));
        if self.heads.len() > HEADS_MAX
            && let Some(oldest) = self.heads.iter().min_by_key(|(_, (_, used))| *used).map(|(at, _)| *at)
        {
            self.heads.remove(&oldest);
        }
    }

    fn section(&mut self, version: Version, owner: u64) -> Option<Arc<Section>> {
        self.uses += 1;
        let (section, used) = self.sections.get_mut(&(version, owner))?;
        *used = self.uses;
        Some(section.clone())
    }

    fn put_section(&mut self, version: Version, owner: u64, section: Arc<Section>) {
        let bytes = |section: &Section| section.byte_len() + 128;
        self.section_bytes += bytes(&section);
        if let Some((other, _)) = self.sections.insert((version, owner), (section, self.uses)) {
            self.section_bytes -= bytes(&other);
        }
        if self.section_bytes <= CACHE_BYTES {
            return;
        }
        // Half of them at once, so that this is rare.
        let mut by_use: Vec<(u64, (Version, u64))> =
            self.sections.iter().map(|(at, (_, used))| (*used, *at)).collect();
        by_use.sort_unstable();
        for (_, at) in by_use {
            if self.section_bytes <= CACHE_BYTES / 2 {
                break;
            }
            if let Some((section, _)) = self.sections.remove(&at) {
                self.section_bytes -= bytes(&section);
            }
        }
    }

    fn forget(&mut self, version: Version) {
        self.heads.remove(&version);
        let bytes = |section: &Section| section.byte_len() + 128;
        let mut freed = 0;
        self.sections.retain(|(of, _), (section, _)| {
            let kept = *of != version;
            freed += if kept { 0 } else { bytes(section) };
            kept
        });
        self.section_bytes -= freed;
    }
}

impl Indexes {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: &Path, journal: Arc<JournalIndex>) -> Indexes {
        Indexes { disk, dir: dir.to_owned(), journal, making: Mutex::default(), cache: Mutex::default() }
    }
}

impl Log {
    /// What concerns a filter in a sealed segment; `None` if the segment's file is
    /// another by now.
    pub(super) fn section(
        &self,
        id: SegmentId,
        generation: u32,
        filter: FrameFilter,
    ) -> Result<Option<Arc<Section>>, LogError> {
        let (version, owner) = ((id, generation), SegmentIndex::owner(filter));
        let indexes = self.indexes();
        if let Some(section) = indexes.cache.lock().section(version, owner) {
            return Ok(Some(section));
        }
        for _ in 0..2 {
            let Some(head) = self.segment_index(id, generation)? else { return Ok(None) };
            if let Some(section) = head.section(filter).map(Arc::new) {
                indexes.cache.lock().put_section(version, owner, section.clone());
                return Ok(Some(section));
            }
            tracing::warn!(segment = id.0, "the index of a journal segment is damaged and made anew");
            indexes.cache.lock().forget(version);
            indexes.journal.set_indexed(id, generation, false);
        }
        let path = id.index_path(&indexes.dir);
        Err(LogError::Io { path, source: io::Error::other("it was damaged as soon as it was written") })
    }

    /// The index of a sealed segment; made now if there is none.
    pub(super) fn segment_index(
        &self,
        id: SegmentId,
        generation: u32,
    ) -> Result<Option<Arc<SegmentIndex>>, LogError> {
        let (indexes, version) = (self.indexes(), (id, generation));
        if let Some(head) = indexes.cache.lock().head(version) {
            return Ok(Some(head));
        }
        let _turn = indexes.making.lock();
        if let Some(head) = indexes.cache.lock().head(version) {
            return Ok(Some(head));
        }
        let path = id.index_path(&indexes.dir);
        let found = {
            let _names = indexes.journal.names.read();
            let stands = indexes.journal.is_indexed(id) && indexes.journal.generation(id) == Some(generation);
            stands.then(|| SegmentIndex::open(indexes.disk.as_ref(), &path, id)).flatten()
        };
        let head = match found {
            Some(head) => Some(head),
            None => self.make_index(id, generation)?,
        };
        let head = head.map(Arc::new);
        if let Some(head) = &head {
            indexes.cache.lock().put_head(version, head.clone());
        }
        Ok(head)
    }

    /// Goes through a segment once and writes what is kept of it.
    fn make_index(&self, id: SegmentId, generation: u32) -> Result<Option<SegmentIndex>, LogError> {
        let indexes = self.indexes();
        let (mut builder, mut keys) = (IndexBuilder::default(), SegmentKeys::default());
        let whole = self.scan_segment(id, generation, |frame, offset| {
            builder.add(frame, offset);
            keys.add(frame);
        })?;
        if !whole {
            return Ok(None);
        }
        let bytes = builder.finish(id);
        match self.put_index(id, generation, &bytes, &keys) {
            Ok(true) => {
                let path = id.index_path(&indexes.dir);
                let read = SegmentIndex::open(indexes.disk.as_ref(), &path, id);
                Ok(read.or_else(|| SegmentIndex::in_memory(bytes, id)))
            }
            Ok(false) => Ok(None),
            Err(error) => {
                tracing::warn!(%error, segment = id.0, "the index of a journal segment is kept in memory only");
                Ok(SegmentIndex::in_memory(bytes, id))
            }
        }
    }

    /// Writes ids, then index; false if the segment's file is another by now.
    fn put_index(
        &self,
        id: SegmentId,
        generation: u32,
        bytes: &[u8],
        keys: &SegmentKeys,
    ) -> io::Result<bool> {
        let indexes = self.indexes();
        let disk = indexes.disk.as_ref();
        if !keys.is_empty() {
            keys.write(disk, &indexes.dir, id)?;
        }
        let path = id.index_path(&indexes.dir);
        let temporary = path.with_extension("index.tmp");
        write_temporary(disk, &temporary, bytes)?;
        // The segment is neither replaced nor removed meanwhile.
        let _names = indexes.journal.names.read();
        if indexes.journal.generation(id) != Some(generation) {
            disk.remove(&temporary)?;
            return Ok(false);
        }
        disk.rename(&temporary, &path)?;
        indexes.journal.set_indexed(id, generation, true);
        Ok(true)
    }

    /// Calls `visit` with the organisation of each event that brought an id and was
    /// committed at or behind `since`, in microseconds, also of those that are gone.
    /// Segments without an index are gone through, all others are not read.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn event_keys(&self, since: i64, mut visit: impl FnMut(&str, EventKey)) -> Result<(), LogError> {
        let indexes = self.indexes();
        let mut recent = |org: &str, key: EventKey| {
            if key.committed_at >= since {
                visit(org, key);
            }
        };
        let present = indexes.journal.all();
        for id in self.keys_beside(&present)? {
            match self.read_keys(id)? {
                Some(keys) => keys.for_each(&mut recent),
                None => {
                    tracing::error!(segment = id.0, "ids of events are damaged: these may be taken twice")
                }
            }
        }
        for (id, generation) in present {
            let head = {
                let _turn = indexes.making.lock();
                let indexed = indexes.journal.is_indexed(id);
                let path = id.index_path(&indexes.dir);
                indexed.then(|| SegmentIndex::open(indexes.disk.as_ref(), &path, id)).flatten()
            };
            let keys = match head {
                Some(head) if head.keys == 0 => Some(SegmentKeys::default()),
                Some(_) => self.read_keys(id)?,
                None => None,
            };
            match keys {
                Some(keys) => keys.for_each(&mut recent),
                None => {
                    let mut keys = SegmentKeys::default();
                    self.scan_segment(id, generation, |frame, _| keys.add(frame))?;
                    keys.for_each(&mut recent);
                }
            }
        }
        Ok(())
    }

    /// Removes ids of events that are gone and were all committed before `since`, in
    /// microseconds.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn forget_event_keys(&self, since: i64) -> Result<(), LogError> {
        let indexes = self.indexes();
        for id in self.keys_beside(&indexes.journal.all())? {
            let old = self.read_keys(id)?.is_none_or(|keys| keys.latest() < since);
            if old {
                let path = id.keys_path(&indexes.dir);
                indexes.disk.remove(&path).map_err(|source| LogError::Io { path, source })?;
            }
        }
        Ok(())
    }

    fn read_keys(&self, id: SegmentId) -> Result<Option<SegmentKeys>, LogError> {
        let indexes = self.indexes();
        let read = SegmentKeys::read(indexes.disk.as_ref(), &indexes.dir, id);
        read.map_err(|source| LogError::Io { path: id.keys_path(&indexes.dir), source })
    }

    /// Segments that are gone and whose ids are not.
    fn keys_beside(&self, present: &[(SegmentId, u32)]) -> Result<Vec<SegmentId>, LogError> {
        let indexes = self.indexes();
        let listed = indexes.disk.list(&indexes.dir);
        let paths = listed.map_err(|source| LogError::Io { path: indexes.dir.clone(), source })?;
        let gone = |id: &SegmentId| present.binary_search_by_key(id, |(id, _)| *id).is_err();
        Ok(paths.iter().filter_map(|path| SegmentId::of_keys_path(path)).filter(gone).collect())
    }
}

/// Makes the index of each segment soon after it was sealed, so that no reader waits
/// for one, and then has the system's cache let the segment go.
#[derive(Debug)]
pub struct SegmentIndexer {
    pub(super) log: Arc<Log>,
    /// How long ids of events outlive their segments.
    pub(super) keys_kept: Duration,
}

impl SegmentIndexer {
    /// Runs until the log is stopped.
    pub fn run(self) {
        let (log, journal) = (&self.log, &self.log.indexes().journal);
        let (mut forgotten, mut cached, mut sealed) = (None, BTreeSet::new(), SegmentId(0));
        while !log.is_stopped() {
            let behind = journal.sealed_behind(sealed);
            sealed = behind.last().copied().unwrap_or(sealed);
            cached.extend(behind);
            self.let_go(&mut cached);
            if forgotten.is_none_or(|when: Instant| when.elapsed() >= FORGET) {
                forgotten = Some(Instant::now());
                self.forget_keys();
            }
            let Some((id, generation)) = journal.unindexed() else {
                journal.wait_sealed(IDLE);
                continue;
            };
            let is_made = match log.segment_index(id, generation) {
                // Else in memory only, for want of space.
                Ok(Some(_)) => journal.is_indexed(id),
                Ok(None) | Err(LogError::Gone { .. }) => true,
                Err(error) => {
                    tracing::error!(%error, segment = id.0, "a journal segment cannot be indexed");
                    if matches!(error, LogError::Damaged { .. }) {
                        journal.set_unreadable(id);
                    }
                    false
                }
            };
            // Also of one that was written anew.
            cached.insert(id);
            if !is_made {
                log.wait_stopped(RETRY);
                log.indexes().cache.lock().forget((id, generation));
            }
        }
    }

    /// Has the system's cache let those of the segments go that are indexed and no reader
    /// comes to.
    fn let_go(&self, cached: &mut BTreeSet<SegmentId>) {
        let (log, indexes) = (&self.log, self.log.indexes());
        log.reads.end(cached, Instant::now());
        cached.retain(|id| {
            let stays = log.reads.come_to(*id) || !indexes.journal.may_go(*id);
            // Else it was removed meanwhile, and its pages with it.
            if !stays && let Ok(file) = indexes.disk.open(&id.path(&indexes.dir)) {
                file.let_go();
            }
            stays
        });
    }

    fn forget_keys(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = i64::try_from(now.saturating_sub(self.keys_kept).as_micros()).unwrap_or(i64::MAX);
        if let Err(error) = self.log.forget_event_keys(since) {
            tracing::warn!(%error, "ids of events that are too old could not be removed");
        }
    }
}
