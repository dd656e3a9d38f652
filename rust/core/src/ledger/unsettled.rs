//! Keys that did not end well: given up, different on both sides, or pending.
//!
//! Invariant: each names its key and slot, and says what it was by a kind; no text has to be taken apart again.

/// A key that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The key's name.
    pub key: Vec<u8>,
    /// Its slot.
    pub slot: u16,
    /// What it was.
    pub kind: FailureKind,
    /// One sentence, with the server's own words where it had some; empty where the kind says it all.
    pub message: String,
    /// What the two sides hold, where that is what was found.
    pub sides: Option<SideBySide>,
    /// The node that it was meant for or came from.
    pub node: String,
}

/// What the two sides hold of a key, in short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SideBySide {
    /// What the source holds.
    pub source: String,
    /// What the target holds.
    pub target: String,
}

/// How a key is not the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What kind of difference.
    pub kind: FailureKind,
    /// What each side holds.
    pub sides: SideBySide,
    /// Why the values could not be compared; empty where they were.
    pub message: String,
}

impl Difference {
    /// The sides hold other things, or one of them nothing.
    pub fn new(kind: FailureKind, source: impl Into<String>, target: impl Into<String>) -> Self {
        Self::incomparable(kind, source, target, "")
    }

    /// What the sides hold can't be compared, for this reason.
    pub fn incomparable(
        kind: FailureKind,
        source: impl Into<String>,
        target: impl Into<String>,
        why: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            sides: SideBySide {
                source: source.into(),
                target: target.into(),
            },
            message: why.into(),
        }
    }
}

/// Why a key was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The target holds another value.
    Conflict,
    /// The target holds the same value with another TTL.
    TtlConflict,
    /// The source has another key that gets the same name.
    Collision,
    /// The target can't load the payload, nor a translation of it.
    Payload,
    /// The target takes no command or value so large.
    TooLarge,
    /// NOPERM for this key.
    Denied,
    /// Anything else.
    Error,
    /// No failure but a note: the key was copied without the TTLs of its fields, as the policy says.
    FieldTtlDropped,
    /// Verification: the target lacks the key.
    Missing,
    /// Verification: the source lacks the key, or is said to by a sweep.
    Extra,
    /// Verification, a note: the key lies on a node that, as the map has it, does not own its slot.
    Misplaced,
    /// Verification: another value of the same type.
    Different,
    /// Verification: a value of another type.
    Type,
    /// Verification: the same value with another TTL.
    Ttl,
}

impl Failure {
    pub(crate) fn weight(&self) -> usize {
        let sides = self.sides.as_ref();
        let shown = sides.map_or(0, |sides| sides.source.len() + sides.target.len());
        size_of::<Self>() + self.key.len() + self.message.len() + shown + self.node.len()
    }
}

impl FailureKind {
    /// The kind's name as the control plane knows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::TtlConflict => "ttl_conflict",
            Self::Collision => "collision",
            Self::Payload => "payload",
            Self::TooLarge => "too_large",
            Self::Denied => "denied",
            Self::Error => "error",
            Self::FieldTtlDropped => "field_ttl_dropped",
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Misplaced => "misplaced",
            Self::Different => "different",
            Self::Type => "type",
            Self::Ttl => "ttl",
        }
    }

    /// Whether it says something about the data alone, and nothing about the way to it: any number of these in
    /// a row is no reason to stop.
    pub const fn is_about_data(self) -> bool {
        !matches!(self, Self::Payload | Self::Denied | Self::Error)
    }
}

/// A key that could not be written because its slot stayed unavailable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// The key's name.
    pub key: Vec<u8>,
    /// Its slot.
    pub slot: u16,
    /// What the slot's node said last.
    pub reason: String,
}

impl Pending {
    pub(crate) fn weight(&self) -> usize {
        size_of::<Self>() + self.key.len() + self.reason.len()
    }
}
