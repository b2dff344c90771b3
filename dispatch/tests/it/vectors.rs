//! The signatures that receivers verify, byte for byte.

use hyper::HeaderMap;
use serde::Deserialize;
use systole_dispatch::dialect::Dialect;
use systole_dispatch::signer::{Secret, Signer};

#[derive(Deserialize)]
struct Vectors {
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    scheme: String,
    secret: String,
    id: Option<String>,
    timestamp: Option<u64>,
    body: String,
    header: String,
    expected: String,
    note: String,
    public_key: Option<String>,
}

fn vectors(scheme: &str) -> Vec<Vector> {
    let all: Vectors = serde_json::from_str(include_str!("../vectors/signatures.json")).unwrap();
    all.vectors.into_iter().filter(|vector| vector.scheme == scheme).collect()
}

fn sign(dialect: Dialect, vector: &Vector) -> HeaderMap {
    let secret = Secret::parse(&vector.secret, dialect).unwrap();
    let signer = Signer::new(dialect, &secret).unwrap();
    let mut headers = HeaderMap::new();
    let id = vector.id.as_deref().unwrap_or("evt_0");
    signer.sign(id, vector.timestamp.unwrap_or(0), vector.body.as_bytes(), &mut headers);
    headers
}

#[test]
fn no_vector_is_left_out() {
    let schemes = ["standard-webhooks-v1", "standard-webhooks-v1a", "avycenna", "avon"];
    let all: Vectors = serde_json::from_str(include_str!("../vectors/signatures.json")).unwrap();
    assert!(all.vectors.iter().all(|vector| schemes.contains(&vector.scheme.as_str())));
}

#[test]
fn every_vector_gets_the_signature_its_receiver_expects() {
    let cases = [
        ("standard-webhooks-v1", Dialect::Standard, 4),
        ("standard-webhooks-v1a", Dialect::Standard, 2),
        ("avycenna", Dialect::Avycenna, 3),
        ("avon", Dialect::Avon, 3),
    ];
    for (scheme, dialect, count) in cases {
        let vectors = vectors(scheme);
        assert_eq!(vectors.len(), count, "{scheme}");
        for vector in vectors {
            let headers = sign(dialect, &vector);
            assert_eq!(headers[vector.header.as_str()], vector.expected, "{scheme}: {}", vector.note);
        }
    }
}

#[test]
fn svix_headers_say_the_same_as_those_of_standard_webhooks() {
    for vector in vectors("standard-webhooks-v1") {
        let headers = sign(Dialect::Standard, &vector);
        assert_eq!(headers["svix-id"], vector.id.unwrap());
        assert_eq!(headers["svix-timestamp"], vector.timestamp.unwrap().to_string());
        assert_eq!(headers["svix-signature"], vector.expected);
    }
}

#[test]
fn a_private_key_names_its_public_key() {
    for vector in vectors("standard-webhooks-v1a") {
        let secret = Secret::parse(&vector.secret, Dialect::Standard).unwrap();
        assert_eq!(secret.public_key(), vector.public_key);
    }
}

/// Azodha's page has no vector; it signs as Avon does, under a header of its own.
#[test]
fn azodha_signs_as_avon_does() {
    for vector in vectors("avon") {
        assert_eq!(sign(Dialect::Azodha, &vector)["x-azodha-signature"], vector.expected);
    }
}
