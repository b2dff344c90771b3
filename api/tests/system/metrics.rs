//! Two organisations that define the same key in different units, over restarts.

use serde_json::{Value, json};

use crate::receiver::Receiver;
use crate::server::{Server, data_files, systole};

const BULK: &str = "/api/v1/wearables/bulk-ingest";
const READ: &str = "/api/v1/wearables/metric/salivary_cortisol?user_id=u1&days=36500";

struct Tenant {
    org: &'static str,
    key: String,
    unit: &'static str,
    hard_max: f64,
    /// Its values begin here.
    base: f64,
    receiver: Receiver,
}

impl Tenant {
    fn new(server: &Server, org: &'static str, unit: &'static str, hard_max: f64, base: f64) -> Tenant {
        let key = server.create_key(&["--org", org, "--scope", "admin"]);
        let tenant = Tenant { org, key, unit, hard_max, base, receiver: Receiver::start() };
        let definition = json!({
            "key": "salivary_cortisol", "unit": unit, "hard_min": 0, "hard_max": hard_max, "aggregate": "last",
            "unit_aliases": [{"unit": "half", "scale": 0.5}]
        });
        let caller = server.caller(&tenant.key);
        caller.post("/api/v1/metrics", definition.to_string()).expect(201);
        let endpoint =
            json!({"url": tenant.receiver.url(), "filter_types": ["series.salivary_cortisol.created"]});
        caller.post("/api/v1/webhooks/endpoints", endpoint.to_string()).expect(201);
        tenant
    }

    /// Sends the value of a day, in the unit that is half.
    fn push(&self, server: &Server, day: u32) {
        let point = json!({"data_points": [{
            "metric": "salivary_cortisol", "value": 2.0 * (self.base + f64::from(day)), "unit": "half",
            "user_id": "u1", "recorded_at": format!("2026-01-{day:02}T07:00:00Z"), "source": "lab"
        }]});
        server.caller(&self.key).post(BULK, point.to_string()).expect(200);
    }

    /// Checks that it has the values of these days, newest first, and nothing else.
    fn check(&self, server: &Server, days: u32) {
        let caller = server.caller(&self.key);
        let read: Value = caller.get(READ).expect(200).json();
        let values: Vec<f64> = read["data_points"]
            .as_array()
            .unwrap()
            .iter()
            .map(|point| point["value"].as_f64().unwrap())
            .collect();
        let expected: Vec<f64> = (1..=days).rev().map(|day| self.base + f64::from(day)).collect();
        assert_eq!((read["unit"].as_str(), values), (Some(self.unit), expected), "{}", self.org);
        let latest: Value = caller.get("/api/v1/wearables/latest?user_id=u1").expect(200).json();
        let latest = &latest["latest"]["salivary_cortisol"];
        let value = self.base + f64::from(days);
        assert_eq!((&latest["value"], &latest["unit"]), (&json!(value), &json!(self.unit)), "{}", self.org);
        let listing: Value = caller.get("/api/v1/metrics").expect(200).json();
        let own: Vec<&Value> =
            listing["data"].as_array().unwrap().iter().filter(|metric| metric["own"] == true).collect();
        assert_eq!(own.len(), 1, "{}", self.org);
        assert_eq!((&own[0]["unit"], &own[0]["hard_max"]), (&json!(self.unit), &json!(self.hard_max)));
    }

    /// Checks that each value came to the receiver of its organisation, in its unit.
    fn check_received(&self, days: u32) {
        let mut values: Vec<f64> = Vec::new();
        for event in self.receiver.received().events() {
            assert_eq!(event.name, "series.salivary_cortisol.created", "{}", self.org);
            assert_eq!(event.data.series_type, "salivary_cortisol");
            values.extend(event.data.samples.iter().map(|sample| sample.value));
        }
        values.sort_by(f64::total_cmp);
        let expected: Vec<f64> = (1..=days).map(|day| self.base + f64::from(day)).collect();
        assert_eq!(values, expected, "{}", self.org);
        for body in self.receiver.received().bodies.values() {
            let body: Value = serde_json::from_slice(body).unwrap();
            assert_eq!(body["data"]["samples"][0]["unit"], self.unit, "{}", self.org);
        }
    }
}

#[test]
fn one_key_of_two_organisations_stays_two_metrics_through_kills_flushes_and_webhooks() {
    let server = systole().set("SYSTOLE_DISPATCH_ALLOW_TARGETS", "127.0.0.0/8").start();
    let tenants =
        [Tenant::new(&server, "a", "nmol/L", 500.0, 100.0), Tenant::new(&server, "b", "ug/dL", 60.0, 5.0)];
    let outsider = server.create_key(&["--org", "c", "--scope", "admin"]);
    let push = |server: &Server, day: u32| tenants.iter().for_each(|tenant| tenant.push(server, day));
    let check = |server: &Server, days: u32| {
        tenants.iter().for_each(|tenant| tenant.check(server, days));
        server.caller(&outsider).get(READ).expect(404);
    };
    push(&server, 1);
    check(&server, 1);
    // Nothing is in files yet: the journal is read with the organisations' metrics.
    let server = server.kill().start();
    check(&server, 1);
    push(&server, 2);
    server.flush();
    check(&server, 2);
    let server = server.kill().start();
    push(&server, 3);
    check(&server, 3);
    server.await_quiet();
    tenants.iter().for_each(|tenant| tenant.check_received(3));
    server.operator().post("/api/v1/admin/compact", b"").expect(200);
    check(&server, 3);
    let names: Vec<String> = data_files(&server.data_dir().join("samples"))
        .iter()
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    for tenant in &tenants {
        let folder = format!("org={}/metric=salivary_cortisol/", tenant.org);
        assert!(names.iter().any(|name| name.contains(&folder)), "{folder} {names:?}");
    }
}
