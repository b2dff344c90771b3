//! The demo against a stand-in: it shows, it compares, and it notices each flaw.

use std::time::Duration;

use loadtest::report::error_chain;
use loadtest::{ApiKey, DemoError, DemoOutcome, DemoSettings, demo};
use tokio::time::sleep;

use crate::server::{Reply, TestServer};
use crate::systole::{Flaw, Systole};

/// Long enough for a few dozen batches.
const SENDING: Duration = Duration::from_millis(400);

fn settings(server: &TestServer) -> DemoSettings {
    DemoSettings {
        users: 5,
        rate_samples_per_second: 20_000,
        connections: 2,
        patience: Duration::from_secs(2),
        ..DemoSettings::new(server.url(), ApiKey::new("avk_test"))
    }
}

/// Runs a demo for a moment; what it wrote and what came of it.
async fn play(settings: DemoSettings) -> (String, DemoOutcome) {
    let mut out = Vec::new();
    // A sleep begins when it is made; this one begins when it is waited for.
    let stop = async { sleep(SENDING).await };
    let outcome = demo::run(settings, &mut out, stop).await.expect("the server is there");
    (String::from_utf8(out).expect("text"), outcome)
}

#[tokio::test]
async fn what_a_good_server_took_is_stored_and_delivered() {
    let systole = Systole::start(Flaw::None).await;
    let (text, outcome) = play(settings(&systole.server)).await;
    assert!(outcome.agrees, "{text}");
    assert!(outcome.sent >= 1_000, "{text}");
    assert_eq!([outcome.sent, outcome.stored, outcome.delivered], [systole.samples(); 3]);
    assert_eq!((outcome.series_differing, outcome.duplicates, outcome.refused), (0, 0, 0));
    for part in ["sent, stored and delivered agree", "samples of 5 users", "heart_rate ", "stress_score "] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert_eq!(systole.endpoints_left(), 0, "its endpoint is deleted");
}

#[tokio::test]
async fn every_flaw_of_a_server_is_noticed() {
    for (flaw, told) in [
        (Flaw::EventLost, "series differ"),
        (Flaw::SignatureWrong, "1 requests refused"),
        (Flaw::SampleMissing, "steps: sent"),
        (Flaw::ValueAltered, "heart_rate: sent"),
    ] {
        let systole = Systole::start(flaw).await;
        let (text, outcome) =
            play(DemoSettings { patience: Duration::from_millis(300), ..settings(&systole.server) }).await;
        assert!(!outcome.agrees, "{flaw:?}\n{text}");
        assert!(text.contains(told) && text.contains("they do not agree"), "{flaw:?}\n{text}");
        assert_eq!(systole.endpoints_left(), 0);
    }
}

#[tokio::test]
async fn repeated_events_are_told_and_change_no_sum() {
    let systole = Systole::start(Flaw::EventsRepeated).await;
    let (text, outcome) = play(settings(&systole.server)).await;
    assert!(outcome.agrees, "{text}");
    assert_eq!(outcome.delivered, outcome.sent);
    assert!(outcome.duplicates + 1 >= outcome.events, "{text}");
}

#[tokio::test]
async fn batches_whose_answer_was_lost_are_in_doubt_and_still_compared() {
    let systole = Systole::start(Flaw::AnswerLost).await;
    let (text, outcome) = play(settings(&systole.server)).await;
    assert_eq!(outcome.sent, 1_000, "two batches had an answer\n{text}");
    assert!(outcome.in_doubt >= 500, "{text}");
    assert!(outcome.stored > outcome.sent && outcome.stored == outcome.delivered, "{text}");
    assert!(outcome.agrees && text.contains("samples in doubt"), "{text}");
}

#[tokio::test]
async fn many_samples_are_read_back_of_an_even_part_of_the_users() {
    let systole = Systole::start(Flaw::None).await;
    let (text, outcome) =
        play(DemoSettings { samples_read_back_max: 1_500, ..settings(&systole.server) }).await;
    assert!(outcome.agrees, "{text}");
    assert!(outcome.stored < outcome.sent && outcome.delivered == outcome.sent, "{text}");
    assert!(text.contains("of 5 users") && text.contains("all users "), "{text}");
}

#[tokio::test]
async fn the_figures_are_shown_every_second() {
    let systole = Systole::start(Flaw::None).await;
    let settings = DemoSettings {
        seconds: Some(2),
        page_url: Some("http://127.0.0.1:7/".to_owned()),
        ..settings(&systole.server)
    };
    let mut out = Vec::new();
    let outcome = demo::run(settings, &mut out, std::future::pending()).await;
    let text = String::from_utf8(out).expect("text");
    assert!(outcome.expect("the server is there").agrees, "{text}");
    let shown: Vec<&str> = text.lines().filter(|line| line.contains(" | lag ")).collect();
    assert!(!shown.is_empty(), "{text}");
    for part in ["commit p50 ", "receipt p50 ", "latest: heart_rate ", "one day: "] {
        assert!(shown[0].contains(part), "{part:?} is not in\n{text}");
    }
    assert!(text.contains("page        http://127.0.0.1:7/"), "{text}");
}

#[tokio::test]
async fn a_server_that_lets_no_endpoint_be_made_is_an_error_with_its_reason() {
    let script = |seen: &crate::server::Seen| match seen.method.as_str() {
        "GET" => Reply::json(200, r#"{"data":[]}"#),
        _ => Reply::json(422, r#"{"code":"invalid","detail":"loopback is not allowed"}"#),
    };
    let server = TestServer::start(script).await;
    let error = demo::run(settings(&server), &mut Vec::new(), sleep(SENDING)).await;
    let error = error.expect_err("no endpoint");
    assert!(matches!(error, DemoError::Webhook(_)));
    assert!(error_chain(&error).contains("loopback is not allowed"), "{error:?}");
}
