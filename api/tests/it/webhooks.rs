//! Webhook endpoints and published events, over HTTP.

use serde_json::{Value, json};
use systole_engine::events::webhooks::ENDPOINTS_PER_USER_MAX;

use crate::fixture::{OPERATOR, TestServer, server};

const ENDPOINTS: &str = "/api/v1/webhooks/endpoints";
/// Public, and never called: nothing is committed in these tests.
const URL: &str = "https://receiver.example.org/hook";

async fn create(server: &TestServer, key: &str, wish: &Value) -> Value {
    server.post(ENDPOINTS, key, wish).await.expect(201).json()
}

fn id(endpoint: &Value) -> String {
    endpoint["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_endpoint_is_made_shown_changed_and_deleted_and_its_secret_is_apart() {
    let server = server().start().await;
    let wish = json!({
        "url": URL, "description": "clinic", "filter_types": ["heart_rate.created", "steps.updated"],
        "user_id": "u_1", "headers": {"X-Tenant": "hush"}, "timeout_seconds": 7
    });
    let made = create(&server, OPERATOR, &wish).await;
    let path = format!("{ENDPOINTS}/{}", id(&made));
    assert!(id(&made).starts_with("ep_") && id(&made).len() == 29, "{made}");
    assert_eq!(made["headers"], json!({"X-Tenant": "[redacted]"}));
    assert_eq!(
        (&made["dialect"], &made["active"], &made["timeout_seconds"]),
        (&json!("standard"), &json!(true), &json!(7))
    );
    assert_eq!(server.get(&path, OPERATOR).await.expect(200).json(), made);
    let key = server.get(&format!("{path}/secret"), OPERATOR).await.expect(200).json();
    let key = key["key"].as_str().unwrap();
    assert!(key.starts_with("whsec_") && !made.to_string().contains(&key[6..]), "{key}");

    let patch = json!({"description": null, "active": false, "url": "https://other.example.org/"});
    let answer = server.request("PATCH", &path).key(OPERATOR).body(patch.to_string()).send().await;
    let changed = answer.expect(200).json();
    assert_eq!((&changed["description"], &changed["active"]), (&Value::Null, &json!(false)));
    assert_eq!((&changed["filter_types"], &changed["url"]), (&made["filter_types"], &patch["url"]));

    server.request("DELETE", &path).key(OPERATOR).send().await.expect(204);
    for gone in [path.clone(), format!("{path}/secret")] {
        assert_eq!(server.get(&gone, OPERATOR).await.expect(404).json()["code"], "unknown_endpoint");
    }
    server.assert_well("managing an endpoint").await;
}

#[tokio::test]
async fn a_secret_that_is_brought_or_changed_is_the_one_that_is_kept() {
    let server = server().start().await;
    let made = create(
        &server,
        OPERATOR,
        &json!({"url": URL, "dialect": "avycenna", "secret": "first-secret-of-a-clinic"}),
    )
    .await;
    let path = format!("{ENDPOINTS}/{}", id(&made));
    let key =
        async || server.get(&format!("{path}/secret"), OPERATOR).await.expect(200).json()["key"].clone();
    assert_eq!((key().await, &made["timeout_seconds"]), (json!("first-secret-of-a-clinic"), &json!(10)));
    let patch = json!({"secret": "second-secret-of-a-clinic"}).to_string();
    server.request("PATCH", &path).key(OPERATOR).body(patch).send().await.expect(200);
    assert_eq!(key().await, json!("second-secret-of-a-clinic"));
}

#[tokio::test]
async fn a_wrong_wish_names_its_field_and_makes_nothing() {
    let server = server().start().await;
    let cases = [
        (json!({}), "url", "missing"),
        (json!({"url": 7}), "url", "wrong_type"),
        (json!({"url": "http://receiver.example.org/"}), "url", "forbidden_target"),
        (json!({"url": "https://127.0.0.1/"}), "url", "forbidden_target"),
        (json!({"url": "https://0x7f.1/"}), "url", "forbidden_target"),
        (json!({"url": "https://[::ffff:10.0.0.1]/"}), "url", "forbidden_target"),
        (json!({"url": "https://[64:ff9b::7f00:1]/"}), "url", "forbidden_target"),
        (json!({"url": "https://169.254.169.254/latest"}), "url", "forbidden_target"),
        (json!({"url": "https://localhost/"}), "url", "forbidden_target"),
        (json!({"url": URL, "filter_types": ["heartrate.created"]}), "filter_types", "unknown_event_type"),
        (json!({"url": URL, "filter_types": "heart_rate.created"}), "filter_types", "wrong_type"),
        (json!({"url": URL, "user_id": "a b"}), "user_id", "malformed"),
        (json!({"url": URL, "dialect": "svix"}), "dialect", "unknown_dialect"),
        (json!({"url": URL, "headers": {"Host": "x"}}), "headers", "forbidden_header"),
        (json!({"url": URL, "headers": {"webhook-id": "x"}}), "headers", "forbidden_header"),
        (json!({"url": URL, "headers": {"X-A": "a\r\nb: c"}}), "headers", "forbidden_header"),
        (json!({"url": URL, "secret": "whsec_short"}), "secret", "malformed"),
        (json!({"url": URL, "timeout_seconds": 0}), "timeout_seconds", "out_of_range"),
        (json!({"url": URL, "timeseries": "all"}), "timeseries", "unknown_value"),
        (json!({"url": URL, "signature": "v1b"}), "signature", "unknown_value"),
        (json!({"url": URL, "signature": "v1a", "dialect": "avycenna"}), "signature", "standard_only"),
        (json!({"url": URL, "signature": "v1a", "secret": "whsk_short"}), "secret", "malformed"),
        (json!({"url": URL, "headers": {"proxy-connection": "x"}}), "headers", "forbidden_header"),
        (json!({"url": URL, "coalesce_ms": 99}), "coalesce_ms", "out_of_range"),
        (json!({"url": URL, "coalesce_ms": 60_001}), "coalesce_ms", "out_of_range"),
        (json!({"url": URL, "batch_events": ""}), "batch_events", "wrong_type"),
        (json!({"url": URL, "batch_events": 101}), "batch_events", "out_of_range"),
        (json!({"url": URL, "dialect": "avon", "batch_events": 2}), "batch_events", "standard_only"),
        (json!({"url": URL, "rate_limit_per_second": 0}), "rate_limit_per_second", "out_of_range"),
        (json!({"url": URL, "rate_limit_per_second": 1.5}), "rate_limit_per_second", "wrong_type"),
    ];
    for (wish, field, kind) in cases {
        let answer = server.post(ENDPOINTS, OPERATOR, &wish).await.expect(422).json();
        let entry = &answer["detail"][0];
        assert_eq!(
            (&entry["loc"], &entry["type"]),
            (&json!(["body", field]), &json!(kind)),
            "{wish}: {answer}"
        );
    }
    let listed = server.get(ENDPOINTS, OPERATOR).await.expect(200).json();
    assert_eq!((&listed["data"], &listed["done"]), (&json!([]), &json!(true)));
    server.post(ENDPOINTS, OPERATOR, &json!({"url": URL, "urls": 1})).await.expect(422);
    // What is missing may be there, misspelt: that comes first.
    let answer = server.post(ENDPOINTS, OPERATOR, &json!({"ulr": URL})).await.expect(422).json();
    let entries = answer["detail"].as_array().unwrap();
    let kinds: Vec<_> = entries.iter().map(|entry| (&entry["loc"], &entry["type"])).collect();
    let (unknown, missing) = (json!("unknown_field"), json!("missing"));
    assert_eq!(kinds, [(&json!(["body", "ulr"]), &unknown), (&json!(["body", "url"]), &missing)], "{answer}");
    assert!(answer.to_string().contains("did you mean url?"), "{answer}");
    server.request("POST", ENDPOINTS).key(OPERATOR).body("{").send().await.expect(400);
}

#[tokio::test]
async fn how_deliveries_come_can_be_asked_for_changed_and_taken_away() {
    let server = server().start().await;
    let wish = json!({
        "url": URL, "payload": "thin", "timeseries": "granular",
        "coalesce_ms": 100, "batch_events": 100, "rate_limit_per_second": 10_000
    });
    let made = create(&server, OPERATOR, &wish).await;
    for (field, value) in wish.as_object().unwrap() {
        assert_eq!(&made[field], value, "{field}: {made}");
    }
    let path = format!("{ENDPOINTS}/{}", id(&made));
    assert_eq!(server.get(&path, OPERATOR).await.expect(200).json(), made);
    let patch = async |patch: Value| {
        server.request("PATCH", &path).key(OPERATOR).body(patch.to_string()).send().await
    };
    let refused = patch(json!({"dialect": "avycenna"})).await.expect(422).json();
    assert_eq!(refused["detail"][0]["loc"], json!(["body", "batch_events"]), "{refused}");
    let changed = patch(json!({"dialect": "avycenna", "batch_events": null, "coalesce_ms": 60_000})).await;
    let changed = changed.expect(200).json();
    assert_eq!((&changed["batch_events"], &changed["coalesce_ms"]), (&Value::Null, &json!(60_000)));
    assert_eq!(changed["rate_limit_per_second"], 10_000);
}

#[tokio::test]
async fn endpoints_are_listed_by_pages_and_only_to_their_organisation() {
    let server = server().start().await;
    let mut ids = Vec::new();
    for number in 0..5 {
        ids.push(id(&create(&server, OPERATOR, &json!({"url": format!("{URL}/{number}")})).await));
    }
    let acme = server.make_key("acme", &json!({"scopes": ["webhooks", "ingest"]})).await.key;
    let theirs = id(&create(&server, &acme, &json!({"url": URL})).await);
    let mut seen = Vec::new();
    let mut path = format!("{ENDPOINTS}?limit=2");
    loop {
        let page = server.get(&path, OPERATOR).await.expect(200).json();
        seen.extend(page["data"].as_array().unwrap().iter().map(id));
        if page["done"] == json!(true) {
            break;
        }
        path = format!("{ENDPOINTS}?limit=2&iterator={}", page["iterator"].as_str().unwrap());
    }
    assert_eq!(
        {
            ids.sort();
            ids.clone()
        },
        {
            seen.sort();
            seen
        }
    );
    for (path, method) in [("", "GET"), ("", "PATCH"), ("", "DELETE"), ("/secret", "GET"), ("/test", "POST")]
    {
        let path = format!("{ENDPOINTS}/{}{path}", ids[0]);
        server.request(method, &path).key(&acme).body("{}").send().await.expect(404);
    }
    let listed = server.get(ENDPOINTS, &acme).await.expect(200).json();
    assert_eq!(listed["data"].as_array().unwrap().iter().map(id).collect::<Vec<_>>(), [theirs]);
}

#[tokio::test]
async fn pages_of_endpoints_lead_forth_and_back_also_for_a_bound_key_and_over_deleted_ones() {
    let server = server().start().await;
    let bound = json!({"scopes": ["webhooks", "ingest"], "user_id": "u_1"});
    let bound = server.make_key("default", &bound).await.key;
    for number in 0..9 {
        let key = if number % 3 == 0 { OPERATOR } else { &bound };
        create(&server, key, &json!({"url": format!("{URL}/{number}")})).await;
    }
    // One of the bound key's is gone when the other looks.
    for (key, mut count) in [(bound.as_str(), 6), (OPERATOR, 8)] {
        let listed = async |query: &str| -> (Vec<String>, Value) {
            let page = server.get(&format!("{ENDPOINTS}?{query}"), key).await.expect(200).json();
            (page["data"].as_array().unwrap().iter().map(id).collect(), page)
        };
        let (mut all, whole) = listed("limit=250").await;
        assert_eq!((all.len(), &whole["done"], &whole["prev_iterator"]), (count, &json!(true), &Value::Null));
        let (first, mut page) = listed("limit=2").await;
        assert_eq!((&first[..], &page["prev_iterator"]), (&all[..2], &Value::Null));
        // The next page goes on behind one that is gone by then.
        server.request("DELETE", &format!("{ENDPOINTS}/{}", all.remove(1))).key(key).send().await.expect(204);
        count -= 1;
        let (mut seen, mut pages) = (all[..1].to_vec(), vec![all[..1].to_vec()]);
        while page["done"] == json!(false) {
            let next;
            (next, page) = listed(&format!("limit=2&iterator={}", page["iterator"].as_str().unwrap())).await;
            seen.extend(next.clone());
            pages.push(next);
        }
        assert_eq!((&seen, seen.len()), (&all, count));
        while let Some(back) = page["prev_iterator"].as_str() {
            let before;
            (before, page) = listed(&format!("limit=2&iterator={back}")).await;
            pages.pop();
            assert_eq!(Some(&before), pages.last());
            assert_eq!(page["done"], json!(false));
        }
        assert_eq!(pages.len(), 1);
    }
}

#[tokio::test]
async fn a_bound_key_makes_and_sees_only_endpoints_of_its_user() {
    let server = server().start().await;
    let bound =
        server.make_key("default", &json!({"scopes": ["webhooks", "ingest"], "user_id": "u_1"})).await.key;
    let others = id(&create(&server, OPERATOR, &json!({"url": URL})).await);
    let own = create(&server, &bound, &json!({"url": URL})).await;
    assert_eq!(own["user_id"], "u_1");
    server.post(ENDPOINTS, &bound, &json!({"url": URL, "user_id": "u_2"})).await.expect(403);
    server.get(&format!("{ENDPOINTS}/{others}"), &bound).await.expect(404);
    let patch = json!({"user_id": null}).to_string();
    let path = format!("{ENDPOINTS}/{}", id(&own));
    let changed = server.request("PATCH", &path).key(&bound).body(patch).send().await.expect(200).json();
    assert_eq!(changed["user_id"], "u_1");
    let reader = server.make_key("default", &json!({"scopes": ["read", "ingest"]})).await.key;
    server.get(ENDPOINTS, &reader).await.expect(403);
}

#[tokio::test]
async fn an_organisation_has_so_many_endpoints_and_a_user_makes_fewer() {
    let limit = ENDPOINTS_PER_USER_MAX + 2;
    let server = server().with(|settings| settings.dispatch.endpoints_max = limit).start().await;
    let key = async |org: &str, user: &str| {
        server.make_key(org, &json!({"scopes": ["webhooks"], "user_id": user})).await.key
    };
    let (bound, other) = (key("default", "u_1").await, key("default", "u_2").await);
    let wish = json!({ "url": URL });
    let external = json!({"url": URL, "webhookEventId": 1});
    let is_full = async |key: &str, text: &str| {
        for (path, wish) in [(ENDPOINTS, &wish), ("/external-events/", &external)] {
            let refused = server.post(path, key, wish).await.expect(409).json();
            assert_eq!(refused["code"], "too_many_endpoints", "{path}");
            assert!(refused["detail"].as_str().unwrap().contains(text), "{path}: {refused}");
        }
    };
    // Also those of another dialect, and those that are off.
    let mut made = vec![
        id(&server.post("/external-events/", &bound, &external).await.expect(200).json()),
        id(&create(&server, &bound, &json!({"url": URL, "active": false})).await),
    ];
    while made.len() < ENDPOINTS_PER_USER_MAX {
        made.push(id(&create(&server, &bound, &wish).await));
    }
    is_full(bound.as_str(), "a user makes at most 20").await;
    // Whoever is bound to nobody makes more of that user, up to all of the organisation.
    create(&server, OPERATOR, &json!({"url": URL, "user_id": "u_1"})).await;
    create(&server, &other, &json!({"url": URL, "attributes": {"user_id": "u_1"}})).await;
    is_full(other.as_str(), "dispatch.endpoints_max").await;
    is_full(OPERATOR, format!("at most {limit} endpoints").as_str()).await;
    create(&server, &key("acme", "u_1").await, &wish).await;
    for gone in &made[..2] {
        server.request("DELETE", &format!("{ENDPOINTS}/{gone}")).key(&bound).send().await.expect(204);
    }
    // 19 of the user are left, of which somebody else made one.
    create(&server, &bound, &wish).await;
    is_full(bound.as_str(), "a user makes at most 20").await;
    create(&server, &other, &wish).await;
    is_full(other.as_str(), "dispatch.endpoints_max").await;
}

#[tokio::test]
async fn azodhas_configuration_call_makes_an_endpoint_of_its_dialect_for_one_event() {
    let server = server().start().await;
    let configure = async |wish: Value| server.post("/external-events/", OPERATOR, &wish).await;
    let wish = json!({
        "organizationId": "default", "secret": "autogenerated-secret", "webhookEventId": 5,
        "attributes": {"organizationCode": "OC-1", "apiKey": "k"}, "name": "booking", "url": URL,
        "active": true, "sendOrganizationCode": true
    });
    let made = configure(wish).await.expect(200).json();
    assert_eq!((&made["dialect"], &made["name"]), (&json!("azodha"), &json!("booking")));
    assert_eq!(made["filter_types"], json!(["BookAppointment"]));
    assert_eq!(made["send_organization_code"], true);
    assert_eq!(made["attributes"]["organizationCode"], "OC-1");
    assert!(!made.to_string().contains("autogenerated"), "{made}");
    let path = format!("{ENDPOINTS}/{}", id(&made));
    let key = server.get(&format!("{path}/secret"), OPERATOR).await.expect(200).json();
    assert_eq!(key["key"], "autogenerated-secret");
    let names = [
        (json!(1), "AppointmentToCareTaskActivityLog"),
        (json!("12"), "OpenTele"),
        (json!("SurveyAssessment"), "SurveyAssessment"),
    ];
    for (event, name) in names {
        let made = configure(json!({"webhookEventId": event, "url": URL})).await.expect(200).json();
        assert_eq!((&made["filter_types"], &made["active"]), (&json!([name]), &json!(true)));
    }
    for (wish, field) in [
        (json!({"url": URL}), "webhookEventId"),
        (json!({"url": URL, "webhookEventId": 0}), "webhookEventId"),
        (json!({"url": URL, "webhookEventId": 13}), "webhookEventId"),
        (json!({"url": URL, "webhookEventId": "check_in.created"}), "webhookEventId"),
        (json!({"webhookEventId": 1}), "url"),
        (json!({"url": "https://10.0.0.1/", "webhookEventId": 1}), "url"),
        (json!({"url": URL, "webhookEventId": 1, "sendOrganizationCode": 1}), "sendOrganizationCode"),
        (json!({"url": URL, "webhookEventId": 1, "secret": "short"}), "secret"),
    ] {
        let refused = configure(wish).await.expect(422).json();
        assert_eq!(refused["detail"][0]["loc"], json!(["body", field]), "{refused}");
    }
    configure(json!({"organizationId": "acme", "url": URL, "webhookEventId": 1})).await.expect(403);
    let reader = server.make_key("default", &json!({"scopes": ["read", "ingest"]})).await.key;
    server.post("/external-events/", &reader, &json!({})).await.expect(403);
}

fn good_of(user: &str) -> Value {
    json!({"type": "check_in.created", "user_id": user, "data": {"mood": 4}})
}

#[tokio::test]
async fn events_are_published_by_type_and_bad_ones_are_named() {
    let server = server().start().await;
    let events = "/api/v1/events";
    let good = json!({"type": "check_in.created", "user_id": "u_1", "data": {"mood": 4}, "event_id": "ci-1"});
    let answer = server.post(events, OPERATOR, &good).await.expect(202).json();
    let id = answer["id"].as_str().unwrap();
    assert!(id.starts_with("evt_") && id.len() == 30, "{id}");
    for (wish, field, kind) in [
        (json!({"data": {}}), "type", "missing"),
        (json!({"type": "check_in.updated", "data": {}}), "type", "unknown_event_type"),
        (json!({"type": "heart_rate.created", "data": {}}), "type", "not_publishable"),
        (json!({"type": "check_in.created"}), "data", "missing"),
        (json!({"type": "check_in.created", "data": [1]}), "data", "wrong_type"),
        (json!({"type": "check_in.created", "data": {}, "user_id": ""}), "user_id", "malformed"),
        (json!({"type": "check_in.created", "data": {}, "event_id": ""}), "event_id", "malformed"),
    ] {
        let answer = server.post(events, OPERATOR, &wish).await.expect(422).json();
        let entry = &answer["detail"][0];
        assert_eq!(
            (&entry["loc"], &entry["type"]),
            (&json!(["body", field]), &json!(kind)),
            "{wish}: {answer}"
        );
    }
    let misspelt = json!({"type": "check_in.created", "data": {"eventId": 1}, "eventId": "ci-1"});
    let answer = server.post(events, OPERATOR, &misspelt).await.expect(422).json();
    assert_eq!(
        (&answer["detail"][0]["loc"], &answer["detail"][0]["type"]),
        (&json!(["body", "eventId"]), &json!("unknown_field"))
    );
    assert!(answer.to_string().contains("did you mean event_id?"), "{answer}");
    let bound = server.make_key("default", &json!({"scopes": ["ingest"], "user_id": "u_1"})).await.key;
    server.post(events, &bound, &json!({"type": "check_in.created", "data": {}})).await.expect(202);
    server
        .post(events, &bound, &json!({"type": "check_in.created", "data": {}, "user_id": "u_2"}))
        .await
        .expect(403);
    // Whom it is about may stand behind the `?`, once for all.
    server.subscribe(OPERATOR).await;
    let named = "/api/v1/events?user_id=u_1&other=1";
    for event in [json!({"type": "check_in.created", "data": {}}), good_of("u_1"), good_of("u_1")] {
        let made = server.post(named, OPERATOR, &event).await.expect(202).json();
        let message = server.message(made["id"].as_str().unwrap(), OPERATOR).await;
        assert_eq!(message["user_id"], "u_1", "{event}");
    }
    let refused = server.post(named, OPERATOR, &good_of("u_2")).await.expect(422).json();
    let entry = &refused["detail"][0];
    let place = (&entry["loc"], &entry["type"]);
    assert_eq!(place, (&json!(["body", "user_id"]), &json!("user_mismatch")), "{refused}");
    server.post(named, &bound, &json!({"type": "check_in.created", "data": {}})).await.expect(202);
    server.post("/api/v1/events?user_id=u_2", &bound, &good_of("u_1")).await.expect(403);
    let refused = server.post("/api/v1/events?user_id=a%20b", OPERATOR, &good_of("u_1")).await;
    assert_eq!(refused.expect(422).json()["detail"][0]["loc"], json!(["query", "user_id"]));
    let types = server.get("/api/v1/webhooks/event-types", OPERATOR).await.expect(200).json();
    assert!(types["data"].as_array().unwrap().len() > 136);
    for known in types["data"].as_array().unwrap() {
        assert_eq!(known["schema"]["title"], known["name"]);
        assert!(known["example"].as_object().is_some_and(|example| example.len() >= 3), "{known}");
    }
}
