//! The journal, frame by frame: what recovery would refuse, what a reader that lags
//! would meet, and whether what it says is in files has files.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;

use super::{Context, Fault, Note};
use crate::frame::{
    Changes, FRAME_ALIGN, Frame, FrameFault, Group, Header, Mark, SamplesFrame, Sequence, verify,
};
use crate::journal::{HeaderState, SEGMENT_HEADER_BYTES, SegmentId, read_header};
use crate::store::JOURNAL_DIR;

/// Frames whose groups are kept for a verdict, which comes close behind them.
const LOOKS_MAX: usize = 100_000;
/// Faults that are named in one segment; one with more is lost anyhow.
const FAULTS_MAX: usize = 16;

/// The segments there are.
#[derive(Debug, Default)]
pub(super) struct Segments {
    segments: Vec<(SegmentId, PathBuf, u64)>,
    /// Numbers that are missing between them.
    missing: Vec<SegmentId>,
}

impl Segments {
    pub(super) fn len(&self) -> usize {
        self.segments.len()
    }

    pub(super) fn byte_len(&self) -> u64 {
        self.segments.iter().map(|(_, _, bytes)| bytes).sum()
    }
}

/// What the journal holds.
#[derive(Debug, Default)]
pub(super) struct JournalState {
    /// The last sequence in it.
    pub(super) last: Sequence,
    /// Whole frames.
    pub(super) frames: u64,
    /// Places that are damaged.
    pub(super) damaged: u64,
}

pub(super) fn segments(context: &Context<'_>) -> Segments {
    let dir = context.data_dir.join(JOURNAL_DIR);
    let (mut found, mut beside) = (Segments::default(), Vec::new());
    let paths = context.disk.list(&dir).unwrap_or_else(|error| {
        context.fault(Fault::Unreadable { path: JOURNAL_DIR.to_owned(), what: error.to_string() });
        Vec::new()
    });
    for path in paths {
        match SegmentId::of_path(&path) {
            Some(id) => {
                let bytes = context.disk.byte_len(&path).unwrap_or_default();
                found.segments.push((id, path, bytes));
            }
            // Made from segments, and made anew if they cannot be read.
            None if SegmentId::is_beside(&path) => beside.push(path),
            None => context.note(Note::Foreign { path: name(&path) }),
        }
    }
    found.segments.sort();
    // But for ids of events whose segment is gone: nothing else knows them.
    for path in beside {
        let has_segment = |id| found.segments.binary_search_by_key(&id, |(id, ..)| *id).is_ok();
        let lost = SegmentId::of_keys_path(&path).filter(|id| !has_segment(*id));
        if lost.is_some_and(|id| !id.has_whole_keys(context.disk.as_ref(), &dir)) {
            let what = "the ids of events in it are damaged: events that are sent with them again may be \
                        taken twice"
                .to_owned();
            context.fault(Fault::Unreadable { path: name(&path), what });
        }
    }
    for pair in found.segments.windows(2) {
        found.missing.extend((pair[0].0.0 + 1..pair[1].0.0).map(SegmentId));
    }
    found
}

pub(super) fn check(context: &Context<'_>, segments: &Segments) -> JournalState {
    for id in &segments.missing {
        let path = name(&id.path(JOURNAL_DIR.as_ref()));
        context.fault(Fault::SegmentMissing {
            path,
            what: "there are segments before and behind it".to_owned(),
        });
    }
    let flushed = context.flushed.unwrap_or_default();
    if segments.len() == 0 && flushed > Sequence::ZERO {
        let what = format!("samples up to {flushed} were flushed, so there was a journal");
        context.fault(Fault::SegmentMissing { path: JOURNAL_DIR.to_owned(), what });
    }
    let mut scan = Scan {
        context,
        state: JournalState::default(),
        synced: None,
        reached: None,
        looks: BTreeMap::new(),
        faults: 0,
    };
    for (place, (id, path, _)) in segments.segments.iter().enumerate() {
        let gap = place > 0 && segments.segments[place - 1].0.0 + 1 != id.0;
        if gap {
            // What is missing is known; the frames behind begin anew.
            scan.reached = None;
        }
        match read(context, path) {
            Ok(bytes) => {
                scan.segment(*id, path, &bytes, || later_frame(context, &segments.segments[place + 1..]))
            }
            Err(error) => {
                context.fault(Fault::Unreadable { path: name(path), what: error.to_string() });
                (scan.state.damaged, scan.reached) = (scan.state.damaged + 1, None);
            }
        }
        context.done();
    }
    scan.state
}

/// Below the data dir.
fn name(path: &std::path::Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    format!("{JOURNAL_DIR}/{file}")
}

fn read(context: &Context<'_>, path: &std::path::Path) -> std::io::Result<Bytes> {
    let file = context.disk.open(path)?;
    let len = usize::try_from(file.byte_len()?).map_err(std::io::Error::other)?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0)?;
    context.read(len as u64);
    Ok(bytes.into())
}

/// Whether a whole frame lies in one of these segments: then those before were full.
fn later_frame(context: &Context<'_>, segments: &[(SegmentId, PathBuf, u64)]) -> bool {
    segments.iter().any(|(_, path, _)| {
        let read = context.disk.open(path).and_then(|file| {
            let mut bytes = vec![0; usize::try_from(file.byte_len()?).map_err(std::io::Error::other)?];
            file.read_exact_at(&mut bytes, 0)?;
            Ok(bytes)
        });
        read.is_ok_and(|bytes| next_frame(&bytes, SEGMENT_HEADER_BYTES as usize).is_some())
    })
}

/// The first whole frame at or behind `from`, looked for at every alignment.
fn next_frame(bytes: &[u8], from: usize) -> Option<(usize, Header)> {
    let mut at = from.next_multiple_of(FRAME_ALIGN);
    while at + FRAME_ALIGN <= bytes.len() {
        if bytes[at..at + FRAME_ALIGN] != [0; FRAME_ALIGN]
            && let Ok(header) = verify(&bytes[at..])
        {
            return Some((at, header));
        }
        at += FRAME_ALIGN;
    }
    None
}

struct Scan<'a> {
    context: &'a Context<'a>,
    state: JournalState,
    /// `synced` of the frame read last: which group it is of.
    synced: Option<Sequence>,
    /// The sequence read last, unless what comes begins anew: at the first segment and
    /// behind damage.
    reached: Option<Sequence>,
    /// Rows of the groups that wait for a verdict, by frame.
    looks: BTreeMap<Sequence, Vec<u32>>,
    /// Faults of the segment that is read.
    faults: usize,
}

impl Scan<'_> {
    fn segment(&mut self, id: SegmentId, path: &std::path::Path, bytes: &Bytes, later: impl Fn() -> bool) {
        let path = name(path);
        self.faults = 0;
        match read_header(bytes, id) {
            HeaderState::Valid => {}
            HeaderState::Version(version) => {
                return self.damage(&path, 0, format!("format version {version} is not known"));
            }
            HeaderState::Broken if next_frame(bytes, 0).is_some() => {
                self.damage(&path, 0, "the header is broken, but frames follow".to_owned());
            }
            HeaderState::Broken => return self.context.note(Note::UnusedSegment { path }),
        }
        let mut at = SEGMENT_HEADER_BYTES as usize;
        // Sequences rise within a segment, also behind damage.
        let mut previous = Sequence::ZERO;
        for _ in 0..FAULTS_MAX {
            let Some(fault) = self.frames(&path, bytes, &mut at, &mut previous) else { return };
            let Some(end) = bytes[at..].iter().rposition(|byte| *byte != 0) else { return };
            let behind = next_frame(bytes, at + FRAME_ALIGN);
            let last = self.reached.unwrap_or(previous);
            // As at recovery: what was written when more was durable proves damage.
            let proof = behind.is_some_and(|(from, _)| synced_beyond(bytes, from, last));
            if !proof && !later() {
                let torn = Note::TornTail { path, offset: at as u64, bytes: end as u64 + 1 };
                return self.context.note(torn);
            }
            self.damage(&path, at as u64, fault.to_string());
            match behind {
                Some((from, _)) => at = from,
                None => return,
            }
        }
    }

    /// Reads frames from `at` on; what is wrong where they end before the segment does.
    fn frames(
        &mut self,
        path: &str,
        bytes: &Bytes,
        at: &mut usize,
        previous: &mut Sequence,
    ) -> Option<FrameFault> {
        while *at + FRAME_ALIGN <= bytes.len() {
            let header = match verify(&bytes[*at..]) {
                Ok(header) if header.stamp.sequence > *previous => header,
                Ok(_) => return Some(FrameFault::Payload { what: "its sequence does not rise" }),
                Err(fault) => return Some(fault),
            };
            self.check_place(path, *at, &header);
            *previous = header.stamp.sequence;
            self.frame(path, *at, &bytes.slice(*at..*at + header.frame_bytes()));
            *at += header.frame_bytes();
        }
        None
    }

    /// Whether durable frames before this one are missing.
    fn check_place(&mut self, path: &str, at: usize, header: &Header) {
        let stamp = header.stamp;
        match self.reached {
            Some(last) => {
                let same_group = self.synced == Some(stamp.synced) && last > stamp.synced;
                if stamp.synced > last || same_group && stamp.sequence.0 > last.0 + 1 {
                    self.damage(
                        path,
                        at as u64,
                        format!("durable frames behind {last} are missing before it"),
                    );
                }
            }
            // The oldest frame there is.
            None if self.state.frames == 0 => {
                let removed = if stamp.sequence == stamp.synced.next() {
                    stamp.synced
                } else {
                    Sequence(stamp.sequence.0 - 1)
                };
                if let Some(flushed) = self.context.flushed.filter(|flushed| removed > *flushed) {
                    let what = format!("frames behind {flushed}, where files end, are missing before it");
                    self.damage(path, at as u64, what);
                }
            }
            None => {}
        }
        self.synced = Some(stamp.synced);
        self.reached = Some(stamp.sequence);
        self.state.last = self.state.last.max(stamp.sequence);
        self.state.frames += 1;
    }

    fn frame(&mut self, path: &str, at: usize, bytes: &Bytes) {
        let offset = at as u64;
        match Frame::parse(bytes.clone()) {
            Ok(Frame::Samples(frame)) => self.samples(path, offset, &frame),
            Ok(Frame::Changes(header, changes)) => {
                if let Some(what) = self.verdicts(&header, &changes) {
                    self.damage(path, offset, what);
                }
            }
            Ok(_) => {}
            Err(fault) => self.damage(path, offset, fault.to_string()),
        }
    }

    fn samples(&mut self, path: &str, offset: u64, frame: &SamplesFrame) {
        let sequence = frame.header().stamp.sequence;
        if frame.groups().any(|group| group.mark == Mark::Look) {
            // A verdict that came before the erasure counts the rows that were there.
            let rows =
                |group: Group<'_>| u32::try_from(group.count.max(group.erased_rows)).unwrap_or(u32::MAX);
            self.looks.insert(sequence, frame.groups().map(rows).collect());
            if self.looks.len() > LOOKS_MAX {
                self.looks.pop_first();
            }
        }
        for (index, group) in frame.groups().enumerate() {
            self.meet(frame, &group, sequence);
            if let Some(what) = self.group(frame, &group, sequence) {
                return self.damage(path, offset, format!("group {index}: {what}"));
            }
        }
    }

    /// What is wrong with a group of samples.
    fn group(&self, frame: &SamplesFrame, group: &Group<'_>, sequence: Sequence) -> Option<String> {
        let Some(rule) = (self.context.rules)(frame.org(), group.metric) else {
            return Some(format!("organisation {} has no metric {}", frame.org(), group.metric));
        };
        if rule.unit != group.unit {
            return Some(format!("its unit is {:?}, not {:?}", group.unit, rule.unit));
        }
        let fits = |row: usize| rule.hard_min <= frame.value(row) && frame.value(row) <= rule.hard_max;
        if !group.rows().all(fits) {
            return Some(format!("a value is not within {} and {}", rule.hard_min, rule.hard_max));
        }
        let rows = group.rows();
        if rows.clone().skip(1).any(|row| frame.recorded_at(row - 1) >= frame.recorded_at(row)) {
            return Some("its times do not rise".to_owned());
        }
        let missing = self.context.flushed.is_some_and(|flushed| sequence <= flushed)
            && !self.is_gone(frame, group, sequence)
            && !self.is_in_files(frame, group, sequence);
        missing.then(|| format!("its samples of {} were flushed, and no file can hold them", group.metric))
    }

    /// Tells the checkpoints' newest value of a group's metric which samples are there.
    fn meet(&self, frame: &SamplesFrame, group: &Group<'_>, sequence: Sequence) {
        let told = self.context.told.as_ref();
        if let Some(newest) = told.and_then(|told| told.newest(frame.org(), group.user, group.metric)) {
            group.rows().for_each(|row| newest.meet(frame.recorded_at(row), sequence));
        }
    }

    /// Whether no file need hold any of a group's rows: they were erased, or are older
    /// than they are kept, now or under rules of before.
    fn is_gone(&self, frame: &SamplesFrame, group: &Group<'_>, sequence: Sequence) -> bool {
        let (hidden, org, metric) = (&self.context.hidden, frame.org(), group.metric);
        let hiding = hidden.of(org, metric, group.user);
        group.rows().map(|row| frame.recorded_at(row)).all(|time| {
            let erased = hiding.as_ref().is_some_and(|hiding| hiding.erases(time, sequence));
            erased || hidden.may_be_dropped(org, metric, time)
        })
    }

    /// Whether a file may hold a flushed group's rows, or those that superseded them.
    fn is_in_files(&self, frame: &SamplesFrame, group: &Group<'_>, sequence: Sequence) -> bool {
        let files =
            self.context.files.find(frame.org(), group.user, group.metric, group.earliest, group.latest + 1);
        let of_it = |section: &crate::catalog::SectionRecord| {
            section.org == frame.org() && section.metric == group.metric && section.sequence_last >= sequence
        };
        files.iter().any(|file| file.record.sections.iter().any(of_it))
    }

    /// What is wrong with verdicts: they must be of groups that are there, row for row.
    fn verdicts(&mut self, header: &Header, changes: &Changes) -> Option<String> {
        if changes.through >= header.stamp.sequence {
            return Some(format!("decides up to {}, which is behind it", changes.through));
        }
        let mut wrong = None;
        for group in &changes.groups {
            // Frames before the oldest one that is left cannot be compared.
            let Some(rows) = self.looks.get(&group.sequence) else { continue };
            if rows.get(group.group as usize) != Some(&group.rows) {
                wrong = Some(format!(
                    "group {} of frame {} has not {} rows",
                    group.group, group.sequence, group.rows
                ));
            }
        }
        self.looks = self.looks.split_off(&changes.through.next());
        wrong
    }

    fn damage(&mut self, path: &str, offset: u64, what: String) {
        self.state.damaged += 1;
        // What comes is not compared with what was before.
        self.reached = None;
        self.faults += 1;
        let what = match self.faults.cmp(&(FAULTS_MAX + 1)) {
            Ordering::Less => what,
            Ordering::Equal => format!("{what}; and there may be more, which are not named"),
            Ordering::Greater => return,
        };
        self.context.fault(Fault::Journal { path: path.to_owned(), offset, what });
    }
}

/// Whether a whole frame at or behind `from` was written when something after `last`
/// was durable.
fn synced_beyond(bytes: &[u8], mut from: usize, last: Sequence) -> bool {
    while let Some((at, header)) = next_frame(bytes, from) {
        if header.stamp.synced > last {
            return true;
        }
        from = at + header.frame_bytes();
    }
    false
}
