//! Callers: keys, tokens, scopes, organisations.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use systole::{IssuerKey, IssuerSettings, Scope, Scopes};

use crate::fixture::{OPERATOR, TestServer, point, server};

const ONE: &str = "/api/v1/wearables/ingest";
const LATEST: &str = "/api/v1/wearables/latest";
const SECRET: &str = "a-secret-of-at-least-thirty-two-bytes";

fn in_seconds(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    i64::try_from(now).unwrap() + seconds
}

fn sign(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, key).unwrap()
}

fn hs256(claims: &Value) -> String {
    sign(Algorithm::HS256, &EncodingKey::from_secret(SECRET.as_bytes()), claims)
}

fn claims(changes: &Value) -> Value {
    let mut claims = json!({"sub": "u1", "exp": in_seconds(600)});
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

fn public(pem: &str, issuer: &str) -> IssuerSettings {
    IssuerSettings {
        issuer: Some(issuer.to_owned()),
        audience: None,
        key: IssuerKey::Public { path: "test.pem".into(), pem: pem.to_owned() },
        organisations: vec!["default".to_owned()],
        scopes_max: Scopes::of(&[Scope::Ingest, Scope::Read]),
    }
}

async fn status_of(server: &TestServer, token: &str) -> (u16, String) {
    let answer = server.request("GET", LATEST).bearer(token).send().await;
    (answer.status, answer.text())
}

#[tokio::test]
async fn callers_without_a_good_key_are_401_with_a_challenge() {
    let server = server().start().await;
    let requests = [
        (server.request("GET", LATEST), "no_credentials"),
        (server.request("GET", LATEST).header("Authorization", "Basic dTpw"), "no_credentials"),
        (server.request("GET", LATEST).header("Authorization", "Bearer"), "no_credentials"),
        (server.request("GET", LATEST).key(""), "invalid_key"),
        (server.request("GET", LATEST).key("avk_short"), "invalid_key"),
        (server.request("GET", LATEST).key("avk_nobody-has-this-key"), "invalid_key"),
        (server.request("GET", LATEST).key("no-key-at-all-is-this"), "invalid_key"),
        (server.request("GET", LATEST).key(&"avk_".repeat(100)), "invalid_key"),
        (server.request("GET", LATEST).bearer("avk_nobody-has-this-key"), "invalid_key"),
        (server.request("GET", LATEST).bearer("nonsense"), "invalid_token"),
        (server.request("GET", LATEST).bearer(&hs256(&claims(&json!({})))), "invalid_token"),
    ];
    for (request, code) in requests {
        let answer = request.send().await.expect(401);
        assert_eq!(answer.code(), code, "{}", answer.text());
        assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer"), "{code}");
        server.assert_well(code).await;
    }
    let by_bearer = server.request("GET", &format!("{LATEST}?user_id=u1")).bearer(OPERATOR);
    by_bearer.send().await.expect(200);
}

#[tokio::test]
async fn each_scope_opens_its_own_routes() {
    let server = server().start().await;
    let key = async |scope: &str| server.make_key("default", &json!({"scopes": [scope]})).await.key;
    let routes = [
        ("POST", "/api/v1/wearables/ingest?user_id=u1", "ingest"),
        ("GET", "/api/v1/wearables/metric/steps?user_id=u1", "read"),
        ("GET", "/api/v1/wearables/latest?user_id=u1", "read"),
        ("GET", "/api/v1/api-keys", "admin"),
        ("POST", "/api/v1/admin/flush", "operator"),
        ("POST", "/api/v1/admin/compact", "operator"),
    ];
    let opens = |held: &str, needed: &str| match held {
        "operator" => true,
        "admin" => needed != "operator",
        held => held == needed,
    };
    for held in ["ingest", "read", "webhooks", "admin", "operator"] {
        let key = key(held).await;
        for (method, path, needed) in routes {
            let answer = server.request(method, path).key(&key).body(point(0, 60.0).to_string()).send().await;
            if opens(held, needed) {
                answer.expect(200);
            } else {
                let refused = answer.expect(403);
                assert_eq!(refused.code(), "scope_missing");
                assert!(refused.text().contains(needed), "{}", refused.text());
            }
        }
    }
}

#[tokio::test]
async fn organisations_with_the_same_user_never_see_each_other() {
    let server = server().start().await;
    let wish = json!({"scopes": ["ingest", "read", "admin"]});
    let (a, b) = (server.make_key("clinic-a", &wish).await, server.make_key("clinic-b", &wish).await);
    let path = format!("{ONE}?user_id=u1");
    server.post(&path, &a.key, &point(0, 61.0)).await.expect(200);
    server.post(&path, &b.key, &point(0, 71.0)).await.expect(200);
    server.post(&path, &b.key, &point(1, 72.0)).await.expect(200);
    let series = async |key: &str, org: &str| {
        let path = format!("/api/v1/wearables/metric/heart_rate?user_id=u1&days=36500&order=asc{org}");
        let points =
            server.get(&path, key).await.expect(200).json()["data_points"].as_array().unwrap().clone();
        points.iter().map(|point| point["value"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(series(&a.key, "").await, [61.0]);
    assert_eq!(series(&b.key, "").await, [71.0, 72.0]);
    assert_eq!(series(&a.key, "&org=clinic-a").await, [61.0]);
    assert_eq!(series(OPERATOR, "&org=clinic-b").await, [71.0, 72.0]);
    assert!(series(OPERATOR, "").await.is_empty());

    let latest = server.get(&format!("{LATEST}?user_id=u1&org=clinic-b"), &a.key).await.expect(403);
    assert_eq!(latest.code(), "other_organisation");
    server.post(&format!("{ONE}?user_id=u1&org=clinic-b"), &a.key, &point(0, 1.0)).await.expect(403);
    server.get("/api/v1/api-keys?org=clinic-b", &a.key).await.expect(403);
    let other_key = format!("/api/v1/api-keys/{}", b.id);
    server.request("DELETE", &other_key).key(&a.key).send().await.expect(404);
    server.get(&format!("{LATEST}?user_id=u1"), &b.key).await.expect(200);
    let unknown = server.get(&format!("{LATEST}?user_id=u1&org=nowhere"), OPERATOR).await.expect(404);
    assert_eq!(unknown.code(), "unknown_organisation");
    server.get(&format!("{LATEST}?user_id=u1&org=No%20Where"), OPERATOR).await.expect(422);
}

#[tokio::test]
async fn a_bound_key_reads_its_user_only() {
    let server = server().start().await;
    let key = server.make_key("default", &json!({"scopes": ["read"], "user_id": "u1"})).await.key;
    server.bulk(&[point(0, 61.0)]).await.expect(200);
    let latest = server.get(LATEST, &key).await.expect(200).json();
    assert_eq!(latest["latest"]["heart_rate"]["value"], 61.0);
    server.get(&format!("{LATEST}?user_id=u1"), &key).await.expect(200);
    let refused = server.get(&format!("{LATEST}?user_id=u2"), &key).await.expect(403);
    assert_eq!(refused.code(), "other_user");
}

#[tokio::test]
async fn a_token_is_a_caller_bound_to_its_subject() {
    let setup = server().with(|settings| {
        let mut issuer = IssuerSettings::hs256(SECRET, "default");
        issuer.organisations.push("clinic".to_owned());
        settings.issuers = vec![issuer];
    });
    let server = setup.start().await;
    let token = hs256(&claims(&json!({})));
    server.request("POST", ONE).bearer(&token).body(point(0, 61.0).to_string()).send().await.expect(200);
    let latest = server.request("GET", LATEST).bearer(&token).send().await.expect(200).json();
    assert_eq!(latest["latest"]["heart_rate"]["value"], 61.0);
    let other =
        server.request("GET", &format!("{LATEST}?user_id=u2")).bearer(&token).send().await.expect(403);
    assert_eq!(other.code(), "other_user");

    let clinic = hs256(&claims(&json!({"org": "clinic"})));
    let latest = server.request("GET", LATEST).bearer(&clinic).send().await.expect(200);
    assert_eq!(latest.text(), "{\"latest\":{}}");
    let foreign = hs256(&claims(&json!({"org": "elsewhere"})));
    let refused = server.request("GET", LATEST).bearer(&foreign).send().await.expect(403);
    assert_eq!(refused.code(), "other_organisation");

    let read_only = hs256(&claims(&json!({"scope": "openid read"})));
    server.request("GET", LATEST).bearer(&read_only).send().await.expect(200);
    let post = server.request("POST", ONE).bearer(&read_only).body(point(0, 61.0).to_string());
    post.send().await.expect(403);
    let admin = hs256(&claims(&json!({"scope": "read admin operator"})));
    server.request("GET", "/api/v1/api-keys").bearer(&admin).send().await.expect(403);
}

#[tokio::test]
async fn a_bad_token_is_401_and_says_why() {
    let setup = server().with(|settings| settings.issuers = vec![IssuerSettings::hs256(SECRET, "default")]);
    let server = setup.start().await;
    let good = hs256(&claims(&json!({})));
    let (head, rest) = good.split_once('.').unwrap();
    let (body, signature) = rest.split_once('.').unwrap();
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let unsigned = format!("{}.{body}.", part(json!({"alg": "none", "typ": "JWT"})));
    let unsigned_case = format!("{}.{body}.{signature}", part(json!({"alg": "nOnE"})));
    let renamed = format!("{}.{body}.{signature}", part(json!({"alg": "HS512"})));
    let forged = format!("{head}.{}.{signature}", part(claims(&json!({"sub": "u2"}))));
    let other_secret = EncodingKey::from_secret(b"another secret, also thirty-two bytes");
    let cases = [
        (hs256(&claims(&json!({"exp": in_seconds(-120)}))), "expired"),
        (hs256(&claims(&json!({"exp": null}))), "exp"),
        (hs256(&claims(&json!({"exp": "tomorrow"}))), "exp"),
        (hs256(&claims(&json!({"nbf": in_seconds(600)}))), "nbf"),
        (hs256(&claims(&json!({"sub": null}))), "sub"),
        (hs256(&claims(&json!({"sub": "a b"}))), "sub"),
        (sign(Algorithm::HS256, &other_secret, &claims(&json!({}))), "signature"),
        (
            sign(Algorithm::HS512, &EncodingKey::from_secret(SECRET.as_bytes()), &claims(&json!({}))),
            "algorithm",
        ),
        (unsigned, "algorithm"),
        (unsigned_case, "algorithm"),
        (renamed, "algorithm"),
        (forged, "signature"),
        (format!("{head}.{body}"), "not a JSON web token"),
        (format!("{head}.{body}.{signature}.x"), "not a JSON web token"),
        (format!("{head}.%%%.{signature}"), "not a JSON web token"),
    ];
    for (token, reason) in cases {
        let (status, text) = status_of(&server, &token).await;
        assert_eq!(status, 401, "{reason}: {text}");
        assert!(text.contains(reason), "{reason}: {text}");
        assert!(!text.contains(SECRET));
    }
    assert_eq!(status_of(&server, &good).await.0, 200);
    server.assert_well("bad tokens").await;
}

#[tokio::test]
async fn public_keys_verify_and_cannot_be_mixed_up() {
    let rsa = include_str!("keys/rsa.pub.pem");
    let setup = server().with(|settings| {
        settings.issuers = vec![
            public(rsa, "rsa"),
            public(include_str!("keys/p256.pub.pem"), "p256"),
            public(include_str!("keys/ed25519.pub.pem"), "ed25519"),
        ];
    });
    let server = setup.start().await;
    let rsa_key = EncodingKey::from_rsa_pem(include_bytes!("keys/rsa.pem")).unwrap();
    let p256_key = EncodingKey::from_ec_pem(include_bytes!("keys/p256.pem")).unwrap();
    let ed_key = EncodingKey::from_ed_pem(include_bytes!("keys/ed25519.pem")).unwrap();
    let of = |issuer: &str| claims(&json!({"iss": issuer}));
    for (algorithm, key, issuer) in [
        (Algorithm::RS256, &rsa_key, "rsa"),
        (Algorithm::ES256, &p256_key, "p256"),
        (Algorithm::EdDSA, &ed_key, "ed25519"),
    ] {
        let (status, text) = status_of(&server, &sign(algorithm, key, &of(issuer))).await;
        assert_eq!(status, 200, "{issuer}: {text}");
    }
    // The public key as an HMAC secret, another issuer's key, another family member.
    let confused = sign(Algorithm::HS256, &EncodingKey::from_secret(rsa.as_bytes()), &of("rsa"));
    for (token, reason) in [
        (confused, "algorithm"),
        (sign(Algorithm::RS512, &rsa_key, &of("rsa")), "algorithm"),
        (sign(Algorithm::PS256, &rsa_key, &of("rsa")), "algorithm"),
        (sign(Algorithm::ES256, &p256_key, &of("rsa")), "algorithm"),
        (sign(Algorithm::RS256, &rsa_key, &of("nobody")), "issuer"),
        (sign(Algorithm::RS256, &rsa_key, &claims(&json!({}))), "issuer"),
    ] {
        let (status, text) = status_of(&server, &token).await;
        assert_eq!(status, 401, "{reason}: {text}");
        assert!(text.contains(reason), "{reason}: {text}");
    }
}

#[tokio::test]
async fn an_audience_is_required_where_one_is_configured() {
    let setup = server().with(|settings| {
        let issuer = IssuerSettings::hs256(SECRET, "default");
        settings.issuers = vec![IssuerSettings { audience: Some("systole".to_owned()), ..issuer }];
    });
    let server = setup.start().await;
    assert_eq!(status_of(&server, &hs256(&claims(&json!({"aud": "systole"})))).await.0, 200);
    assert_eq!(status_of(&server, &hs256(&claims(&json!({"aud": ["x", "systole"]})))).await.0, 200);
    assert_eq!(status_of(&server, &hs256(&claims(&json!({"aud": "other"})))).await.0, 401);
    assert_eq!(status_of(&server, &hs256(&claims(&json!({})))).await.0, 401);
}
