//! Lengths, times and numbers that are too much.

use std::io::Write as _;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::Connection;
use crate::fixture::{OPERATOR, point, server};

const BULK: &str = "/api/v1/wearables/bulk-ingest?user_id=u1";
const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn a_body_over_the_limit_is_413_also_while_the_client_still_sends() {
    let server = server().start().await;
    let request = server.request("POST", BULK).key(OPERATOR).body(vec![b' '; 17 * MIB]);
    for request in [request.clone(), request.clone().chunked()] {
        let answer = request.send().await.expect(413);
        assert_eq!(answer.code(), "body_too_large");
        server.assert_well("17 MiB").await;
    }
    let asking = server.request("POST", BULK).key(OPERATOR).header("Expect", "100-continue");
    let mut connection = Connection::open(server.address).await;
    connection.send(&asking.header("Content-Length", &(17 * MIB).to_string()).bytes()).await;
    connection.answer().await.unwrap().expect(413);
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_sends_on_and_the_connection_goes_on() {
    let server = server().start().await;
    let mut connection = Connection::open(server.address).await;
    let refused = server.request("POST", BULK).key("avk_nobody-has-this-key").body(vec![b' '; MIB]);
    connection.send(&refused.bytes()).await;
    connection.answer().await.unwrap().expect(401);
    connection.send(&server.request("GET", "/health").bytes()).await;
    connection.answer().await.unwrap().expect(200);
}

#[tokio::test]
async fn bombs_are_413() {
    let server = server().start().await;
    let zeros = vec![b' '; 64 * MIB];
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&zeros).unwrap();
    let bombs = [("gzip", gzip.finish().unwrap()), ("zstd", zstd::encode_all(zeros.as_slice(), 3).unwrap())];
    for (encoding, bomb) in bombs {
        let request = server.request("POST", BULK).key(OPERATOR).header("Content-Encoding", encoding);
        let answer = request.body(bomb).send().await.expect(413);
        assert_eq!(answer.code(), "ratio_too_large");
        server.assert_well(encoding).await;
    }
    let noise: Vec<u8> =
        (0..20 * MIB as u64).map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 59) as u8 + 32).collect();
    let packed = zstd::encode_all(noise.as_slice(), 1).unwrap();
    let request = server.request("POST", BULK).key(OPERATOR).header("Content-Encoding", "zstd").body(packed);
    let answer = request.send().await.expect(413);
    assert!(["inflated_too_large", "body_too_large", "ratio_too_large"].contains(&answer.code().as_str()));
    let values = server.request("POST", BULK).key(OPERATOR).body(vec![b','; 5 * MIB]);
    assert_eq!(values.send().await.expect(413).code(), "too_many_values");
    server.assert_well("all bombs").await;
}

#[tokio::test]
async fn a_spent_budget_is_429_and_heals() {
    let setup = server().with(|settings| {
        settings.ingest.body_bytes_max = MIB;
        settings.ingest.inflated_bytes_max = MIB;
        settings.ingest.body_budget_bytes = MIB;
    });
    let server = setup.start().await;
    let mut holding = Connection::open(server.address).await;
    let whole = server.request("POST", BULK).key(OPERATOR).body(vec![b' '; MIB]).bytes();
    holding.send(&whole[..whole.len() - 10]).await;
    let small = json!({ "data_points": [point(0, 60.0)] });
    let mut refused = server.post(BULK, OPERATOR, &small).await;
    for _ in 0..200 {
        if refused.status == 429 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        refused = server.post(BULK, OPERATOR, &small).await;
    }
    assert_eq!(refused.expect(429).header("retry-after"), Some("1"));
    holding.send(&whole[whole.len() - 10..]).await;
    holding.answer().await.unwrap().expect(400);
    server.assert_well("a spent budget").await;
}

#[tokio::test]
async fn a_slow_body_is_408_and_a_slow_head_is_closed() {
    let setup = server().with(|settings| {
        settings.http.body_timeout = Duration::from_millis(300);
        settings.http.header_timeout = Duration::from_millis(300);
    });
    let server = setup.start().await;
    let mut slow_body = Connection::open(server.address).await;
    let whole = server.request("POST", BULK).key(OPERATOR).body(vec![b' '; 100]).bytes();
    slow_body.send(&whole[..whole.len() - 10]).await;
    let answer = slow_body.answer().await.unwrap().expect(408);
    assert_eq!(answer.code(), "body_timeout");
    assert!(slow_body.is_closed_within(Duration::from_secs(5)).await);

    for bytes in ["", "GET /hea", "GET /health HTTP/1.1\r\nX-"] {
        let mut idle = Connection::open(server.address).await;
        idle.send(bytes.as_bytes()).await;
        let begun = Instant::now();
        assert!(idle.is_closed_within(Duration::from_secs(5)).await, "{bytes:?}");
        assert!(begun.elapsed() >= Duration::from_millis(200), "{bytes:?}");
    }
    server.assert_well("slow clients").await;
}

#[tokio::test]
async fn connections_over_the_limit_wait_their_turn() {
    let server = server().with(|settings| settings.http.connections_max = 2).start().await;
    let (first, second) = (Connection::open(server.address).await, Connection::open(server.address).await);
    let mut third = Connection::open(server.address).await;
    third.send(&server.request("GET", "/health").bytes()).await;
    let early = tokio::time::timeout(Duration::from_millis(200), third.answer()).await;
    assert!(early.is_err());
    drop((first, second));
    third.answer().await.unwrap().expect(200);
}
