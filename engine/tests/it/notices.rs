//! What is announced of endpoints that were switched off, over crashes.

use std::time::{Duration, Instant};

use systole_engine::events::messages::MessageQuery;
use systole_engine::events::webhooks::{Dialect, EndpointSettings, Secret};
use systole_engine::{Catalog, Engine, EngineSettings};
use systole_storage::DisabledRecord;
use tempfile::TempDir;

const ORG: &str = "default";

fn open(dir: &TempDir) -> Engine {
    Engine::open(EngineSettings { data_dir: dir.path().to_owned(), ..EngineSettings::default() }).unwrap()
}

/// Nothing that comes here is sent to it.
fn settings() -> EndpointSettings {
    EndpointSettings {
        filter_types: Some(["check_in.created".to_owned()].into()),
        ..EndpointSettings::new("https://example.org/hook".to_owned(), Dialect::Standard)
    }
}

fn make(engine: &Engine) -> String {
    let secret = Secret::generate(Dialect::Standard).unwrap();
    engine.webhooks().create(ORG, None, settings(), &secret).unwrap().id
}

/// As a crash leaves it that comes between storing that an endpoint is off and saying so.
fn switch_off(catalog: &Catalog, id: &str, at: i64) {
    let endpoints = catalog.endpoints().unwrap();
    let start = endpoints.iter().find(|endpoint| endpoint.id == id).unwrap().start;
    let text = serde_json::to_string(&EndpointSettings { active: false, ..settings() }).unwrap();
    let (endpoint, reason) = (id.to_owned(), "failing".to_owned());
    let disabled = DisabledRecord { endpoint, reason, failing_since: Some(1_782_805_501_123), at };
    assert!(catalog.disable_endpoint(&text, start, &disabled).unwrap());
}

/// The data of every `endpoint.disabled` there is, newest first.
fn announced(engine: &Engine) -> Vec<serde_json::Value> {
    let event_type = Some("endpoint.disabled".to_owned());
    let query = MessageQuery { org: ORG.to_owned(), event_type, limit: 100, ..MessageQuery::default() };
    let webhooks = engine.webhooks();
    let data = |id: &str| {
        let found = webhooks.message(ORG, None, id).unwrap();
        let body = webhooks.message_body(&found).unwrap();
        serde_json::from_slice::<serde_json::Value>(&body).unwrap()["data"].clone()
    };
    webhooks.messages(&query).unwrap().messages.iter().map(|message| data(&message.id)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_switched_off_before_a_crash_is_announced_by_the_next_start_unless_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let [off, deleted, on] = [(); 3].map(|()| make(&engine));
    engine.drain().await;
    drop(engine);
    let catalog = Catalog::open(dir.path()).unwrap();
    switch_off(&catalog, &off, 20);
    switch_off(&catalog, &deleted, 10);
    assert!(catalog.delete_endpoint(&deleted).unwrap());
    drop(catalog);

    let engine = open(&dir);
    let deadline = Instant::now() + Duration::from_secs(30);
    while announced(&engine).is_empty() {
        assert!(Instant::now() < deadline, "it is not announced");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let told = announced(&engine);
    let [told] = &told[..] else { panic!("{told:?}") };
    assert_eq!(told["endpoint_id"], off);
    assert_eq!(told["reason"], "failing");
    assert_eq!(told["failing_since"], "2026-06-30T07:45:01.123Z");
    let is_on = |id: &str| engine.webhooks().get(ORG, id).unwrap().settings.active;
    assert!(!is_on(&off) && is_on(&on));
    engine.drain().await;
    drop(engine);

    // That it was announced is noted.
    assert_eq!(Catalog::open(dir.path()).unwrap().unannounced_disabled(9).unwrap(), []);
    let engine = open(&dir);
    // Longer than until the catalog is read for what was not.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(announced(&engine).len(), 1);
    engine.drain().await;
}
