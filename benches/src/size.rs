//! How much a run does.

/// How much a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Seconds without optimization; its checksums are known.
    Small,
    /// Enough for a figure.
    Full,
}

impl Size {
    /// [`Full`](Size::Full) under `cargo bench`, [`Small`](Size::Small) where the
    /// benches are only tried: `cargo test --benches`, `cargo bench -- --test`.
    #[must_use]
    pub fn of_this_run() -> Size {
        let asked = |flag: &str| std::env::args().any(|argument| argument == flag);
        if asked("--bench") && !asked("--test") { Size::Full } else { Size::Small }
    }

    /// The one or the other.
    pub(crate) fn of(self, small: usize, full: usize) -> usize {
        match self {
            Size::Small => small,
            Size::Full => full,
        }
    }
}
