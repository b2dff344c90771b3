//! Receivers that a server has to live with: each kind of dead one, and where it is.

use std::fmt;
use std::net::{Ipv4Addr, TcpListener};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::HeaderValue;

use crate::deliver::books::{Books, Content};
use crate::receiver::{Behaviour, Receiver, ReceiverError, ReceiverSettings};
use crate::signature::{Dialect, Key, Secret, SecretError};
use crate::sink::Sink;

/// Longer than any timeout of a delivery.
const HANG: Duration = Duration::from_secs(3_600);
/// A byte a second, for as long.
const DRIP_BYTES: u64 = 3_600;
/// 1 TiB: no server reads it to its end.
const HUGE_BYTES: u64 = 1 << 40;

/// How a receiver is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// Nobody listens.
    Refused,
    /// Takes the request and never answers.
    Hanging,
    /// Answers 200, its body a byte a second.
    Dripping,
    /// Answers 200 with a body without an end.
    Huge,
    /// 302 to somewhere else.
    Redirecting,
    /// Resets the connection.
    Resetting,
    /// 500.
    Failing,
}

/// Kinds, and how much of the dead each is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shares(Vec<(Kind, u64)>);

/// No such kinds.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not kinds with shares like refused=2,hanging=1: {}", Kind::names())]
pub struct SharesError {
    text: String,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Refused,
        Self::Hanging,
        Self::Dripping,
        Self::Huge,
        Self::Redirecting,
        Self::Resetting,
        Self::Failing,
    ];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Hanging => "hanging",
            Self::Dripping => "dripping",
            Self::Huge => "huge",
            Self::Redirecting => "redirecting",
            Self::Resetting => "resetting",
            Self::Failing => "failing",
        }
    }

    fn names() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

impl Shares {
    /// All kinds alike.
    pub fn even() -> Self {
        Self(Kind::ALL.map(|kind| (kind, 1)).to_vec())
    }

    /// The kind of dead receiver number `number`.
    pub(super) fn kind_of(&self, number: u64) -> Kind {
        let mut place = number % self.0.iter().map(|(_, share)| share).sum::<u64>();
        for (kind, share) in &self.0 {
            match place.checked_sub(*share) {
                Some(behind) => place = behind,
                None => return *kind,
            }
        }
        unreachable!("a place below the sum of the shares lies in one of them")
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<String> =
            self.0.iter().map(|(kind, share)| format!("{}={share}", kind.as_str())).collect();
        f.write_str(&pairs.join(","))
    }
}

impl FromStr for Shares {
    type Err = SharesError;

    fn from_str(text: &str) -> Result<Self, SharesError> {
        let pair = |pair: &str| {
            let (name, share) = pair.split_once('=')?;
            let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == name)?;
            Some((kind, share.parse().ok().filter(|share| (1..=1_000).contains(share))?))
        };
        let pairs: Option<Vec<(Kind, u64)>> = text.split(',').map(pair).collect();
        pairs.map(Self).ok_or_else(|| SharesError { text: text.to_owned() })
    }
}

/// The dead receivers of a run.
#[derive(Debug)]
pub(super) struct Dead {
    receiver: Receiver,
    refused: String,
    /// Where redirects lead, and nobody may follow.
    trap: Arc<Books>,
    _trap: Sink,
}

impl Dead {
    pub(super) fn start(secret: &Secret) -> Result<Self, DeadError> {
        let trap = Arc::new(Books::new(Key::prepare(Dialect::Standard, secret)?, 1, Content::Bare, 1_000));
        let sink = Sink::start(1, Arc::clone(&trap) as _)?;
        let receiver = Receiver::start(&ReceiverSettings {
            remember_ids: 0,
            gives_way: true,
            ..ReceiverSettings::default()
        })?;
        let location = HeaderValue::from_str(&format!("{}/trap", sink.url()));
        let location = location.expect("an address is visible ASCII");
        let behaviours = [
            (Kind::Hanging, Behaviour::Sleep(HANG)),
            (Kind::Dripping, Behaviour::Drip { pause: Duration::from_secs(1), bytes: DRIP_BYTES }),
            (Kind::Huge, Behaviour::Huge { bytes: HUGE_BYTES }),
            (Kind::Redirecting, Behaviour::Redirect { location }),
            (Kind::Resetting, Behaviour::Reset),
            (Kind::Failing, Behaviour::Status(StatusCode::INTERNAL_SERVER_ERROR)),
        ];
        for (kind, behaviour) in behaviours {
            let path = format!("/{}", kind.as_str());
            receiver.expect(&path, Dialect::Standard, secret)?;
            receiver.behave(&path, behaviour);
        }
        let refused = nobody().map_err(ReceiverError::Threads)?;
        Ok(Self { receiver, refused, trap, _trap: sink })
    }

    /// Where a receiver of this kind is.
    pub(super) fn url(&self, kind: Kind) -> String {
        match kind {
            Kind::Refused => self.refused.clone(),
            kind => format!("{}/{}", self.receiver.url(), kind.as_str()),
        }
    }

    /// Attempts that reached one.
    pub(super) fn attempts(&self) -> u64 {
        self.receiver.live().counts().requests
    }

    /// Redirects that were followed.
    pub(super) fn followed(&self) -> u64 {
        self.trap.counted().requests
    }
}

/// Why there are no dead receivers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeadError {
    /// One cannot listen.
    #[error("a dead receiver cannot be started")]
    Receiver(#[from] ReceiverError),
    /// The secret of this run signs nothing; a bug.
    #[error("the run's secret signs nothing")]
    Secret(#[from] SecretError),
}

/// An address of 127.0.0.1 where nobody listens any more.
fn nobody() -> std::io::Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(format!("http://{}/nobody", listener.local_addr()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_come_by_their_shares() {
        let shares: Shares = "refused=2,huge=1".parse().expect("good shares");
        let kinds: Vec<Kind> = (0..6).map(|number| shares.kind_of(number)).collect();
        use Kind::{Huge, Refused};
        assert_eq!(kinds, [Refused, Refused, Huge, Refused, Refused, Huge]);
        assert_eq!(shares.to_string(), "refused=2,huge=1");
        assert_eq!(Shares::even().to_string().parse::<Shares>().expect("its own text"), Shares::even());
        for bad in ["", "refused", "refused=0", "slow=1", "refused=1,"] {
            assert!(bad.parse::<Shares>().is_err(), "{bad:?}");
        }
    }
}
