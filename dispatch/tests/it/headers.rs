//! The endpoint's own headers.

use std::collections::BTreeMap;
use std::time::Duration;

use systole_dispatch::endpoint::{EndpointSettings, HEADER_VALUE_BYTES_MAX, HEADERS_MAX, HeaderFault};

use crate::world::{Draft, Hook, ORG, World, comes_within, settings};

fn with_headers(headers: &[(&str, &str)]) -> EndpointSettings {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    EndpointSettings { headers, ..settings("http://127.0.0.1:9/") }
}

#[test]
fn the_endpoints_own_headers_are_sent_with_each_request() {
    let (world, hook) = (World::new(), Hook::willing());
    let settings = EndpointSettings {
        url: hook.url(),
        ..with_headers(&[("X-Api-Key", "k 1"), ("authorization", "Bearer t"), ("user-agent", "mine")])
    };
    let run = world.endpoint_with("ep_1", ORG, settings).start();
    world.log.append(&[Draft::of(1), Draft::of(2)]);
    assert!(comes_within(Duration::from_secs(10), || hook.count() == 2));
    run.stop();
    for delivery in hook.deliveries() {
        let headers = &delivery.headers;
        assert_eq!(headers["x-api-key"], "k 1");
        assert_eq!(headers["authorization"], "Bearer t");
        assert_eq!(headers["user-agent"], "mine");
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["webhook-id"], delivery.id);
        assert!(headers["webhook-signature"].starts_with("v1,"), "{headers:?}");
    }
}

#[test]
fn headers_that_would_break_a_request_or_feign_its_signature_are_refused() {
    let reserved = [
        "Connection",
        "content-encoding",
        "Content-Length",
        "content-type",
        "Expect",
        "HOST",
        "keep-alive",
        "proxy-authorization",
        "Proxy-Connection",
        "te",
        "trailer",
        "Transfer-Encoding",
        "upgrade",
        "http2-settings",
        "webhook-id",
        "Webhook-Signature",
        "webhook-anything",
        "svix-id",
        "SVIX-timestamp",
        "X-AVYCENNA-Signature",
        "x-avycenna-signature-next",
        "avon-signature",
        "avon-signature-next",
        "x-azodha-signature",
        "x-azodha-signature-next",
    ];
    for name in reserved {
        let expected = HeaderFault::Reserved { name: name.to_owned() };
        assert_eq!(with_headers(&[("x-own", "1"), (name, "1")]).header_map(), Err(expected));
    }
    for name in ["", "a b", "a:b", "a\r\nb", "é", "a\u{0}"] {
        let expected = HeaderFault::Name { name: name.to_owned() };
        assert_eq!(with_headers(&[(name, "1")]).header_map(), Err(expected));
    }
    let long = "v".repeat(HEADER_VALUE_BYTES_MAX + 1);
    for value in ["a\r\nwebhook-id: evt_1", "a\nb", "a\u{0}", "\u{7f}", &long] {
        let expected = HeaderFault::Value { name: "x-own".to_owned() };
        assert_eq!(with_headers(&[("x-own", value)]).header_map(), Err(expected));
    }
}

#[test]
fn headers_are_taken_up_to_their_limits() {
    let numbered = |count: usize| -> BTreeMap<String, String> {
        (0..count).map(|number| (format!("x-{number:02}"), "v".repeat(HEADER_VALUE_BYTES_MAX))).collect()
    };
    let settings = |count| EndpointSettings { headers: numbered(count), ..with_headers(&[]) };
    let map = settings(HEADERS_MAX).header_map().unwrap();
    assert_eq!(map.len(), HEADERS_MAX);
    assert!(map.values().all(hyper::header::HeaderValue::is_sensitive));
    let count = HEADERS_MAX + 1;
    assert_eq!(settings(count).header_map(), Err(HeaderFault::TooMany { count }));
    assert_eq!(with_headers(&[("x-empty", "")]).header_map().unwrap()["x-empty"], "");
}
