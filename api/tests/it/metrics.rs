//! An organisation's own metrics, over HTTP.

use serde_json::{Value, json};

use crate::fixture::{OPERATOR, TestServer, point_with, server};

const METRICS: &str = "/api/v1/metrics";
const BULK: &str = "/api/v1/wearables/bulk-ingest?user_id=u1";
const ENDPOINTS: &str = "/api/v1/webhooks/endpoints";

fn cortisol() -> Value {
    json!({"key": "salivary_cortisol", "unit": "nmol/L", "hard_min": 0, "hard_max": 500, "aggregate": "mean"})
}

/// `cortisol` with other fields; `null` takes a field away.
fn cortisol_with(changes: &Value) -> Value {
    let mut wish = cortisol();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => wish.as_object_mut().unwrap().remove(name),
            value => wish.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    wish
}

fn sample(value: f64, unit: &str) -> Value {
    json!({ "data_points": [point_with(json!({"metric": "salivary_cortisol", "unit": unit, "value": value}))] })
}

async fn own_of(server: &TestServer, key: &str) -> Vec<Value> {
    let listing = server.get(METRICS, key).await.expect(200).json();
    let data = listing["data"].as_array().unwrap().clone();
    data.into_iter().filter(|metric| metric["own"] == true).collect()
}

#[tokio::test]
async fn a_metric_is_added_listed_taken_converted_bounded_and_read() {
    let server = server().start().await;
    let key = server.make_key("clinic", &json!({"scopes": ["admin"]})).await.key;
    let refused = server.post(BULK, &key, &sample(12.0, "nmol/L")).await.expect(422);
    assert!(refused.text().contains("unknown_metric"), "{}", refused.text());
    let mut wish = cortisol();
    wish["unit_aliases"] = json!(["nM", {"unit": "ug/dL", "scale": 27.5, "offset": 1.0}]);
    wish["description"] = json!("Cortisol in saliva");
    wish["kind"] = json!("daily");
    wish["soft_max"] = json!(35.5);
    let made = server.post(METRICS, &key, &wish).await.expect(201).json();
    let expected = json!({
        "key": "salivary_cortisol", "own": true, "unit": "nmol/L", "ucum": null,
        "unit_aliases": [
            {"unit": "nM", "scale": 1.0, "offset": 0.0}, {"unit": "ug/dL", "scale": 27.5, "offset": 1.0}
        ],
        "hard_min": 0.0, "hard_max": 500.0, "soft_min": null, "soft_max": 35.5, "aggregate": "mean",
        "kind": "daily", "loinc": [], "event_group": null, "aliases": [], "ow_code": null, "ow_unit": null,
        "description": "Cortisol in saliva"
    });
    assert_eq!(made, expected);
    assert_eq!(own_of(&server, &key).await, [expected]);

    server.post(BULK, &key, &sample(2.0, "ug/dL")).await.expect(200);
    let path = "/api/v1/wearables/metric/salivary_cortisol?user_id=u1&days=36500";
    let read = server.get(path, &key).await.expect(200).json();
    assert_eq!((&read["metric"], &read["unit"]), (&json!("salivary_cortisol"), &json!("nmol/L")));
    assert_eq!(read["data_points"][0]["value"], 56.0);
    let latest = server.get("/api/v1/wearables/latest?user_id=u1", &key).await.expect(200).json();
    let value = &latest["latest"]["salivary_cortisol"];
    assert_eq!((&value["value"], &value["unit"]), (&json!(56.0), &json!("nmol/L")));
    for (value, unit, kind) in [(501.0, "nM", "out_of_range"), (1.0, "mmol/L", "unknown_unit")] {
        let refused = server.post(BULK, &key, &sample(value, unit)).await.expect(422).json();
        assert_eq!(refused["detail"][0]["type"], kind, "{refused}");
    }
    let near =
        server.get("/api/v1/wearables/metric/salivary_cortisole?user_id=u1", &key).await.expect(404).text();
    assert!(near.contains("did you mean salivary_cortisol?"), "{near}");
    server.assert_well("adding a metric").await;
}

#[tokio::test]
async fn the_same_definition_again_is_200_and_another_409() {
    let server = server().start().await;
    server.post(METRICS, OPERATOR, &cortisol()).await.expect(201);
    let again = cortisol_with(&json!({"hard_min": 0.0, "aggregate": "avg", "kind": "spot"}));
    let same = server.post(METRICS, OPERATOR, &again).await.expect(200).json();
    assert_eq!(same["own"], true);
    for change in [json!({"unit": "ug/dL"}), json!({"hard_max": 501}), json!({"aggregate": "max"})] {
        let refused = server.post(METRICS, OPERATOR, &cortisol_with(&change)).await.expect(409);
        assert_eq!(refused.code(), "metric_defined", "{change}");
    }
    // Keys, aliases in any spelling, and the codes that name events.
    for key in
        ["heart_rate", "hrv_sdnn", "floors_climbed", "heartrate", "heart_rate_variability_rmssd", "steps"]
    {
        let refused = server.post(METRICS, OPERATOR, &cortisol_with(&json!({"key": key}))).await.expect(409);
        assert_eq!(refused.code(), "metric_built_in", "{key}");
    }
    assert_eq!(own_of(&server, OPERATOR).await.len(), 1);
}

#[tokio::test]
async fn a_wrong_definition_names_its_field_and_adds_nothing() {
    let server = server().start().await;
    let cases = [
        (json!({"key": null}), json!(["body", "key"]), "missing"),
        (json!({"unit": null}), json!(["body", "unit"]), "missing"),
        (json!({"hard_min": null}), json!(["body", "hard_min"]), "missing"),
        (json!({"hard_max": null}), json!(["body", "hard_max"]), "missing"),
        (json!({"aggregate": null}), json!(["body", "aggregate"]), "missing"),
        (json!({"key": "Cortisol"}), json!(["body", "key"]), "malformed"),
        (json!({"key": "../escape"}), json!(["body", "key"]), "malformed"),
        (json!({"key": "a".repeat(65)}), json!(["body", "key"]), "malformed"),
        (json!({"key": 5}), json!(["body", "key"]), "wrong_type"),
        (json!({"unit": ""}), json!(["body", "unit"]), "malformed"),
        (json!({"hard_min": "0"}), json!(["body", "hard_min"]), "wrong_type"),
        (json!({"hard_min": 500}), json!(["body", "hard_max"]), "malformed"),
        (json!({"aggregate": "median"}), json!(["body", "aggregate"]), "unknown_value"),
        (json!({"kind": "often"}), json!(["body", "kind"]), "unknown_value"),
        (json!({"soft_max": 900}), json!(["body", "soft_max"]), "malformed"),
        (json!({"unit_aliases": "nM"}), json!(["body", "unit_aliases"]), "wrong_type"),
        (
            json!({"unit_aliases": [{"unit": "nM", "factor": 2}]}),
            json!(["body", "unit_aliases"]),
            "wrong_type",
        ),
        (json!({"unit_aliases": [{"unit": "nM", "scale": 0}]}), json!(["body", "unit_aliases"]), "malformed"),
        (json!({"unit_aliases": ["nmol/L"]}), json!(["body", "unit_aliases"]), "malformed"),
        (json!({"aliases": ["x"]}), json!(["body", "aliases"]), "unknown_field"),
    ];
    for (change, place, kind) in cases {
        let wish = cortisol_with(&change);
        let refused = server.post(METRICS, OPERATOR, &wish).await.expect(422).json();
        let entry = &refused["detail"][0];
        assert_eq!((&entry["loc"], &entry["type"]), (&place, &json!(kind)), "{change}: {refused}");
    }
    assert_eq!(own_of(&server, OPERATOR).await, Vec::<Value>::new());
}

#[tokio::test]
async fn only_an_admin_of_the_whole_organisation_adds() {
    let server = server().start().await;
    let reader = server.make_key("clinic", &json!({"scopes": ["read", "ingest", "webhooks"]})).await.key;
    assert_eq!(server.post(METRICS, &reader, &cortisol()).await.expect(403).code(), "scope_missing");
    let bound = server.make_key("clinic", &json!({"scopes": ["admin"], "user_id": "u1"})).await.key;
    assert_eq!(server.post(METRICS, &bound, &cortisol()).await.expect(403).code(), "key_bound");
    server.request("POST", METRICS).body(cortisol().to_string()).send().await.expect(401);
    let foreign = server.post(&format!("{METRICS}?org=default"), &reader, &cortisol()).await;
    foreign.expect(403);
    server.post(&format!("{METRICS}?org=clinic"), OPERATOR, &cortisol()).await.expect(201);
    assert_eq!(own_of(&server, &reader).await.len(), 1);
}

#[tokio::test]
async fn organisations_neither_see_nor_use_the_metrics_of_others() {
    let server = server().start().await;
    let a = server.make_key("a", &json!({"scopes": ["admin"]})).await.key;
    let b = server.make_key("b", &json!({"scopes": ["admin"]})).await.key;
    server.post(METRICS, &a, &cortisol()).await.expect(201);
    server.post(BULK, &a, &sample(10.0, "nmol/L")).await.expect(200);
    let path = "/api/v1/wearables/metric/salivary_cortisol?user_id=u1&days=36500";
    let unseen = async |key: &str| {
        assert_eq!(own_of(&server, key).await, Vec::<Value>::new());
        let refused = server.post(BULK, key, &sample(10.0, "nmol/L")).await.expect(422).text();
        assert!(refused.contains("unknown_metric") && !refused.contains("nearest"), "{refused}");
        let missing = server.get(path, key).await.expect(404);
        assert!(missing.text().contains("lists them"), "{}", missing.text());
        let types = server.get("/api/v1/webhooks/event-types", key).await.expect(200).text();
        assert!(!types.contains("cortisol"));
        let wish =
            json!({"url": "https://example.org/", "filter_types": ["series.salivary_cortisol.create"]});
        let refused = server.post(ENDPOINTS, key, &wish).await.expect(422).text();
        assert!(!refused.contains("perhaps series.salivary_cortisol"), "{refused}");
        let wish =
            json!({"url": "https://example.org/", "filter_types": ["series.salivary_cortisol.created"]});
        server.post(ENDPOINTS, key, &wish).await.expect(422);
    };
    unseen(&b).await;
    unseen(OPERATOR).await;

    // The same key, another unit and range: each organisation has its own.
    let other = cortisol_with(&json!({"unit": "ug/dL", "hard_max": 20}));
    server.post(METRICS, &b, &other).await.expect(201);
    server.post(BULK, &b, &sample(21.0, "ug/dL")).await.expect(422);
    server.post(BULK, &b, &sample(0.5, "ug/dL")).await.expect(200);
    server.post(BULK, &b, &sample(0.5, "nmol/L")).await.expect(422);
    for (key, unit, value) in [(&a, "nmol/L", 10.0), (&b, "ug/dL", 0.5)] {
        let read = server.get(path, key).await.expect(200).json();
        assert_eq!((&read["unit"], &read["data_points"][0]["value"]), (&json!(unit), &json!(value)));
        assert_eq!(read["data_points"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn its_events_are_listed_can_be_filtered_for_and_tested_but_not_published() {
    let server = server().start().await;
    let types = async |key: &str| server.get("/api/v1/webhooks/event-types", key).await.expect(200).json();
    let before = types(OPERATOR).await;
    server.post(METRICS, OPERATOR, &cortisol()).await.expect(201);
    let other = server.make_key("acme", &json!({"scopes": ["webhooks"]})).await.key;
    assert_eq!(types(&other).await, before, "another organisation's list stays");
    let types = types(OPERATOR).await;
    let names: Vec<&str> =
        types["data"].as_array().unwrap().iter().map(|known| known["name"].as_str().unwrap()).collect();
    for name in ["series.salivary_cortisol.created", "series.salivary_cortisol.updated"] {
        assert_eq!(names.iter().filter(|known| **known == name).count(), 1, "{name}");
    }
    let wish = json!({"url": "https://example.org/", "filter_types": ["series.salivary_cortisol.create"]});
    let hint = server.post(ENDPOINTS, OPERATOR, &wish).await.expect(422).text();
    assert!(hint.contains("perhaps series.salivary_cortisol.created"), "{hint}");
    let wish = json!({"url": "https://example.org/", "filter_types": ["series.salivary_cortisol.created"]});
    let made = server.post(ENDPOINTS, OPERATOR, &wish).await.expect(201).json();
    let test = format!("{ENDPOINTS}/{}/test", made["id"].as_str().unwrap());
    let body = json!({"event_type": "series.salivary_cortisol.updated"});
    server.post(&test, OPERATOR, &body).await.expect(202);
    let event = json!({"type": "series.salivary_cortisol.created", "data": {}});
    let refused = server.post("/api/v1/events", OPERATOR, &event).await.expect(422).text();
    assert!(refused.contains("not_publishable"), "{refused}");
}
