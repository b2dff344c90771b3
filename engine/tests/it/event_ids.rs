//! Ids that publishers give their events.

use std::time::Duration;

use systole_engine::{Engine, EngineSettings, Published};
use tempfile::TempDir;

fn open(dir: &TempDir) -> Engine {
    Engine::open(EngineSettings { data_dir: dir.path().to_owned(), ..EngineSettings::default() }).unwrap()
}

async fn publish(engine: &Engine, user: Option<&str>, bound: bool) -> String {
    let event = Published {
        org: "default",
        user,
        name: "check_in.created",
        id: Some("ci-1"),
        bound,
        data: "{\"mood\":4}",
    };
    engine.publish(&event, engine.budget().try_take(64).unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_of_users_and_of_their_organisation_stay_apart_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let publishers = [(None, false), (Some("u_1"), true), (Some("u_2"), true)];
    let mut made = Vec::new();
    for restart in 0..3 {
        let engine = open(&dir);
        for (at, (user, bound)) in publishers.into_iter().enumerate() {
            let id = publish(&engine, user, bound).await;
            if restart == 0 {
                assert!(!made.contains(&id), "{user:?} met another's id");
                made.push(id);
            } else {
                assert_eq!(id, made[at], "{user:?}");
            }
        }
        // Whom it is about makes no difference where the publisher speaks for all.
        assert_eq!(publish(&engine, Some("u_1"), false).await, made[0]);
        if restart == 1 {
            engine.flush().await.unwrap();
        }
        engine.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_handed_in_together_keep_their_order_and_the_same_id_is_one() {
    let dir = tempfile::tempdir().unwrap();
    // One place in the ring, so that nearly each waits for room.
    let settings = EngineSettings { data_dir: dir.path().to_owned(), ring_slots: 1, ..Default::default() };
    let engine = Engine::open(settings).unwrap();
    let mut taken = Vec::new();
    for id in [None, Some("ci-1"), None, Some("ci-1"), Some("ci-2"), None] {
        let event =
            Published { org: "default", user: None, name: "check_in.created", id, bound: false, data: "{}" };
        let permit = engine.budget().try_take(64).unwrap();
        taken.push(engine.hand_in(&event, permit, Duration::from_secs(30)).await.unwrap());
    }
    let mut sequences = Vec::new();
    for publishing in taken {
        sequences.push(publishing.durable().await.unwrap());
    }
    let again = sequences.remove(3);
    assert_eq!(again, sequences[1], "the same id");
    assert!(sequences.is_sorted_by(|before, behind| before < behind), "{sequences:?}");
    assert_eq!(engine.budget().used(), 0);
    engine.drain().await;
}
