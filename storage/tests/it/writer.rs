//! Data files: whatever rows go in come out, in every reader's way of reading.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type, Int16Type, TimestampMillisecondType, UInt64Type};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowPredicateFn, ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowFilter,
    RowSelection, RowSelector,
};
use parquet::arrow::arrow_writer::ArrowWriter;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::statistics::Statistics;
use proptest::prelude::*;
use systole_storage::Sequence;
use systole_storage::catalog::SectionRecord;
use systole_storage::disk::RealDisk;
use systole_storage::files::{
    BLOCK_BYTES, Block, COLUMN_NAMES, FileKind, Run, SamplesFileWriter, WrittenFile, block_schema,
    check_blocks, samples_schema,
};
use systole_storage::frame::{
    Columns, DAILY_FALSE, DAILY_TRUE, DAILY_UNKNOWN, ENDED_NONE, GroupSpec, SamplesFrame, Stamp,
    ZONE_UNKNOWN, encode_samples,
};

const FILE: &str = "runs/0-00000000000000000001.parquet";

/// A row as it goes in and comes out.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub org: String,
    pub metric: String,
    pub user: String,
    pub unit: String,
    pub source: String,
    pub device: Option<String>,
    pub time: i64,
    pub value: f64,
    pub zone: Option<i16>,
    pub ended_at: Option<i64>,
    pub daily: Option<bool>,
    pub sequence: u64,
    pub received_at: i64,
}

impl Row {
    fn names(&self) -> (&str, &str, &str, &str, &str, Option<&str>) {
        (&self.org, &self.metric, &self.user, &self.unit, &self.source, self.device.as_deref())
    }

    fn key(&self) -> (&str, &str, &str, i64, &str, Option<&str>, u64) {
        let (org, metric, user, _, source, device) = self.names();
        (org, metric, user, self.time, source, device, self.sequence)
    }

    fn at(user: &str, time: i64, value: f64) -> Row {
        Row {
            org: "default".into(),
            metric: "heart_rate".into(),
            user: user.into(),
            unit: "bpm".into(),
            source: "garmin".into(),
            device: None,
            time,
            value,
            zone: None,
            ended_at: None,
            daily: None,
            sequence: 1,
            received_at: 5,
        }
    }
}

/// Rows that a frame can hold as one group.
fn frames(rows: &[Row]) -> Vec<SamplesFrame> {
    let one_frame = |a: &Row, b: &Row| {
        let stamp = (a.sequence, a.received_at) == (b.sequence, b.received_at);
        stamp && a.names() == b.names() && a.time < b.time
    };
    rows.chunk_by(one_frame).map(frame).collect()
}

fn frame(rows: &[Row]) -> SamplesFrame {
    let first = &rows[0];
    let times: Vec<i64> = rows.iter().map(|row| row.time).collect();
    let values: Vec<f64> = rows.iter().map(|row| row.value).collect();
    let zones: Vec<i16> = rows.iter().map(|row| row.zone.unwrap_or(ZONE_UNKNOWN)).collect();
    let ends: Vec<i64> = rows.iter().map(|row| row.ended_at.unwrap_or(ENDED_NONE)).collect();
    let number = |daily: Option<bool>| {
        daily.map_or(DAILY_UNKNOWN, |daily| if daily { DAILY_TRUE } else { DAILY_FALSE })
    };
    let daily: Vec<u8> = rows.iter().map(|row| number(row.daily)).collect();
    let group = GroupSpec {
        user: &first.user,
        metric: &first.metric,
        unit: &first.unit,
        source: &first.source,
        device: first.device.as_deref(),
        first: 0,
        count: rows.len() as u32,
    };
    let columns = Columns {
        recorded_at: &times,
        value: &values,
        zone: zones.iter().any(|&zone| zone != ZONE_UNKNOWN).then_some(&zones),
        ended_at: ends.iter().any(|&end| end != ENDED_NONE).then_some(&ends),
        daily: daily.iter().any(|&daily| daily != DAILY_UNKNOWN).then_some(&daily),
    };
    let stamp = Stamp {
        sequence: Sequence(first.sequence),
        synced: Sequence::ZERO,
        ordering: first.sequence,
        committed_at: first.received_at * 1000,
    };
    SamplesFrame::parse(encode_samples(&first.org, false, &[group], columns).seal(stamp).into()).unwrap()
}

/// All of a frame's only group.
pub fn whole(frame: &SamplesFrame) -> Run<'_> {
    let group = frame.group(0);
    Run {
        metric: group.metric,
        user: group.user,
        unit: group.unit,
        source: group.source,
        device: group.device,
        frame,
        rows: group.rows(),
    }
}

fn write(root: &Path, kind: FileKind, level: u32, rows: &[Row]) -> WrittenFile {
    let mut writer = SamplesFileWriter::create_at(&RealDisk, root, FILE, kind, level).unwrap();
    frames(rows).iter().for_each(|frame| writer.push(&whole(frame)).unwrap());
    writer.finish(&RealDisk).unwrap()
}

/// What the writer of before made of the same rows: arrow's own, in memory.
fn by_arrow(rows: &[Row]) -> RecordBatch {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, samples_schema(), None).unwrap();
    writer.write(&batch(rows)).unwrap();
    writer.close().unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).unwrap();
    let schema = reader.schema().clone();
    let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

fn batch(rows: &[Row]) -> RecordBatch {
    use arrow::array::{
        ArrayRef, BooleanArray, Float64Array, Int16Array, TimestampMillisecondArray, UInt64Array,
    };
    use std::sync::Arc;
    fn column<'a, A, T>(rows: &'a [Row], of: impl Fn(&'a Row) -> T) -> ArrayRef
    where
        A: Array + FromIterator<T> + 'static,
    {
        Arc::new(rows.iter().map(of).collect::<A>())
    }
    let columns = [
        column::<StringArray, _>(rows, |row| Some(row.org.as_str())),
        column::<StringArray, _>(rows, |row| Some(row.user.as_str())),
        column::<StringArray, _>(rows, |row| Some(row.metric.as_str())),
        column::<TimestampMillisecondArray, _>(rows, |row| Some(row.time)),
        column::<Float64Array, _>(rows, |row| Some(row.value)),
        column::<StringArray, _>(rows, |row| Some(row.unit.as_str())),
        column::<StringArray, _>(rows, |row| Some(row.source.as_str())),
        column::<StringArray, _>(rows, |row| row.device.as_deref()),
        column::<Int16Array, _>(rows, |row| row.zone),
        column::<TimestampMillisecondArray, _>(rows, |row| row.ended_at),
        column::<BooleanArray, _>(rows, |row| row.daily),
        column::<UInt64Array, _>(rows, |row| Some(row.sequence)),
        column::<TimestampMillisecondArray, _>(rows, |row| Some(row.received_at)),
    ];
    let schema = samples_schema();
    let typed = columns.iter().zip(schema.fields()).map(|(array, field)| match field.data_type() {
        DataType::Timestamp(..) => {
            Arc::new(array.as_primitive::<TimestampMillisecondType>().clone().with_timezone("UTC"))
        }
        other => cast(array, other).unwrap(),
    });
    RecordBatch::try_new(schema.clone(), typed.collect()).unwrap()
}

fn options() -> ArrowReaderOptions {
    ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required)
}

fn reader(path: &Path, options: ArrowReaderOptions) -> ParquetRecordBatchReaderBuilder<File> {
    ParquetRecordBatchReaderBuilder::try_new_with_options(File::open(path).unwrap(), options).unwrap()
}

/// The batches of a file as the merge reads them.
pub fn blocks(path: &Path, batch_rows: usize) -> Vec<Block> {
    let reader = reader(path, options().with_schema(block_schema())).with_batch_size(batch_rows);
    reader.build().unwrap().map(|batch| Block::new(&batch.unwrap()).unwrap()).collect()
}

fn read(path: &Path) -> RecordBatch {
    let reader = reader(path, options());
    assert_eq!(reader.schema().fields(), samples_schema().fields());
    let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
    concat_batches(&samples_schema(), &batches).unwrap()
}

/// The rows of a batch, texts as plain strings.
fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let at = |name: &str| COLUMN_NAMES.iter().position(|known| *known == name).unwrap();
    let texts = |name| cast(batch.column(at(name)), &DataType::Utf8).unwrap();
    let [org, metric, user, unit, source, device] =
        ["org", "metric", "user_id", "unit", "source", "device"].map(texts);
    let time = |name| batch.column(at(name)).as_primitive::<TimestampMillisecondType>();
    let text = |array: &arrow::array::ArrayRef, row| array.as_string::<i32>().value(row).to_owned();
    let zones = batch.column(at("zone_offset_minutes")).as_primitive::<Int16Type>();
    let ends = time("ended_at");
    let daily = batch.column(at("is_daily_total")).as_boolean();
    (0..batch.num_rows())
        .map(|row| Row {
            org: text(&org, row),
            metric: text(&metric, row),
            user: text(&user, row),
            unit: text(&unit, row),
            source: text(&source, row),
            device: device.is_valid(row).then(|| text(&device, row)),
            time: time("recorded_at").value(row),
            value: batch.column(at("value")).as_primitive::<Float64Type>().value(row),
            zone: zones.is_valid(row).then(|| zones.value(row)),
            ended_at: ends.is_valid(row).then(|| ends.value(row)),
            daily: daily.is_valid(row).then(|| daily.value(row)),
            sequence: batch.column(at("sequence")).as_primitive::<UInt64Type>().value(row),
            received_at: time("received_at").value(row),
        })
        .collect()
}

fn metadata(path: &Path) -> ParquetMetaData {
    let file = File::open(path).unwrap();
    let loaded = ArrowReaderMetadata::load(&file, options()).unwrap();
    loaded.metadata().as_ref().clone()
}

/// Sections as they ought to be.
fn sections_of(rows: &[Row]) -> Vec<SectionRecord> {
    let of = |rows: &[Row]| SectionRecord {
        org: rows[0].org.clone(),
        metric: rows[0].metric.clone(),
        user_min: rows.iter().map(|row| &row.user).min().unwrap().clone(),
        user_max: rows.iter().map(|row| &row.user).max().unwrap().clone(),
        time_min: rows.iter().map(|row| row.time).min().unwrap(),
        time_max: rows.iter().map(|row| row.time).max().unwrap(),
        rows: rows.len() as u64,
        sequence_first: Sequence(rows.iter().map(|row| row.sequence).min().unwrap()),
        sequence_last: Sequence(rows.iter().map(|row| row.sequence).max().unwrap()),
        unique: rows.windows(2).all(|pair| {
            let key = |row: &Row| (row.user.clone(), row.time, row.source.clone(), row.device.clone());
            key(&pair[0]) != key(&pair[1])
        }),
        days: {
            let mut days: BTreeMap<i32, u64> = BTreeMap::new();
            let day = |row: &Row| i32::try_from(row.time.div_euclid(86_400_000)).unwrap();
            rows.iter().for_each(|row| *days.entry(day(row)).or_default() += 1);
            days.into_iter().collect()
        },
    };
    rows.chunk_by(|a, b| (&a.org, &a.metric) == (&b.org, &b.metric)).map(of).collect()
}

/// Stretches of rows that share what rows of requests share; long, short, or of one.
fn any_rows() -> impl Strategy<Value = Vec<Row>> {
    let text = |most: u32| {
        prop_oneof![
            4 => (0..most).prop_map(|number| format!("t{number}")),
            1 => "[a-zé水🫀 ]{1,100}",
        ]
    };
    let stretch = (
        (text(3), text(3), text(40), text(2), text(3), prop::option::of(text(30))),
        prop_oneof![3 => Just(1usize), 3 => 2..40usize, 1 => 100..1500usize],
        (0..4u64, 0..1000i64, prop::sample::select(vec![0i64, 1, 1000, 7919])),
        (prop::option::of(-720..840i16), any::<(bool, bool)>()),
        prop::sample::select(vec![1.0, 0.1, 1e-9]),
    );
    prop::collection::vec(stretch, 1..40).prop_map(|stretches| {
        let mut rows = Vec::new();
        for (
            (org, metric, user, unit, source, device),
            count,
            (sequence, from, step),
            (zone, (ends, daily)),
            grain,
        ) in stretches
        {
            for at in 0..count as i64 {
                let time = from * 1000 + at * step;
                rows.push(Row {
                    org: org.clone(),
                    metric: metric.clone(),
                    user: user.clone(),
                    unit: unit.clone(),
                    source: source.clone(),
                    device: device.clone(),
                    time,
                    value: ((at * 37 + from) % 997) as f64 * grain - 3.0,
                    zone: zone.filter(|_| at % 50 != 7),
                    ended_at: (ends && at % 3 != 0).then_some(time + 60_000),
                    daily: (daily && at % 5 != 0).then_some(at % 2 == 0),
                    sequence,
                    received_at: sequence as i64 * 1000 + 17,
                });
            }
        }
        rows.sort_by(|a, b| a.key().cmp(&b.key()));
        rows
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_rows_come_back_as_they_went_in(rows in any_rows(), period in any::<bool>(), level in 0..2u32) {
        let dir = tempfile::tempdir().unwrap();
        let kind = if period { FileKind::Period } else { FileKind::Run };
        let written = write(dir.path(), kind, level, &rows);
        let path = dir.path().join(FILE);
        let found = read(&path);
        prop_assert_eq!(rows_of(&found), rows.clone());
        prop_assert_eq!(rows_of(&by_arrow(&rows)), rows_of(&found));
        prop_assert_eq!(&written.record.sections, &sections_of(&rows));
        prop_assert_eq!(written.record.rows, rows.len() as u64);
        let bytes = std::fs::read(&path).unwrap();
        prop_assert_eq!(written.record.bytes, bytes.len() as u64);
        prop_assert_eq!(written.record.block_crc32c.len(), bytes.len().div_ceil(BLOCK_BYTES));
        prop_assert_eq!(check_blocks(&bytes, 0, &written.record.block_crc32c), Ok(()));
    }

    #[test]
    fn a_copy_in_slices_of_any_length_is_the_same_file(
        rows in any_rows(),
        batch_rows in prop::sample::select(vec![1usize, 100, 8192]),
        slice in prop::sample::select(vec![1usize, 7, 5000]),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let first = write(dir.path(), FileKind::Run, 0, &rows);
        let copied = copy(dir.path(), batch_rows, slice);
        prop_assert_eq!(&copied.record.sections, &first.record.sections);
        let (from, to) = (std::fs::read(dir.path().join(FILE)).unwrap(), std::fs::read(dir.path().join(COPY)).unwrap());
        prop_assert!(from == to);
    }

    #[test]
    fn a_block_knows_where_its_runs_end(rows in any_rows()) {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), FileKind::Run, 0, &rows);
        let mut row = 0;
        for block in blocks(&dir.path().join(FILE), 1000) {
            let of_block = &rows[row..row + block.rows()];
            for (at, row) in of_block.iter().enumerate() {
                prop_assert_eq!((block.org(at), block.metric(at), block.user(at)), (row.org.as_str(), row.metric.as_str(), row.user.as_str()));
                prop_assert_eq!((block.source(at), block.device(at)), (row.source.as_str(), row.device.as_deref()));
                prop_assert_eq!((block.recorded_at(at), block.sequence(at).0), (row.time, row.sequence));
                let end = |same: &dyn Fn(&Row) -> bool| at + of_block[at..].iter().take_while(|other| same(other)).count();
                let user = |other: &Row| (&other.org, &other.metric, &other.user) == (&row.org, &row.metric, &row.user);
                prop_assert_eq!(block.run_end(at), end(&user));
                prop_assert_eq!(block.text_run_end(at), end(&|other| other.names() == row.names()));
            }
            row += block.rows();
        }
        prop_assert_eq!(row, rows.len());
    }
}

const COPY: &str = "runs/1-00000000000000000001.parquet";

/// Writes the rows of [`FILE`] again.
fn copy(root: &Path, batch_rows: usize, slice: usize) -> WrittenFile {
    let mut writer = SamplesFileWriter::create_at(&RealDisk, root, COPY, FileKind::Run, 0).unwrap();
    for block in blocks(&root.join(FILE), batch_rows) {
        for first in (0..block.rows()).step_by(slice) {
            writer.push_rows(&block, first..block.rows().min(first + slice)).unwrap();
        }
    }
    writer.finish(&RealDisk).unwrap()
}

/// `users` with `count` samples each, a second apart.
fn of_users(users: Range<usize>, count: i64) -> Vec<Row> {
    let of_user = |user: usize| {
        (0..count).map(move |at| Row::at(&format!("u_{user:06}"), at * 1000, (60 + at % 40) as f64))
    };
    users.flat_map(of_user).collect()
}

#[test]
fn a_row_filter_behind_page_pruning_finds_exactly_one_users_rows() {
    let dir = tempfile::tempdir().unwrap();
    let rows = of_users(0..300, 700);
    write(dir.path(), FileKind::Period, 1, &rows);
    let path = dir.path().join(FILE);
    let metadata = metadata(&path);
    let user_column = 1;
    for wanted in ["u_000000", "u_000123", "u_000187", "u_000299", "u_0000001", "v"] {
        let mut selectors = Vec::new();
        let mut pages_read = 0;
        for (group, of_group) in metadata.row_groups().iter().enumerate() {
            let ColumnIndexMetaData::BYTE_ARRAY(index) =
                &metadata.column_index().unwrap()[group][user_column]
            else {
                panic!("no page bounds of users");
            };
            let locations = metadata.offset_index().unwrap()[group][user_column].page_locations();
            for (page, location) in locations.iter().enumerate() {
                let end = locations.get(page + 1).map_or(of_group.num_rows(), |next| next.first_row_index);
                let count = (end - location.first_row_index) as usize;
                let within = index.min_value(page).unwrap() <= wanted.as_bytes()
                    && wanted.as_bytes() <= index.max_value(page).unwrap();
                pages_read += usize::from(within);
                selectors.push(if within { RowSelector::select(count) } else { RowSelector::skip(count) });
            }
        }
        let builder = reader(&path, options());
        let mask = ProjectionMask::columns(builder.parquet_schema(), ["user_id"]);
        let text = wanted.to_owned();
        let predicate = ArrowPredicateFn::new(mask, move |batch| {
            let users = cast(batch.column(0), &DataType::Utf8)?;
            Ok(users.as_string::<i32>().iter().map(|user| Some(user == Some(text.as_str()))).collect())
        });
        let reader = builder
            .with_row_selection(RowSelection::from(selectors))
            .with_row_filter(RowFilter::new(vec![Box::new(predicate)]))
            .build()
            .unwrap();
        let found: Vec<Row> = reader.flat_map(|batch| rows_of(&batch.unwrap())).collect();
        let expected: Vec<Row> = rows.iter().filter(|row| row.user == wanted).cloned().collect();
        assert_eq!(found, expected, "{wanted}");
        assert!(pages_read <= 2, "{pages_read} pages for {wanted}");
    }
}

#[test]
fn statistics_are_those_of_the_rows_of_each_group() {
    let dir = tempfile::tempdir().unwrap();
    let mut rows = of_users(0..200, 700);
    for (at, row) in rows.iter_mut().enumerate() {
        row.device = (at % 7 > 3).then(|| "watch".to_owned());
        row.source = if at % 2 == 0 { "apple" } else { "garmin" }.to_owned();
        row.zone = (at % 3 == 0).then_some(at as i16 % 60);
        row.ended_at = (at % 4 == 0).then_some(row.time + 10);
        row.value = [-0.0, 0.0, 55.0][at % 3];
    }
    rows.sort_by(|a, b| a.key().cmp(&b.key()));
    write(dir.path(), FileKind::Run, 1, &rows);
    let metadata = metadata(&dir.path().join(FILE));
    let mut first = 0;
    for group in metadata.row_groups() {
        let of_group = &rows[first..first + group.num_rows() as usize];
        first += of_group.len();
        let statistics = |name: &str| {
            group.columns().iter().find(|column| column.column_descr().name() == name).unwrap().statistics()
        };
        let text = |name: &str, of: &dyn Fn(&Row) -> String| {
            let Some(Statistics::ByteArray(found)) = statistics(name) else { panic!("none of {name}") };
            assert_eq!(found.null_count_opt(), Some(0));
            let of_rows: Vec<String> = of_group.iter().map(of).collect();
            assert_eq!(found.min_bytes_opt(), of_rows.iter().min().map(String::as_bytes), "{name}");
            assert_eq!(found.max_bytes_opt(), of_rows.iter().max().map(String::as_bytes), "{name}");
        };
        text("org", &|row| row.org.clone());
        text("metric", &|row| row.metric.clone());
        text("user_id", &|row| row.user.clone());
        text("source", &|row| row.source.clone());
        let Some(Statistics::Int64(times)) = statistics("recorded_at") else { panic!("none of times") };
        assert_eq!(times.min_opt(), of_group.iter().map(|row| &row.time).min());
        assert_eq!(times.max_opt(), of_group.iter().map(|row| &row.time).max());
        let Some(Statistics::Int32(zones)) = statistics("zone_offset_minutes") else {
            panic!("none of zones")
        };
        let nulls = of_group.iter().filter(|row| row.zone.is_none()).count() as u64;
        let greatest = of_group.iter().filter_map(|row| row.zone).max().map(i32::from);
        assert_eq!((zones.null_count_opt(), zones.max_opt().copied()), (Some(nulls), greatest));
        let Some(Statistics::Int64(ends)) = statistics("ended_at") else { panic!("none of ends") };
        assert_eq!(
            ends.null_count_opt(),
            Some(of_group.iter().filter(|row| row.ended_at.is_none()).count() as u64)
        );
        let Some(Statistics::Double(values)) = statistics("value") else { panic!("none of values") };
        assert_eq!(values.min_opt().map(|least| least.to_bits()), Some((-0.0f64).to_bits()));
        assert_eq!(values.max_opt(), Some(&55.0));
    }
    assert_eq!(first, rows.len());
}

#[test]
fn row_groups_of_a_run_end_between_metrics_and_rows_of_few_stay_together() {
    let dir = tempfile::tempdir().unwrap();
    let of = |metric: &str, users| {
        let mut rows = of_users(0..users, 100);
        rows.iter_mut().for_each(|row| metric.clone_into(&mut row.metric));
        rows
    };
    let rows = [of("a", 10), of("b", 400), of("c", 10), of("d", 10), of("e", 1400)].concat();
    let written = write(dir.path(), FileKind::Run, 0, &rows);
    let groups: Vec<i64> =
        metadata(&dir.path().join(FILE)).row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(groups, [41_000, 131_072, 142_000 - 131_072]);
    assert_eq!(written.record.sections, sections_of(&rows));
    assert_eq!((written.record.metric.as_str(), written.record.user_max.as_str()), ("", "u_001399"));
    assert_eq!(rows_of(&read(&dir.path().join(FILE))), rows);
}

#[test]
fn a_user_a_row_makes_smaller_row_groups_not_longer_dictionaries() {
    let dir = tempfile::tempdir().unwrap();
    let users = (0..40_000).map(|user| format!("{user:06}-{}", "x".repeat(60)));
    let rows: Vec<Row> = users.map(|user| Row::at(&user, 0, 70.0)).collect();
    write(dir.path(), FileKind::Period, 0, &rows);
    let metadata = metadata(&dir.path().join(FILE));
    let groups: Vec<i64> = metadata.row_groups().iter().map(|group| group.num_rows()).collect();
    assert!(groups.len() == 3 && groups.iter().all(|&rows| rows < 16 * 1024), "{groups:?}");
    assert_eq!(rows_of(&read(&dir.path().join(FILE))), rows);
}

#[test]
fn values_that_are_no_numbers_or_never_repeat_come_back_bit_by_bit() {
    let dir = tempfile::tempdir().unwrap();
    let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.0, f64::MIN_POSITIVE, f64::MAX];
    for values in [odd.to_vec(), vec![f64::NAN; 3], (0..20_000).map(|at| f64::from(at).sqrt()).collect()] {
        let rows: Vec<Row> =
            values.iter().enumerate().map(|(at, &value)| Row::at("u", at as i64, value)).collect();
        write(dir.path(), FileKind::Period, 0, &rows);
        let found = rows_of(&read(&dir.path().join(FILE)));
        let bits = |rows: &[Row]| rows.iter().map(|row| row.value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&found), bits(&rows));
    }
}

#[test]
fn equal_keys_make_a_section_not_unique() {
    let dir = tempfile::tempdir().unwrap();
    let base = Row { device: Some("w".into()), ..Row::at("u_1", 1000, 1.0) };
    let twice = Row { sequence: 2, ..base.clone() };
    for (second, unique) in [
        (twice.clone(), false),
        (Row { unit: "hz".into(), ..twice.clone() }, false),
        (Row { time: 1001, ..twice.clone() }, true),
        (Row { device: Some("x".into()), ..twice.clone() }, true),
        (Row { source: "oura".into(), ..twice.clone() }, true),
        (Row { user: "u_2".into(), ..twice }, true),
    ] {
        let written = write(dir.path(), FileKind::Run, 0, &[base.clone(), second.clone()]);
        assert_eq!(written.record.sections[0].unique, unique, "{second:?}");
    }
}
