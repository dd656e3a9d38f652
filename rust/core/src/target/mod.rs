//! What is written: routes, connections, batches, and what replies mean for a key.
//!
//! Invariant: nothing here names the source; a key is settled by its own reply or a comparison, by nothing else.

pub(crate) mod barrier;
pub(crate) mod batch;
pub(crate) mod closing;
pub(crate) mod connection;
pub(crate) mod cut;
pub(crate) mod flight;
pub(crate) mod flights;
pub(crate) mod full;
pub(crate) mod health;
pub(crate) mod limits;
pub(crate) mod link;
pub(crate) mod membership;
pub(crate) mod probe;
pub(crate) mod restore;
pub(crate) mod route;
pub(crate) mod translate;
