//! What is read: a server's keys, its replication stream and the keys that its commands touch, or an RDB file.
//!
//! Invariant: the source is only read, and nothing here knows of a target.

pub(crate) mod ask;
pub mod cluster;
pub(crate) mod dump;
pub(crate) mod fetch;
pub mod file;
pub mod keys;
pub(crate) mod names;
pub(crate) mod page;
pub(crate) mod passing_on;
pub(crate) mod plain_strings;
pub(crate) mod reader;
pub(crate) mod scan;
pub(crate) mod sizes;
pub mod stream;
pub(crate) mod value_filter;
pub(crate) mod walk;
