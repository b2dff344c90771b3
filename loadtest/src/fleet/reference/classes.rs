//! The five kinds of people of the reference fleet, by what they wear: a class is a
//! share of the users and a table of rhythms, and the table alone decides how many
//! samples a day come of it (proved by counting, in the tests of this folder).

use super::metrics::{
    BASAL_ENERGY, BODY_BATTERY, DISTANCE, ENERGY, FLIGHTS, GLUCOSE, HEART_RATE, HRV, READINESS,
    RESPIRATORY_RATE, RESTING_HEART_RATE, SKIN_TEMPERATURE, SLEEP, SLEEP_DEEP, SLEEP_EFFICIENCY, SLEEP_REM,
    SPO2, STEPS, STRESS, VO2_MAX,
};

/// People who wear the same.
#[derive(Debug)]
pub struct Class {
    /// What they wear.
    pub name: &'static str,
    /// How many of 100 users.
    pub percent: u64,
    /// Samples a day and user, at density 1.
    pub samples_a_day: u64,
    /// Whether the device knows its zone and says so.
    pub(super) zoned: bool,
    pub(super) rhythms: &'static [Rhythm],
}

/// One series of a person: a metric of a device, and when it is measured.
#[derive(Debug)]
pub(super) struct Rhythm {
    /// Its place among the metrics.
    pub(super) metric: usize,
    pub(super) device: &'static Device,
    pub(super) when: When,
}

/// What measures, as it is named in samples.
#[derive(Debug, PartialEq, Eq)]
pub struct Device {
    /// Who made it.
    pub source: &'static str,
    /// The beginning of its id, completed by the user's number.
    pub model: &'static str,
}

/// When a series has samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// So many seconds apart, day and night.
    Every(u64),
    /// The same, each up to a quarter of it late, as a watch that saves power.
    About(u64),
    /// So many seconds apart in the 16 waking hours.
    Awake(u64),
    /// So many seconds apart in the 8 hours of sleep.
    Asleep(u64),
    /// Half an hour in each hour, 5, 8, 10 or 15 seconds apart.
    Bursts,
    /// Once, in the hour before waking.
    Daily,
}

const WATCH: Device = Device { source: "apple", model: "watch7" };
const PHONE: Device = Device { source: "apple", model: "iphone15" };
const GARMIN: Device = Device { source: "garmin", model: "fenix8" };
const POLAR: Device = Device { source: "polar", model: "vantage" };
const RING: Device = Device { source: "oura", model: "ring4" };
const SENSOR: Device = Device { source: "dexcom", model: "g7" };

use When::{About, Asleep, Awake, Bursts, Daily, Every};

/// All of them; their shares add up to 100.
#[rustfmt::skip]
pub static CLASSES: [Class; 5] = [
    Class { name: "phone and watch", percent: 40, samples_a_day: 3_500, zoned: true, rhythms: &[
        on(&WATCH, HEART_RATE, About(60)),         // 1,440
        on(&WATCH, STEPS, Awake(120)),             //   480
        on(&PHONE, STEPS, Awake(120)),             //   480
        on(&WATCH, ENERGY, Awake(120)),            //   480
        on(&PHONE, DISTANCE, Awake(180)),          //   320
        on(&WATCH, BASAL_ENERGY, Every(900)),      //    96
        on(&WATCH, RESPIRATORY_RATE, Asleep(300)), //    96
        on(&WATCH, SPO2, Every(1_800)),            //    48
        on(&WATCH, HRV, Every(3_600)),             //    24
        on(&PHONE, FLIGHTS, Awake(1_800)),         //    32
        on(&WATCH, RESTING_HEART_RATE, Daily),     //     4 daily ones
        on(&WATCH, SLEEP, Daily),
        on(&WATCH, SLEEP_DEEP, Daily),
        on(&WATCH, VO2_MAX, Daily),
    ] },
    Class { name: "15-second heart rate", percent: 20, samples_a_day: 8_000, zoned: false, rhythms: &[
        on(&GARMIN, HEART_RATE, Every(15)),        // 5,760
        on(&GARMIN, STEPS, Awake(60)),             //   960
        on(&GARMIN, ENERGY, Awake(60)),            //   960
        on(&GARMIN, RESPIRATORY_RATE, Every(600)), //   144
        on(&GARMIN, STRESS, Every(900)),           //    96
        on(&GARMIN, SPO2, Asleep(900)),            //    32
        on(&GARMIN, BODY_BATTERY, Every(2_160)),   //    40
        on(&GARMIN, RESTING_HEART_RATE, Daily),    //     8 daily ones
        on(&GARMIN, SLEEP, Daily),
        on(&GARMIN, SLEEP_DEEP, Daily),
        on(&GARMIN, SLEEP_REM, Daily),
        on(&GARMIN, SLEEP_EFFICIENCY, Daily),
        on(&GARMIN, VO2_MAX, Daily),
        on(&GARMIN, READINESS, Daily),
        on(&GARMIN, HRV, Daily),
    ] },
    Class { name: "5-to-15-second bursts", percent: 20, samples_a_day: 6_500, zoned: false, rhythms: &[
        on(&POLAR, HEART_RATE, Bursts),            // 5,310
        on(&POLAR, STEPS, Awake(60)),              //   960
        on(&POLAR, ENERGY, Awake(300)),            //   192
        on(&POLAR, HRV, Asleep(900)),              //    32
        on(&POLAR, RESTING_HEART_RATE, Daily),     //     6 daily ones
        on(&POLAR, SLEEP, Daily),
        on(&POLAR, SLEEP_DEEP, Daily),
        on(&POLAR, SLEEP_REM, Daily),
        on(&POLAR, VO2_MAX, Daily),
        on(&POLAR, READINESS, Daily),
    ] },
    Class { name: "ring", percent: 15, samples_a_day: 600, zoned: false, rhythms: &[
        on(&RING, HEART_RATE, Every(300)),         //   288
        on(&RING, HRV, Asleep(300)),               //    96
        on(&RING, RESPIRATORY_RATE, Asleep(300)),  //    96
        on(&RING, SKIN_TEMPERATURE, Asleep(300)),  //    96
        on(&RING, SPO2, Asleep(1_800)),            //    16
        on(&RING, RESTING_HEART_RATE, Daily),      //     7 daily ones
        on(&RING, SLEEP, Daily),
        on(&RING, SLEEP_DEEP, Daily),
        on(&RING, SLEEP_REM, Daily),
        on(&RING, SLEEP_EFFICIENCY, Daily),
        on(&RING, READINESS, Daily),
        on(&RING, STEPS, Awake(7_200)),           //     8
        on(&RING, STRESS, Daily),
    ] },
    Class { name: "glucose sensor", percent: 5, samples_a_day: 480, zoned: true, rhythms: &[
        on(&SENSOR, GLUCOSE, Every(300)),          //   288
        on(&PHONE, STEPS, Awake(600)),             //    96
        on(&PHONE, DISTANCE, Awake(600)),          //    96
    ] },
];

const fn on(device: &'static Device, metric: usize, when: When) -> Rhythm {
    Rhythm { metric, device, when }
}
