use std::collections::BTreeMap;

use systole_engine::Catalog;
use systole_engine::registry::{
    AddMetricError, Added, Aggregate, Metric, OWN_METRICS_MAX, Registries, Registry, Scale,
};

#[test]
fn all_131_metrics_are_there_and_avycennas_ten_come_first() {
    let registry = Registry::builtin();
    assert_eq!(registry.metrics().len(), 131);
    let first: Vec<&str> = registry.metrics()[..10].iter().map(|metric| metric.key.as_str()).collect();
    assert_eq!(
        first,
        [
            "heart_rate",
            "hrv",
            "spo2",
            "steps",
            "sleep_duration",
            "sleep_deep",
            "sleep_rem",
            "body_temperature",
            "respiratory_rate",
            "calories"
        ]
    );
}

#[test]
fn every_name_leads_to_its_metric_and_no_other_whatever_its_letter_case() {
    let registry = Registry::builtin();
    let mut owners: BTreeMap<String, &str> = BTreeMap::new();
    for metric in registry.metrics() {
        // Open Wearables' codes are names too.
        for name in std::iter::once(&metric.key).chain(&metric.aliases).chain(&metric.ow_code) {
            let (id, found) = registry.resolve(name).unwrap_or_else(|| panic!("{name}"));
            assert_eq!(found.key, metric.key, "{name}");
            assert_eq!(registry.metric(id).key, metric.key, "{name}");
            let owner = owners.entry(name.to_lowercase()).or_insert(&metric.key);
            assert_eq!(owner, &metric.key, "{name}");
        }
    }
}

#[test]
fn every_unit_of_a_metric_has_a_scale_and_its_own_two_change_nothing() {
    for metric in Registry::builtin().metrics() {
        assert_eq!(metric.scale(&metric.unit), Some(Scale::SAME), "{}", metric.key);
        assert_eq!(metric.scale(&metric.ucum), Some(Scale::SAME), "{}", metric.key);
        for alias in &metric.unit_aliases {
            assert_eq!(metric.scale(&alias.name), Some(alias.scale), "{} in {}", metric.key, alias.name);
        }
        let units: Vec<&str> = metric.units().collect();
        assert_eq!(units[0], metric.unit);
        for (index, unit) in units.iter().enumerate() {
            assert!(metric.scale(unit).is_some(), "{} in {unit}", metric.key);
            assert!(!units[..index].contains(unit), "{} in {unit}", metric.key);
        }
    }
}

#[test]
fn unusual_lies_within_allowed() {
    for metric in Registry::builtin().metrics() {
        let soft = [metric.soft_min, metric.soft_max];
        assert!(soft.into_iter().flatten().all(|bound| metric.allows(bound)), "{}", metric.key);
        assert!(!metric.allows(f64::NAN) && !metric.allows(f64::INFINITY), "{}", metric.key);
    }
}

#[test]
fn a_loinc_code_stands_under_one_key_only() {
    let registry = Registry::builtin();
    let mut codes: Vec<&String> = registry.metrics().iter().flat_map(|metric| &metric.loinc).collect();
    let all = codes.len();
    codes.sort();
    codes.dedup();
    assert_eq!(codes.len(), all);
}

#[test]
fn values_become_canonical() {
    let registry = Registry::builtin();
    for (metric, value, unit, canonical) in [
        ("heart_rate", 62.0, "bpm", 62.0),
        ("heart_rate", 62.0, "/min", 62.0),
        ("heart_rate", 1.0, "Hz", 60.0),
        ("hrv", 0.05, "s", 50.0),
        ("spo2", 97.0, "percent", 97.0),
        ("sleep_duration", 480.0, "min", 480.0 * 0.016_666_666_666_666_666),
        ("body_temperature", 98.6, "°F", 98.6 * 0.555_555_555_555_555_6 - 17.777_777_777_777_78),
        ("body_temperature", 310.15, "K", 310.15 - 273.15),
        ("skin_temperature_deviation", 1.8, "°F", 1.8 * 0.555_555_555_555_555_6),
        ("skin_temperature_deviation", 1.0, "K", 1.0),
        ("blood_glucose", 5.5, "mmol/L", 5.5 * 18.0156),
        ("weight", 150.0, "lb", 150.0 * 0.453_592_37),
        ("HEART_RATE", 62.0, "count/min", 62.0),
    ] {
        let (_, found) = registry.resolve(metric).unwrap_or_else(|| panic!("{metric}"));
        let scale = found.scale(unit).unwrap_or_else(|| panic!("{metric} in {unit}"));
        assert_eq!(scale.apply(value).to_bits(), f64::to_bits(canonical), "{metric} {value} {unit}");
    }
}

#[test]
fn names_and_units_are_never_guessed() {
    let registry = Registry::builtin();
    for name in ["", "Heart_Rate", "heart_rate ", "heartrate", "HKQuantityTypeIdentifierheartrate"] {
        assert!(registry.resolve(name).is_none(), "{name:?}");
    }
    for (metric, unit) in
        [("spo2", "fraction"), ("spo2", ""), ("heart_rate", "BPM"), ("heart_rate", "hz"), ("calories", "cal")]
    {
        let (_, found) = registry.resolve(metric).unwrap_or_else(|| panic!("{metric}"));
        assert_eq!(found.scale(unit), None, "{metric} in {unit:?}");
    }
}

#[test]
fn close_names_are_proposed_and_far_ones_are_not() {
    let registry = Registry::builtin();
    for (name, nearest) in [
        ("hart_rate", vec!["heart_rate"]),
        ("HeartRate", vec!["heart_rate"]),
        ("HKQuantityTypeIdentifierHartRate", vec!["heart_rate"]),
        ("step", vec!["steps"]),
        ("respitory_rate", vec!["respiratory_rate"]),
        ("blod_glucose", vec!["blood_glucose"]),
        ("daily_steps", vec!["steps"]),
        ("xyzzy", vec![]),
        ("", vec![]),
        ("\u{0}", vec![]),
    ] {
        let found = registry.nearest(name);
        assert!(found.len() <= 3, "{name:?}: {found:?}");
        assert_eq!(found.is_empty(), nearest.is_empty(), "{name:?}: {found:?}");
        assert!(found.starts_with(&nearest), "{name:?}: {found:?}");
    }
    assert!(registry.nearest("temperature").contains(&"body_temperature"));
    assert!(registry.nearest(&"heart_rate".repeat(1000)).is_empty());
}

fn own(key: &str, unit: &str) -> Metric {
    Metric::own(key, unit, (0.0, 10.0), Aggregate::Sum)
}

#[test]
fn own_metrics_belong_to_their_organisation_and_stay_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    for start in 0..3 {
        let catalog = Catalog::open(dir.path()).unwrap();
        let registries = Registries::load(&catalog).unwrap();
        let add = |org: &str, metric: Metric| registries.add(&catalog, org, metric, |_| {}).unwrap();
        let expected = if start == 0 { Added::New } else { Added::Already };
        assert_eq!(add("a", own("mood_swing", "1")), expected);
        assert_eq!(add("b", own("mood_swing", "%")), expected);
        assert_eq!(add("b", own("moodswing", "%")), expected);
        let (a, b) = (registries.of("a"), registries.of("b"));
        let unit =
            |registry: &Registry, key: &str| registry.resolve(key).map(|(_, metric)| metric.unit.clone());
        assert_eq!(unit(&a, "mood_swing").as_deref(), Some("1"));
        assert_eq!(unit(&b, "mood_swing").as_deref(), Some("%"));
        assert_eq!((unit(&a, "moodswing"), unit(&registries.of("c"), "mood_swing")), (None, None));
        assert_eq!(a.nearest("moodswin").first(), Some(&"mood_swing"));
        assert!(registries.of("c").nearest("mood_swin").iter().all(|near| *near != "mood_swing"));
        for registry in [&a, &b] {
            let keys = registry.metrics().iter().chain(registry.own_metrics()).map(|metric| &metric.key);
            let ids: Vec<_> = keys.map(|key| registry.resolve(key).unwrap().0).collect();
            assert!(ids.is_sorted() && ids.iter().all(|id| registry.is_own(*id) == (id.number() >= 131)));
        }
    }
}

#[test]
fn a_registry_that_was_taken_before_an_addition_does_not_change() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    let registries = Registries::load(&catalog).unwrap();
    let before = registries.of("a");
    let mut announced = Vec::new();
    let announce = |metric: &Metric| {
        assert!(registries.of("a").resolve("spin").is_none(), "announced before it can be named");
        announced.push(metric.key.clone());
    };
    assert_eq!(registries.add(&catalog, "a", own("spin", "1"), announce).unwrap(), Added::New);
    assert_eq!(announced, ["spin"]);
    assert!(before.resolve("spin").is_none() && registries.of("a").resolve("spin").is_some());
}

#[test]
fn an_organisation_has_at_most_a_thousand_metrics_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    let registries = Registries::load(&catalog).unwrap();
    for number in 0..OWN_METRICS_MAX {
        registries.add(&catalog, "a", own(&format!("m_{number}"), "1"), |_| {}).unwrap();
    }
    let more = registries.add(&catalog, "a", own("one_more", "1"), |_| {});
    assert!(matches!(more, Err(AddMetricError::TooMany)), "{more:?}");
    registries.add(&catalog, "b", own("one_more", "1"), |_| {}).unwrap();
    assert_eq!(registries.add(&catalog, "a", own("m_7", "1"), |_| {}).unwrap(), Added::Already);
    let refused = registries.add(&catalog, "b", own("restingheartrate", "1"), |_| {});
    assert!(matches!(refused, Err(AddMetricError::BuiltIn { .. })), "{refused:?}");
}
