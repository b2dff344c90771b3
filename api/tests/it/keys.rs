//! Managing API keys.

use serde_json::{Value, json};

use crate::fixture::{OPERATOR, server};

const KEYS: &str = "/api/v1/api-keys";
const LATEST: &str = "/api/v1/wearables/latest?user_id=u1";

#[tokio::test]
async fn a_key_is_made_shown_once_listed_and_deleted() {
    let server = server().start().await;
    let wish = json!({"name": "garmin bridge", "user_id": "u1", "scopes": ["read", "ingest", "read"]});
    let made = server.post(KEYS, OPERATOR, &wish).await.expect(201).json();
    let key = made["key"].as_str().unwrap();
    assert!(key.starts_with("avk_") && key.len() == 47, "{made}");
    assert!(made["id"].as_str().unwrap().starts_with("key_"));
    assert_eq!(made["name"], "garmin bridge");
    assert_eq!(made["user_id"], "u1");
    assert_eq!(made["scopes"], json!(["ingest", "read"]));
    assert!(made["created_at"].as_str().unwrap().ends_with('Z'));
    server.get(LATEST, key).await.expect(200);

    let list = server.get(KEYS, OPERATOR).await.expect(200);
    assert!(!list.text().contains(key));
    let mut shown = made.clone();
    shown.as_object_mut().unwrap().remove("key");
    assert_eq!(list.json()["data"], json!([shown]));

    let path = format!("{KEYS}/{}", made["id"].as_str().unwrap());
    let deleted = server.request("DELETE", &path).key(OPERATOR).send().await.expect(204);
    assert!(deleted.body.is_empty());
    server.get(LATEST, key).await.expect(401);
    let again = server.request("DELETE", &path).key(OPERATOR).send().await.expect(404);
    assert_eq!(again.code(), "unknown_key");
}

#[tokio::test]
async fn a_wish_that_cannot_be_is_refused_and_named() {
    let server = server().start().await;
    for (wish, status, place) in [
        (json!({}), 422, json!(["body", "scopes"])),
        (json!({"scopes": []}), 422, json!(["body", "scopes"])),
        (json!({"scopes": "read"}), 422, json!(["body", "scopes"])),
        (json!({"scopes": ["everything"]}), 422, json!(["body", "scopes"])),
        (json!({"scopes": [3]}), 422, json!(["body", "scopes"])),
        (json!({"scopes": ["read"], "user_id": "a b"}), 422, json!(["body", "user_id"])),
        (json!({"scopes": ["read"], "user_id": 7}), 422, json!(["body", "user_id"])),
        (json!({"scopes": ["read"], "name": ""}), 422, json!(["body", "name"])),
        (json!({"scopes": ["read"], "name": "a\nb"}), 422, json!(["body", "name"])),
        (json!([]), 422, json!(["body"])),
    ] {
        let answer = server.post(KEYS, OPERATOR, &wish).await.expect(status).json();
        assert_eq!(answer["detail"][0]["loc"], place, "{wish}");
    }
    let request = server.request("POST", KEYS).key(OPERATOR);
    let malformed = request.clone().body("{\"scopes\": nope}").send().await.expect(400);
    assert_eq!(malformed.code(), "malformed_json");
    assert!(malformed.text().contains("at byte 12"), "{}", malformed.text());
    request.clone().body(vec![b' '; 100_000]).send().await.expect(413);
    let form = request.header("Content-Type", "application/x-www-form-urlencoded");
    form.body("{\"scopes\":[\"read\"]}").send().await.expect(201);
}

#[tokio::test]
async fn nobody_gives_more_than_they_have() {
    let server = server().start().await;
    let admin = server.make_key("clinic", &json!({"scopes": ["admin"]})).await.key;
    let refused = server.post(KEYS, &admin, &json!({"scopes": ["operator"]})).await.expect(403);
    assert_eq!(refused.code(), "scope_not_grantable");
    server.post(KEYS, &admin, &json!({"scopes": ["admin", "webhooks"]})).await.expect(201);

    let bound = server.make_key("clinic", &json!({"scopes": ["admin"], "user_id": "u1"})).await.key;
    let made = server.post(KEYS, &bound, &json!({"scopes": ["read"]})).await.expect(201).json();
    assert_eq!(made["user_id"], "u1");
    server.post(KEYS, &bound, &json!({"scopes": ["read"], "user_id": "u2"})).await.expect(403);
    let list = server.get(KEYS, &bound).await.expect(200).json();
    assert!(list["data"].as_array().unwrap().iter().all(|key| key["user_id"] == "u1"), "{list}");
    let all = server.get(KEYS, &admin).await.expect(200).json();
    let others = all["data"].as_array().unwrap().iter().filter(|key| key["user_id"].is_null());
    for key in others {
        let path = format!("{KEYS}/{}", key["id"].as_str().unwrap());
        server.request("DELETE", &path).key(&bound).send().await.expect(404);
    }
    server.get(KEYS, &admin).await.expect(200);
}

#[tokio::test]
async fn lists_page_forth_and_back() {
    let server = server().start().await;
    let mut made = Vec::new();
    for _ in 0..7 {
        made.push(server.make_key("clinic", &json!({"scopes": ["read"]})).await.id);
    }
    let page = async |parameters: &str| {
        server.get(&format!("{KEYS}?org=clinic&{parameters}"), OPERATOR).await.expect(200).json()
    };
    let ids = |page: &Value| -> Vec<String> {
        page["data"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect()
    };
    let mut found = Vec::new();
    let mut iterator = String::new();
    let last = loop {
        let page = page(&format!("limit=3{iterator}")).await;
        found.extend(ids(&page));
        if page["done"] == true {
            break page;
        }
        iterator = format!("&iterator={}", page["iterator"].as_str().unwrap());
    };
    assert_eq!(ids(&last).len(), 1);
    let mut expected = made.clone();
    let whole = page("").await;
    assert_eq!(found, ids(&whole));
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let back = page(&format!("limit=3&iterator={}", last["prev_iterator"].as_str().unwrap())).await;
    assert_eq!(ids(&back), ids(&whole)[3..6]);
    assert_eq!(whole["prev_iterator"], Value::Null);
    for bad in ["limit=0", "limit=251", "iterator=garbage"] {
        server.get(&format!("{KEYS}?{bad}"), OPERATOR).await.expect(422);
    }
    let empty = server.make_key("lonely", &json!({"scopes": ["admin"]})).await;
    server
        .request("DELETE", &format!("{KEYS}/{}?org=lonely", empty.id))
        .key(OPERATOR)
        .send()
        .await
        .expect(204);
    let none = server.get(&format!("{KEYS}?org=lonely"), OPERATOR).await.expect(200).json();
    assert_eq!(none, json!({"data": [], "iterator": null, "prev_iterator": null, "done": true}));
}
