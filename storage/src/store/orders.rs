//! Orders to erase that are carried out together, and what they take out of the
//! journal.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use crate::attempts::row_is_hidden;
use crate::frame::{
    AttemptsFrame, EventFrame, FrameFault, Header, Kind, SamplesFrame, Tombstone, encode_erased,
};
use crate::hidden::Hidden;

/// Orders that are carried out together.
#[derive(Debug)]
pub struct Orders {
    all: Vec<Arc<Tombstone>>,
    /// What they hide, and nothing else does.
    hidden: Hidden,
    by_user: HashMap<(String, String), Vec<String>>,
}

impl Orders {
    /// Those that wait, in commit order.
    #[must_use]
    pub fn new(all: Vec<Arc<Tombstone>>) -> Orders {
        let hidden = all.iter().fold(Hidden::default(), |hidden, order| hidden.with(order));
        let mut by_user: HashMap<(String, String), Vec<String>> = HashMap::new();
        for order in &all {
            by_user.entry((order.org.clone(), order.user.clone())).or_default().push(order.id.clone());
        }
        Orders { all, hidden, by_user }
    }

    /// All of them, in commit order.
    #[must_use]
    pub fn all(&self) -> &[Arc<Tombstone>] {
        &self.all
    }

    /// Their ids.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        self.all.iter().map(|order| order.id.clone()).collect()
    }

    /// What they hide, and nothing else does.
    #[must_use]
    pub fn hidden(&self) -> &Hidden {
        &self.hidden
    }

    /// The ids of those that are about a user.
    #[must_use]
    pub fn of(&self, org: &str, user: &str) -> &[String] {
        self.by_user.get(&(org.to_owned(), user.to_owned())).map_or(&[], Vec::as_slice)
    }

    /// A frame without what they cover, at its place and not longer; `None` if they
    /// cover nothing of it. `touched` gets the ids of those that do.
    ///
    /// # Errors
    /// [`FrameFault`] if its payload contradicts itself.
    pub fn emptied(
        &self,
        header: &Header,
        bytes: &[u8],
        touched: &mut BTreeSet<String>,
    ) -> Result<Option<Vec<u8>>, FrameFault> {
        let whole = || Bytes::copy_from_slice(bytes);
        let gone = match Kind::from_number(header.kind) {
            Some(Kind::Samples) => return Ok(self.emptied_samples(&SamplesFrame::parse(whole())?, touched)),
            Some(Kind::Attempts) => {
                return Ok(self.emptied_attempts(&AttemptsFrame::parse(whole())?, touched));
            }
            Some(Kind::Event) => {
                let frame = EventFrame::parse(whole())?;
                let gone = self.hidden.hides_event(&frame);
                if gone {
                    touched.extend(self.of(frame.org(), frame.user().unwrap_or_default()).iter().cloned());
                }
                gone
            }
            Some(Kind::Tombstone) => {
                let tombstone = Tombstone::parse(bytes)?;
                self.all.iter().any(|order| order.id == tombstone.id)
            }
            _ => false,
        };
        Ok(gone.then(|| encode_erased().seal(header.stamp)))
    }

    fn emptied_samples(&self, frame: &SamplesFrame, touched: &mut BTreeSet<String>) -> Option<Vec<u8>> {
        if self.hidden.is_empty(frame.org()) {
            return None;
        }
        frame.without(|group| {
            let gone = self.hidden.hides_group(frame, group);
            if gone {
                touched.extend(self.of(frame.org(), group.user).iter().cloned());
            }
            gone
        })
    }

    fn emptied_attempts(&self, frame: &AttemptsFrame, touched: &mut BTreeSet<String>) -> Option<Vec<u8>> {
        if self.hidden.is_empty(frame.org()) {
            return None;
        }
        frame.without(|row| {
            let gone = row_is_hidden(&self.hidden, frame.org(), row);
            if gone {
                touched.extend(self.of(frame.org(), row.user.unwrap_or_default()).iter().cloned());
            }
            gone
        })
    }
}
