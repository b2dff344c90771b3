//! A load with its webhooks, against a stand-in: what is expected, what is a fault.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use loadtest::{
    CeilingSettings, DeliveryError, DeliveryReport, DeliveryScenario, Dialect, Fleet, FleetSettings, Live,
    ReceiverSettings, Scenario, ceiling, delivery,
};

use crate::server::{Reply, TestServer};
use crate::systole::{Flaw, Systole};

/// 20 bodies of 50 points of heart rate: 20 events.
fn scenario() -> DeliveryScenario {
    let settings = FleetSettings { users: 3, points: 50, ..FleetSettings::new("it", SystemTime::now()) };
    let fleet = Fleet::prepare(&settings).expect("good settings");
    let load = Scenario {
        warmup: Duration::ZERO,
        batches_max: Some(20),
        ..Scenario::new(fleet, 2, Duration::from_secs(60))
    };
    DeliveryScenario { patience: Duration::from_millis(500), ..DeliveryScenario::new(load) }
}

async fn run(scenario: DeliveryScenario, systole: &Systole) -> DeliveryReport {
    let live = Arc::new(Live::new());
    let report = delivery::run(scenario, &systole.server.client(), &live, pending()).await;
    report.expect("the server is there")
}

#[tokio::test]
async fn every_endpoint_gets_everything_once() {
    for (endpoints, dialect) in [(1, Dialect::Standard), (3, Dialect::Standard), (2, Dialect::Avycenna)] {
        let systole = Systole::start(Flaw::None).await;
        let report = run(DeliveryScenario { endpoints, dialect, ..scenario() }, &systole).await;
        assert!(report.is_sound(), "{report}");
        assert_eq!(report.load.samples_acknowledged, 1_000);
        assert_eq!(report.counts.samples, 1_000 * endpoints as u64);
        assert_eq!(report.counts.events, 20 * endpoints as u64);
        assert_eq!(report.latency.count, report.counts.events);
        assert!(report.drained.is_some() && report.measured.samples <= report.counts.samples);
        assert_eq!(systole.endpoints_left(), 0);
    }
}

#[tokio::test]
async fn broken_promises_make_a_run_unsound() {
    for (flaw, told) in [
        (Flaw::EventLost, "950 of 1,000 samples delivered"),
        (Flaw::EventsRepeated, "20 events delivered again"),
        (Flaw::SignatureWrong, "1 requests refused for their signature"),
    ] {
        let systole = Systole::start(flaw).await;
        let report = run(scenario(), &systole).await;
        assert!(!report.is_sound(), "{flaw:?}\n{report}");
        assert!(report.to_string().contains(told), "{flaw:?}\n{report}");
        assert_eq!(report.drained.is_none(), flaw == Flaw::EventLost);
    }
}

#[tokio::test]
async fn what_is_in_doubt_may_be_delivered_or_not() {
    let systole = Systole::start(Flaw::AnswerLost).await;
    let mut doubtful = scenario();
    doubtful.load.duration = Some(Duration::from_millis(200));
    let report = run(doubtful, &systole).await;
    assert_eq!(report.load.samples_acknowledged, 100);
    assert!(report.load.samples_unsure > 0 && report.counts.samples > 100, "{report}");
    assert!(report.is_sound(), "{report}");
}

#[tokio::test]
async fn ids_that_cannot_be_remembered_leave_exactly_once_unproved() {
    let systole = Systole::start(Flaw::None).await;
    let receiver = ReceiverSettings { remember_ids: 5, ..ReceiverSettings::default() };
    let report = run(DeliveryScenario { receiver, ..scenario() }, &systole).await;
    assert_eq!((report.counts.events, report.counts.events_unkept), (20, 15));
    assert!(!report.is_sound());
}

#[tokio::test]
async fn a_server_without_webhooks_gets_no_load() {
    let server = TestServer::start(|_| Reply::json(404, r#"{"code":"not_found"}"#)).await;
    let live = Arc::new(Live::new());
    let error = delivery::run(scenario(), &server.client(), &live, pending()).await;
    assert!(matches!(error.expect_err("no endpoint"), DeliveryError::Webhook(_)));
    assert!(server.ingests().is_empty());
}

#[tokio::test]
async fn the_ceiling_counts_only_what_was_verified() {
    for dialect in [Dialect::Standard, Dialect::Avycenna] {
        let settings = CeilingSettings {
            body_bytes: 2_000,
            connections: 2,
            dialect,
            ..CeilingSettings::new(Duration::from_millis(100))
        };
        let report = ceiling::run(&settings).await.expect("it runs");
        assert!(report.is_sound(), "{report}");
        assert_eq!(report.counts.bytes, report.deliveries * report.body_bytes);
    }
}
