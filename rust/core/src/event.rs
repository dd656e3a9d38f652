//! What the engine tells the control plane, and of which side.
//!
//! Invariant: an event's kind says all that is acted on; its message is for people and read by nobody else.

/// What an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A fresh topology of the target is needed.
    TopologyWanted,
    /// No page is begun before a checkpoint is taken.
    CheckpointWanted,
    /// The source refuses the login.
    SourceAccessWanted,
    /// A node of the target refuses the login.
    TargetAccessWanted,
    /// The connection to a node of the target is lost.
    NodeLost,
    /// It is reachable again.
    NodeBack,
    /// The connection to the source is lost.
    SourceLost,
    /// It is reachable again.
    SourceBack,
    /// A slot stays unavailable: its keys are kept as pending.
    SlotParked,
    /// A large key is copied from its start again.
    BigKeyAgain,
    /// A key is written all the time, and copied when it rests.
    BusyKey,
    /// Two keys of the source get one name at the target.
    NamesShared,
    /// A large key that was followed by elements is copied whole again.
    ElementsGivenUp,
    /// A large key can't be followed by elements.
    ElementsRefused,
    /// The source does not say how large its keys are.
    BigKeysUnseen,
    /// The source's stream flows.
    FollowAttached,
    /// It does not flow any more.
    FollowLost,
    /// It began anew, with a gap.
    FollowResynced,
    /// The source's functions were changed.
    FollowFunctions,
    /// Only a comparison of both sides settles what differs.
    ComparisonWanted,
    /// The checksum of an RDB file is wrong, and it is taken as it is.
    FileDamaged,
    /// An RDB file has keys in other databases than the one that is read.
    FileDatabases,
    /// An RDB file from the standard input has libraries of functions, which are not copied.
    FileFunctions,
}

impl EventKind {
    /// The kind's name as the control plane knows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TopologyWanted => "topology_wanted",
            Self::CheckpointWanted => "checkpoint_wanted",
            Self::SourceAccessWanted => "source_access_wanted",
            Self::TargetAccessWanted => "target_access_wanted",
            Self::NodeLost => "node_lost",
            Self::NodeBack => "node_back",
            Self::SourceLost => "source_lost",
            Self::SourceBack => "source_back",
            Self::SlotParked => "slot_parked",
            Self::BigKeyAgain => "big_key_again",
            Self::BusyKey => "busy_key",
            Self::NamesShared => "names_shared",
            Self::ElementsGivenUp => "elements_given_up",
            Self::ElementsRefused => "elements_refused",
            Self::BigKeysUnseen => "big_keys_unseen",
            Self::FollowAttached => "follow_attached",
            Self::FollowLost => "follow_lost",
            Self::FollowResynced => "follow_resynced",
            Self::FollowFunctions => "follow_functions",
            Self::ComparisonWanted => "comparison_wanted",
            Self::FileDamaged => "file_damaged",
            Self::FileDatabases => "file_databases",
            Self::FileFunctions => "file_functions",
        }
    }
}

/// Something that the control plane should know of or act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What it is.
    pub kind: EventKind,
    /// One sentence.
    pub message: String,
    /// The node it is about.
    pub node: Option<String>,
    /// The slot it is about.
    pub slot: Option<u16>,
}

impl Event {
    /// Of no node of the target and no slot.
    pub(crate) fn new(kind: EventKind, message: String) -> Self {
        Self {
            kind,
            message,
            node: None,
            slot: None,
        }
    }
}

/// The two sides of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Where keys are read.
    Source,
    /// Where they are written.
    Target,
}

impl Side {
    /// The side's name as the control plane knows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
        }
    }
}
