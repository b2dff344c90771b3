//! Looks names up: what a dial begins with, by the system's resolver.
//!
//! Constraints: a look-up holds a thread until the resolver gives up, which takes half a
//! minute where name servers are silent, whatever became of whoever asked. At most 256
//! are under way, at most 8 of one zone. Of zones that were slow last time at most 64, and
//! of those of which nothing is known 64: thousands of silent ones leave room for the
//! others. How a zone was last time is remembered of 65,536 that were quick and as many
//! that were slow.
//!
//! ```text
//! name --> turn of its zone --> turn of the quick, the slow or the unknown --> a thread --> addresses
//! ```
//!
//! Full waits, and whoever waits gives up at its own deadline. Nothing is kept of what
//! a name stood for: it is judged anew at each dial.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Look-ups under way, which is how many threads they hold.
pub(crate) const LOOK_UPS_MAX: usize = QUICK_MAX + SLOW_MAX + UNKNOWN_MAX;
/// Those of zones that answered at once.
const QUICK_MAX: usize = 128;
/// Those of zones that did not.
const SLOW_MAX: usize = 64;
/// Those of zones of which nothing is known.
const UNKNOWN_MAX: usize = 64;
/// Those of one zone.
const ZONE_MAX: usize = 8;
/// What took longer is slow: a name server was silent.
const SLOW_AFTER: Duration = Duration::from_secs(1);
/// Zones that are kept, beside those that are asked about.
const ZONES_MAX: usize = 4_096;
/// Zones that are remembered as quick, and as slow, with about 16 bytes each.
const REMEMBERED_MAX: usize = 65_536;
/// A label that is no longer is taken for a part of what registries sell under.
const REGISTRY_LABEL_MAX: usize = 3;

/// What asks the system.
type Resolve = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// How many look-ups of which kind, and what is slow.
#[derive(Clone, Copy, Debug)]
struct Limits {
    quick: usize,
    slow: usize,
    unknown: usize,
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
    unknown: Arc<Semaphore>,
    zones: Mutex<HashMap<String, Arc<Zone>>>,
    remembered: Mutex<Remembered>,
    /// Nobody outside can tell which zones have the same hash.
    hasher: RandomState,
}

/// Names that the same servers answer for, as far as their labels tell.
struct Zone {
    turns: Arc<Semaphore>,
    hash: u64,
}

/// How zones were last time, by the hashes of their names.
#[derive(Debug, Default)]
struct Remembered {
    quick: HashSet<u64>,
    slow: HashSet<u64>,
}

/// Turns of a look-up under way; it is over when they are dropped.
struct Turns {
    shared: Arc<Shared>,
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
        let limits = Limits {
            quick: QUICK_MAX,
            slow: SLOW_MAX,
            unknown: UNKNOWN_MAX,
            zone: ZONE_MAX,
            slow_after: SLOW_AFTER,
        };
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
            unknown: Arc::new(Semaphore::new(limits.unknown)),
            zones: Mutex::default(),
            remembered: Mutex::default(),
            hasher: RandomState::new(),
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
        let was_slow = self.shared.remembered.lock().was_slow(zone.hash);
        let shared = match was_slow {
            Some(false) => &self.shared.quick,
            Some(true) => &self.shared.slow,
            None => &self.shared.unknown,
        };
        let _shared = shared.clone().acquire_owned().await.map_err(io::Error::other)?;
        Ok(Turns { shared: self.shared.clone(), zone, _own, _shared })
    }
}

impl Turns {
    /// Takes them as a whole: a closure that named one of them would leave the others
    /// with whoever asked.
    fn end(self, is_slow: bool) {
        self.shared.remembered.lock().note(self.zone.hash, is_slow);
    }
}

impl Remembered {
    /// `None` if nothing is known.
    fn was_slow(&self, zone: u64) -> Option<bool> {
        let is_known = self.slow.contains(&zone) || self.quick.contains(&zone);
        is_known.then(|| self.slow.contains(&zone))
    }

    fn note(&mut self, zone: u64, is_slow: bool) {
        let (zones, others) =
            if is_slow { (&mut self.slow, &mut self.quick) } else { (&mut self.quick, &mut self.slow) };
        others.remove(&zone);
        // Full forgets any of its kind: no number of quick ones makes forget a slow one.
        if zones.len() >= REMEMBERED_MAX
            && !zones.contains(&zone)
            && let Some(any) = zones.iter().next().copied()
        {
            zones.remove(&any);
        }
        zones.insert(zone);
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
        let hash = self.hasher.hash_one(&key);
        let new = || Arc::new(Zone { turns: Arc::new(Semaphore::new(self.limits.zone)), hash });
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
    use std::sync::atomic::{AtomicUsize, Ordering};

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

    /// Six of the quick, two of the slow, four of the unknown, and three of one zone.
    fn look_ups() -> (Told, LookUps) {
        let servers = Arc::<Servers>::default();
        let slow_after = Duration::from_millis(20);
        let limits = Limits { quick: 6, slow: 2, unknown: 4, zone: 3, slow_after };
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
        let (servers, look_ups) = look_ups();
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
    async fn zones_that_are_silent_leave_room_for_the_others_until_they_answer() {
        let (servers, look_ups) = look_ups();
        let silent = || (0..6).map(|n| format!("hook.silent{n}.example"));
        assert!(look_ups.look_up("quick.org").await.is_ok());
        // At first nothing is known of them: they hold up those that are as unknown.
        ask_and_give_up(&look_ups, silent()).await;
        assert!(servers.settles_at(4).await);
        let waiting = tokio::time::timeout(Duration::from_millis(50), look_ups.look_up("new.org"));
        assert!(waiting.await.is_err());
        let quick = tokio::time::timeout(SOON, look_ups.look_up("a.quick.org")).await;
        assert!(quick.is_ok_and(|quick| quick.is_ok()));
        servers.speak(true);
        assert!(servers.settles_at(0).await);
        servers.speak(false);
        // Four of them were slow, and the other two are unknown still.
        ask_and_give_up(&look_ups, silent()).await;
        assert!(servers.settles_at(4).await);
        for name in ["quick.org", "new.org"] {
            let asked = tokio::time::timeout(SOON, look_ups.look_up(name)).await;
            assert!(asked.is_ok_and(|asked| asked.is_ok()), "{name}");
        }
        // Of those that were asked again each was slow again; the others answer.
        servers.speak(true);
        assert!(servers.settles_at(0).await);
        for name in silent() {
            assert!(look_ups.look_up(&name).await.is_ok());
        }
        assert!(look_ups.shared.remembered.lock().slow.is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_zone_that_was_silent_is_slow_still_when_many_others_were_asked_about() {
        let (servers, look_ups) = look_ups();
        let silent = || (0..4).map(|n| format!("hook.silent{n}.example"));
        ask_and_give_up(&look_ups, silent()).await;
        assert!(servers.settles_at(4).await);
        servers.speak(true);
        assert!(servers.settles_at(0).await);
        servers.speak(false);
        for number in 0..2 * ZONES_MAX {
            look_ups.shared.zone(&format!("zone{number}.example"));
        }
        assert!(!look_ups.shared.zones.lock().contains_key("silent0.example"));
        ask_and_give_up(&look_ups, silent()).await;
        assert!(servers.settles_at(2).await);
    }

    #[test]
    fn of_so_many_zones_is_remembered_how_they_were_and_quick_ones_push_out_no_slow_one() {
        let mut remembered = Remembered::default();
        let many = REMEMBERED_MAX as u64;
        remembered.note(0, true);
        (1..=2 * many).for_each(|zone| remembered.note(zone, false));
        assert_eq!(remembered.quick.len(), REMEMBERED_MAX);
        assert_eq!(
            [0, 2 * many, 2 * many + 1].map(|zone| remembered.was_slow(zone)),
            [Some(true), Some(false), None]
        );
        remembered.note(0, false);
        assert_eq!((remembered.was_slow(0), remembered.slow.len()), (Some(false), 0));
        (1..=2 * many).for_each(|zone| remembered.note(zone, true));
        assert_eq!(remembered.slow.len(), REMEMBERED_MAX);
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_not_found_and_zones_are_forgotten() {
        let (_, look_ups) = look_ups();
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
