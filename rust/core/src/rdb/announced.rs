//! How many entries a packed string says that it has. Invariant: a header that says "many" forbids no number.

/// The number of entries in the header of a listpack or ziplist; 65,535 and more are not told apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Announced(u16);

impl Announced {
    pub(crate) fn new(count: u16) -> Self {
        Self(count)
    }

    pub(crate) fn allows(self, count: usize) -> bool {
        self.0 == u16::MAX || usize::from(self.0) == count
    }
}
