//! Two organisations with the same user, metric and times: neither sees the other,
//! by HTTP or on disk.

use serde_json::{Value, json};

use crate::client::{Answer, Caller};
use crate::samples::{Sample, Series, series_path};
use crate::server::{Server, data_files, systole};

const USER: &str = "same-user";
const METRIC: &str = "heart_rate";
const POINTS: usize = 300;
const PAGE_LIMIT: usize = 70;
const BULK: &str = "/api/v1/wearables/bulk-ingest";
const KEYS: &str = "/api/v1/api-keys";

/// An organisation, its admin, and what is only its own.
struct Tenant {
    org: &'static str,
    key: String,
    /// Its values begin here; the other's begin elsewhere.
    base: f64,
    /// Stands in its samples only.
    source: &'static str,
}

#[test]
fn organisations_with_the_same_user_never_see_each_other_over_http() {
    let server = systole().start();
    let tenants = fill(&server);
    check_http(&server, &tenants);
    server.flush();
    check_http(&server, &tenants);
    let server = server.kill().start();
    check_http(&server, &tenants);
}

#[test]
fn organisations_share_no_file_of_a_period() {
    let server = systole().start();
    let tenants = fill(&server);
    server.compact();
    check_disk(&server, &tenants);
    let server = server.kill().start();
    for tenant in &tenants {
        tenant.push(&server, 2 * POINTS);
    }
    server.compact();
    check_disk(&server, &tenants);
}

#[test]
fn a_key_that_is_bound_to_a_user_sees_only_that_user() {
    let server = systole().start();
    let [a, _] = fill(&server);
    let other = server.caller(&a.key).post(&format!("{BULK}?user_id=other-user"), a.body(0));
    other.expect(200);
    let key = server.create_key(&["--org", "a", "--user", USER, "--scope", "ingest,read"]);
    let server = check_bound(server, &key, &a);
    server.flush();
    check_bound(server, &key, &a);
}

#[test]
fn a_deleted_key_of_one_organisation_stops_and_the_others_go_on() {
    let server = systole().start();
    let [a, b] = fill(&server);
    let id = key_ids(&server.caller(&a.key)).remove(0);
    server.operator().delete(&format!("{KEYS}/{id}?org=a")).expect(204);
    server.caller(&a.key).get(&series_path(USER, METRIC, "")).expect(401);
    b.check_own(&server.caller(&b.key));
    let server = server.kill().start();
    server.caller(&a.key).get(&series_path(USER, METRIC, "")).expect(401);
    b.check_own(&server.caller(&b.key));
}

/// Makes both organisations beside the running server and fills them.
fn fill(server: &Server) -> [Tenant; 2] {
    let tenant = |org, base, source| {
        let key = server.create_key(&["--org", org, "--scope", "ingest,read,admin", "--name", org]);
        let tenant = Tenant { org, key, base, source };
        tenant.push(server, 0);
        tenant
    };
    [tenant("a", 50.0, "only-organisation-a-has-this"), tenant("b", 150.0, "only-organisation-b-has-this")]
}

impl Tenant {
    /// Sends points from the second `first` on.
    fn push(&self, server: &Server, first: usize) {
        server.caller(&self.key).post(&format!("{BULK}?user_id={USER}"), self.body(first)).expect(200);
    }

    fn body(&self, first: usize) -> Vec<u8> {
        let point = |index: usize| {
            json!({"metric": METRIC, "value": self.value(index), "unit": "bpm", "source": self.source,
                   "recorded_at": time(first + index)})
        };
        let points: Vec<Value> = (0..POINTS).map(point).collect();
        json!({"data_points": points}).to_string().into_bytes()
    }

    fn value(&self, index: usize) -> f64 {
        self.base + (index % 40) as f64
    }

    /// It sees its samples and nothing else.
    fn check_own(&self, caller: &Caller) {
        let samples = caller.series(USER, METRIC).data_points;
        self.assert_own(&samples);
        self.assert_own(&caller.series_by_pages(USER, METRIC, "asc", PAGE_LIMIT));
        let mut newest_first = caller.series_by_pages(USER, METRIC, "desc", PAGE_LIMIT);
        newest_first.reverse();
        self.assert_own(&newest_first);
        let latest = &caller.latest(USER)[METRIC];
        assert_eq!((latest.value, &latest.recorded_at), (self.value(POINTS - 1), &time(POINTS - 1)));
    }

    fn assert_own(&self, samples: &[Sample]) {
        assert_eq!(samples.len(), POINTS, "samples of {}", self.org);
        for (index, sample) in samples.iter().enumerate() {
            assert_eq!((&sample.recorded_at, sample.value), (&time(index), self.value(index)));
            assert_eq!(sample.source, self.source);
        }
    }
}

fn time(second: usize) -> String {
    format!("2016-03-01T00:{:02}:{:02}Z", second / 60, second % 60)
}

fn check_http(server: &Server, tenants: &[Tenant; 2]) {
    let [a, b] = tenants;
    for (own, other) in [(a, b), (b, a)] {
        let caller = server.caller(&own.key);
        own.check_own(&caller);
        check_named_org(&caller, own, other);
        check_cursor(&caller, &server.caller(&other.key));
        check_source(&caller, other);
        check_keys(&caller, &server.caller(&other.key));
        let by_org = format!("&org={}", own.org);
        let seen: Series = server.operator().get(&series_path(USER, METRIC, &by_org)).expect(200).json();
        assert_eq!(seen.data_points.len(), POINTS, "an operator sees any organisation by its name");
    }
    assert!(server.operator().series(USER, METRIC).data_points.is_empty(), "default has no such user");
    assert!(server.operator().latest(USER).is_empty());
}

/// Naming the other organisation is refused wherever it can be named.
fn check_named_org(caller: &Caller, own: &Tenant, other: &Tenant) {
    let org = format!("org={}", other.org);
    let refused: [Answer; 7] = [
        caller.get(&series_path(USER, METRIC, &format!("&{org}"))),
        caller.get(&format!("/api/v1/wearables/latest?user_id={USER}&{org}")),
        caller.get(&format!("{KEYS}?{org}")),
        caller.post(&format!("{BULK}?user_id={USER}&{org}"), own.body(0)),
        caller.post(&format!("{KEYS}?{org}"), r#"{"scopes":["read"]}"#),
        caller.post(&format!("/api/v1/admin/flush?{org}"), b""),
        caller.delete(&format!("{KEYS}/key_0?{org}")),
    ];
    for (index, answer) in refused.into_iter().enumerate() {
        assert_eq!(answer.status, 403, "request {index} of {}: {}", own.org, answer.text());
    }
}

/// One's cursor leads the other nowhere.
fn check_cursor(caller: &Caller, other: &Caller) {
    let path = series_path(USER, METRIC, &format!("&limit={PAGE_LIMIT}"));
    let page: Series = other.get(&path).expect(200).json();
    let path = format!("{path}&cursor={}", page.next_cursor.unwrap());
    other.get(&path).expect(200);
    caller.get(&path).expect(422);
}

/// The other's source finds nothing.
fn check_source(caller: &Caller, other: &Tenant) {
    let path = series_path(USER, METRIC, &format!("&source={}", other.source));
    let series: Series = caller.get(&path).expect(200).json();
    assert!(series.data_points.is_empty());
}

/// Lists of keys do not cross, and the other's key cannot be deleted.
fn check_keys(caller: &Caller, other: &Caller) {
    let (own_ids, other_ids) = (key_ids(caller), key_ids(other));
    assert_eq!((own_ids.len(), other_ids.len()), (1, 1));
    assert_ne!(own_ids, other_ids);
    caller.delete(&format!("{KEYS}/{}", other_ids[0])).expect(404);
    assert_eq!(key_ids(other), other_ids);
}

fn key_ids(caller: &Caller) -> Vec<String> {
    let listing: Value = caller.get(KEYS).expect(200).json();
    listing["data"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect()
}

/// Each file lies in its organisation's folder and holds nothing of the other's.
fn check_disk(server: &Server, tenants: &[Tenant; 2]) {
    let samples = server.data_dir().join("samples");
    let files = data_files(&samples);
    let [a, b] = tenants;
    for (own, other) in [(a, b), (b, a)] {
        let folder = samples.join(format!("org={}", own.org));
        let own_files: Vec<_> = files.iter().filter(|file| file.starts_with(&folder)).collect();
        assert!(!own_files.is_empty(), "no file of {}", own.org);
        for file in own_files {
            let bytes = std::fs::read(file).unwrap();
            assert!(contains(&bytes, own.source), "{} shows no text to look for", file.display());
            assert!(!contains(&bytes, other.source), "{} holds samples of {}", file.display(), other.org);
        }
    }
    let strange = |file: &&std::path::PathBuf| {
        tenants.iter().all(|tenant| !file.starts_with(samples.join(format!("org={}", tenant.org))))
    };
    assert_eq!(files.iter().find(strange), None, "a file of no organisation");
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Without a name it is the key's user; any other name is refused.
fn check_bound(server: Server, key: &str, own: &Tenant) -> Server {
    let caller = server.caller(key);
    own.check_own(&caller);
    let path = series_path(USER, METRIC, "&order=asc").replace(&format!("user_id={USER}&"), "");
    let unnamed: Series = caller.get(&path).expect(200).json();
    own.assert_own(&unnamed.data_points);
    caller.get(&series_path("other-user", METRIC, "")).expect(403);
    caller.get("/api/v1/wearables/latest?user_id=other-user").expect(403);
    caller.post(&format!("{BULK}?user_id=other-user"), own.body(0)).expect(403);
    caller.post(BULK, r#"{"data_points":[{"user_id":"other-user"}]}"#).expect(403);
    caller.get(KEYS).expect(403);
    server
}
