//! Looks names up: what a dial begins with, by the system's resolver.
//!
//! Constraints: a look-up holds a thread until the resolver gives up, which takes half a
//! minute where name servers are silent, whatever became of whoever asked. At most 256
//! are under way, at most 8 of one zone. Of zones that were slow last time at most 64:
//! thousands of silent ones leave room for the others.
//!
//! ```text
//! name --> turn of its zone --> turn of the quick, or of the slow --> a thread --> addresses
//! ```
//!
//! Full waits, and whoever waits gives up at its own deadline. Nothing is kept of what
//! a name stood for: it is judged anew at each dial.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Look-ups under way, which is how many threads they hold.
pub(crate) const LOOK_UPS_MAX: usize = QUICK_MAX + SLOW_MAX;
/// Those of zones that answered at once, or of which nothing is known.
const QUICK_MAX: usize = 192;
/// Those of zones that did not.
const SLOW_MAX: usize = 64;
/// Those of one zone.
const ZONE_MAX: usize = 8;
/// What took longer is slow: a name server was silent.
const SLOW_AFTER: Duration = Duration::from_secs(1);
/// Zones that are remembered, beside those that are asked about.
const ZONES_MAX: usize = 4_096;
/// A label that is no longer is taken for a part of what registries sell under.
const REGISTRY_LABEL_MAX: usize = 3;

/// What asks the system.
type Resolve = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// How many look-ups of which kind, and what is slow.
#[derive(Clone, Copy, Debug)]
struct Limits {
    quick: usize,
    slow: usize,
    zone: usize,
    slow_after: Duration,
}

/// Looks names up; clones are the same one.
#[derive(Clone)]
pub(crate) struct LookUps {
    shared: Arc<Shared>,
}

struct Shared {
    resolve: Box<Resolve>,
    limits: Limits,
    quick: Arc<Semaphore>,
    slow: Arc<Semaphore>,
    zones: Mutex<HashMap<String, Arc<Zone>>>,
}

/// Names that the same servers answer for, as far as their labels tell.
struct Zone {
    turns: Arc<Semaphore>,
    /// Its last look-up was.
    is_slow: AtomicBool,
}

/// Turns of a look-up under way; it is over when they are dropped.
struct Turns {
    zone: Arc<Zone>,
    _own: OwnedSemaphorePermit,
    _shared: OwnedSemaphorePermit,
}

impl fmt::Debug for LookUps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LookUps").finish_non_exhaustive()
    }
}

impl LookUps {
    /// By the system's resolver.
    pub(crate) fn of_system() -> LookUps {
        let limits = Limits { quick: QUICK_MAX, slow: SLOW_MAX, zone: ZONE_MAX, slow_after: SLOW_AFTER };
        LookUps::with(limits, |name| Ok((name, 0).to_socket_addrs()?.collect()))
    }

    fn with(
        limits: Limits,
        resolve: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> LookUps {
        let shared = Shared {
            resolve: Box::new(resolve),
            limits,
            quick: Arc::new(Semaphore::new(limits.quick)),
            slow: Arc::new(Semaphore::new(limits.slow)),
            zones: Mutex::default(),
        };
        LookUps { shared: Arc::new(shared) }
    }

    /// The addresses of a name, of which there is at least one; their port is 0.
    pub(crate) async fn look_up(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        let turns = self.turns(name).await?;
        let (shared, name) = (self.shared.clone(), name.to_owned());
        // The turns go with the thread: it ends later than whoever gives up.
        let asked = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let found = (shared.resolve)(&name);
            turns.end(begun.elapsed() > shared.limits.slow_after);
            found
        });
        let addresses = asked.await.map_err(io::Error::other)??;
        if addresses.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(addresses) }
    }

    /// Its zone's turn first: whoever waits for that holds none of all.
    async fn turns(&self, name: &str) -> io::Result<Turns> {
        let zone = self.shared.zone(name);
        let _own = zone.turns.clone().acquire_owned().await.map_err(io::Error::other)?;
        let is_slow = zone.is_slow.load(Ordering::Relaxed);
        let shared = if is_slow { &self.shared.slow } else { &self.shared.quick };
        let _shared = shared.clone().acquire_owned().await.map_err(io::Error::other)?;
        Ok(Turns { zone, _own, _shared })
    }
}

impl Turns {
    /// Takes them as a whole: a closure that named one of them would leave the others
    /// with whoever asked.
    fn end(self, is_slow: bool) {
        self.zone.is_slow.store(is_slow, Ordering::Relaxed);
    }
}

impl Shared {
    fn zone(&self, name: &str) -> Arc<Zone> {
        let key = zone_of(name).to_ascii_lowercase();
        let mut zones = self.zones.lock();
        if zones.len() >= ZONES_MAX && !zones.contains_key(&key) {
            // Those that nobody asks about.
            zones.retain(|_, zone| Arc::strong_count(zone) > 1);
        }
        let new = || {
            Arc::new(Zone {
                turns: Arc::new(Semaphore::new(self.limits.zone)),
                is_slow: AtomicBool::new(false),
            })
        };
        zones.entry(key).or_insert_with(new).clone()
    }
}

/// The last two labels of a name, or three if the second last is as short as that of
/// `co.uk`.
fn zone_of(name: &str) -> &str {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut dots = name.rmatch_indices('.').map(|(at, _)| at);
    let (Some(last), Some(second)) = (dots.next(), dots.next()) else { return name };
    let is_registry = last - second - 1 <= REGISTRY_LABEL_MAX;
    let before = if is_registry { dots.next() } else { Some(second) };
    before.map_or(name, |at| &name[at + 1..])
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use parking_lot::Condvar;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    /// Name servers of which those of `silent` zones say nothing until they are told to.
    #[derive(Default)]
    struct Servers {
        speak: Mutex<bool>,
        told: Condvar,
        under_way: AtomicUsize,
        asked: AtomicUsize,
    }

    impl Servers {
        fn answer(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
            self.under_way.fetch_add(1, Ordering::SeqCst);
            self.asked.fetch_add(1, Ordering::SeqCst);
            if name.contains("silent") {
                self.told.wait_while(&mut self.speak.lock(), |speak| !*speak);
            }
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            if name.contains("nobody") { Ok(Vec::new()) } else { Ok(vec![([1, 1, 1, 1], 0).into()]) }
        }

        fn speak(&self, speak: bool) {
            *self.speak.lock() = speak;
            self.told.notify_all();
        }

        async fn settles_at(&self, under_way: usize) -> bool {
            let reaches = async {
                while self.under_way.load(Ordering::SeqCst) != under_way {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let reached = tokio::time::timeout(SOON, reaches).await.is_ok();
            tokio::time::sleep(Duration::from_millis(50)).await;
            reached && self.under_way.load(Ordering::SeqCst) == under_way
        }
    }

    /// Lets those go that wait, so that a test that fails ends.
    struct Told(Arc<Servers>);

    impl std::ops::Deref for Told {
        type Target = Servers;

        fn deref(&self) -> &Servers {
            &self.0
        }
    }

    impl Drop for Told {
        fn drop(&mut self) {
            self.speak(true);
        }
    }

    fn look_ups(quick: usize, slow: usize, zone: usize) -> (Told, LookUps) {
        let servers = Arc::<Servers>::default();
        let limits = Limits { quick, slow, zone, slow_after: Duration::from_millis(20) };
        let asked = servers.clone();
        (Told(servers), LookUps::with(limits, move |name| asked.answer(name)))
    }

    /// Asks for a name each, and forgets about it after a moment, as a deadline does.
    async fn ask_and_give_up(look_ups: &LookUps, names: impl Iterator<Item = String>) {
        let asking: Vec<_> = names
            .map(|name| {
                let look_ups = look_ups.clone();
                let asking = async move { look_ups.look_up(&name).await.map(drop) };
                tokio::spawn(tokio::time::timeout(Duration::from_millis(50), asking))
            })
            .collect();
        for asked in asking {
            assert!(asked.await.unwrap().is_err(), "the servers are silent");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_silent_zone_holds_its_share_alone_also_once_everybody_gave_up() {
        let (servers, look_ups) = look_ups(6, 2, 3);
        for round in 0..3 {
            ask_and_give_up(&look_ups, (0..20).map(|n| format!("{n}-{round}.silent.example"))).await;
            assert!(servers.settles_at(3).await);
        }
        assert_eq!(servers.asked.load(Ordering::SeqCst), 3, "who waits for a turn holds no thread");
        for name in ["a.example.org", "a.silence.example"] {
            let quick = tokio::time::timeout(SOON, look_ups.look_up(name)).await.unwrap();
            assert_eq!(quick.unwrap(), [([1, 1, 1, 1], 0).into()]);
        }
        servers.speak(true);
        assert!(servers.settles_at(0).await);
        assert!(look_ups.look_up("a.silent.example").await.is_ok());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn zones_that_were_silent_leave_room_for_the_others_until_they_answer() {
        let (servers, look_ups) = look_ups(6, 2, 3);
        let silent = || (0..6).map(|n| format!("hook.silent{n}.example"));
        // At first nothing is known of them, and they hold all there is.
        ask_and_give_up(&look_ups, silent()).await;
        assert!(servers.settles_at(6).await);
        let waiting = tokio::time::timeout(Duration::from_millis(50), look_ups.look_up("quick.org"));
        assert!(waiting.await.is_err());
        servers.speak(true);
        assert!(servers.settles_at(0).await);
        servers.speak(false);
        ask_and_give_up(&look_ups, silent()).await;
        assert!(servers.settles_at(2).await);
        let quick = tokio::time::timeout(SOON, look_ups.look_up("quick.org")).await;
        assert!(quick.is_ok_and(|quick| quick.is_ok()));
        // Two of them were asked again and were slow again; the others answer.
        servers.speak(true);
        assert!(servers.settles_at(0).await);
        for name in silent() {
            assert!(look_ups.look_up(&name).await.is_ok());
        }
        let zones = look_ups.shared.zones.lock();
        assert!(zones.values().all(|zone| !zone.is_slow.load(Ordering::Relaxed)));
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_not_found_and_zones_are_forgotten() {
        let (_, look_ups) = look_ups(6, 2, 3);
        let fault = look_ups.look_up("nobody.example").await.unwrap_err();
        assert_eq!(fault.kind(), io::ErrorKind::NotFound);
        let kept = look_ups.shared.zone("kept.example");
        for number in 0..ZONES_MAX {
            look_ups.shared.zone(&format!("zone{number}.example"));
        }
        let zones = look_ups.shared.zones.lock();
        assert!(zones.len() < ZONES_MAX && Arc::ptr_eq(&zones["kept.example"], &kept));
    }

    #[test]
    fn names_of_one_zone_share_its_turns() {
        let cases = [
            ("localhost", "localhost"),
            ("example.com", "example.com"),
            ("a.b.example.com.", "example.com"),
            ("hooks.acme.co.uk", "acme.co.uk"),
            ("acme.co.uk", "acme.co.uk"),
            ("b.hooks.acme.com.au", "acme.com.au"),
            (".", ""),
            ("..a", "..a"),
        ];
        for (name, zone) in cases {
            assert_eq!(zone_of(name), zone, "{name}");
        }
    }
}
