//! Orders to erase that are carried out together, and what they take out of the
//! journal.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use crate::attempts::row_is_hidden;
use crate::frame::{
    AttemptsFrame, Erased, EventFrame, FrameFault, Group, Header, Kind, SamplesFrame, Tombstone,
    encode_erased,
};
use crate::hidden::Hidden;

/// Orders that are carried out together.
#[derive(Debug)]
pub struct Orders {
    all: Vec<Arc<Tombstone>>,
    /// What they hide, and nothing else does.
    hidden: Hidden,
    /// What each of them hides.
    each: Vec<Hidden>,
    /// Their places, by organisation and user; without a user those about every user.
    places: HashMap<String, HashMap<Option<String>, Vec<usize>>>,
}

impl Orders {
    /// Those that wait, in commit order.
    #[must_use]
    pub fn new(all: Vec<Arc<Tombstone>>) -> Orders {
        let hidden = Hidden::of_all(&all);
        let each = all.chunks(1).map(Hidden::of_all).collect();
        let mut places: HashMap<String, HashMap<Option<String>, Vec<usize>>> = HashMap::new();
        for (place, order) in all.iter().enumerate() {
            let user = order.erased.user().map(str::to_owned);
            places.entry(order.org.clone()).or_default().entry(user).or_default().push(place);
        }
        Orders { all, hidden, each, places }
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

    /// Of whom ranges are deleted: organisation and user, without a user all users.
    #[must_use]
    pub fn ranges(&self) -> BTreeSet<(&str, Option<&str>)> {
        let ranges = self.all.iter().filter(|order| matches!(order.erased, Erased::Range { .. }));
        ranges.map(|order| (order.org.as_str(), order.erased.user())).collect()
    }

    /// The ids of those that cover a sample of a group.
    #[must_use]
    pub fn of_group(&self, frame: &SamplesFrame, group: &Group<'_>) -> Vec<String> {
        self.ids_hiding(frame.org(), Some(group.user), &|hidden| hidden.hides_group(frame, group))
    }

    /// The ids of those that cover a published event.
    #[must_use]
    pub fn of_event(&self, frame: &EventFrame) -> Vec<String> {
        self.ids_hiding(frame.org(), frame.user(), &|hidden| hidden.hides_event(frame))
    }

    /// The ids of those that hide something of a user.
    fn ids_hiding(&self, org: &str, user: Option<&str>, hides: &dyn Fn(&Hidden) -> bool) -> Vec<String> {
        let Some(of_org) = self.places.get(org).filter(|_| hides(&self.hidden)) else { return Vec::new() };
        let places = |user: Option<&str>| of_org.get(&user.map(str::to_owned)).into_iter().flatten();
        let of_user = user.into_iter().flat_map(|user| places(Some(user)));
        let hiding = of_user.chain(places(None)).filter(|place| hides(&self.each[**place]));
        hiding.map(|place| self.all[*place].id.clone()).collect()
    }

    /// The ids of those that may cover something in bytes of the journal of which nobody
    /// can say any more what they were: they have the organisation's name or the user's. An
    /// order about all users may cover anything.
    #[must_use]
    pub fn maybe_in(&self, bytes: &[u8]) -> BTreeSet<String> {
        let has = |name: &str| bytes.windows(name.len().max(1)).any(|part| part == name.as_bytes());
        let may_cover =
            |order: &&Arc<Tombstone>| order.erased.user().is_none_or(|user| has(user) || has(&order.org));
        self.all.iter().filter(may_cover).map(|order| order.id.clone()).collect()
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
                let ids = self.of_event(&EventFrame::parse(whole())?);
                let gone = !ids.is_empty();
                touched.extend(ids);
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
            let ids = self.of_group(frame, group);
            let gone = !ids.is_empty();
            touched.extend(ids);
            gone
        })
    }

    fn emptied_attempts(&self, frame: &AttemptsFrame, touched: &mut BTreeSet<String>) -> Option<Vec<u8>> {
        if self.hidden.is_empty(frame.org()) {
            return None;
        }
        frame.without(|row| {
            let ids =
                self.ids_hiding(frame.org(), row.user, &|hidden| row_is_hidden(hidden, frame.org(), row));
            let gone = !ids.is_empty();
            touched.extend(ids);
            gone
        })
    }
}
