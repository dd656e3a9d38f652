//! What is under way on one connection: flights in order, how far they are written, and how much of them is.
//!
//! Invariant: what the node has been sent and has not answered stays below what it lets wait of one connection, but for
//! one flight, which goes by itself.

use std::collections::VecDeque;

use crate::net::Outgoing;
use crate::target::flight::Flight;

/// Flights in order, and how far they are written.
#[derive(Debug)]
pub(crate) struct Flights {
    pub queue: VecDeque<Flight>,
    /// The flight that is being written, and how much of it is.
    writing: usize,
    written: usize,
    /// Bytes of all that are written or being written.
    under_way: usize,
    most: usize,
}

impl Flights {
    /// None so far; `most` bytes may be under way.
    pub fn new(most: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            writing: 0,
            written: 0,
            under_way: 0,
            most,
        }
    }

    /// Whether a flight is written whole, so that replies are due.
    pub fn owe_reply(&self) -> bool {
        self.writing > 0
    }

    /// How many flights are written, in whole or in part.
    pub fn begun(&self) -> usize {
        self.writing + usize::from(self.written > 0)
    }

    /// All replies to the first flight are here; `None` if it was not written.
    pub fn finish(&mut self) -> Option<Flight> {
        self.writing = self.writing.checked_sub(1)?;
        let flight = self.queue.pop_front()?;
        self.under_way = self.under_way.saturating_sub(flight.bytes().len());
        Some(flight)
    }
}

impl Outgoing for Flights {
    fn chunk(&self) -> &[u8] {
        let Some(flight) = self.queue.get(self.writing) else {
            return &[];
        };
        let bytes = flight.bytes();
        let must_wait = self.written == 0 && self.under_way > 0 && self.under_way + bytes.len() > self.most;
        if must_wait { &[] } else { &bytes[self.written..] }
    }

    fn advance(&mut self, count: usize) {
        let length = self.queue[self.writing].bytes().len();
        if self.written == 0 {
            self.under_way += length;
        }
        self.written += count;
        if self.written == length {
            self.writing += 1;
            self.written = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::Restore;
    use crate::target::batch::{Batch, Writing};

    fn flight(payload: usize) -> Flight {
        let mut batch = Batch::default();
        let restore = Restore {
            number: 0,
            key: b"k",
            expires_at: 0,
            payload: &vec![0; payload],
            is_string: false,
            rdb_version: None,
            eviction: None,
        };
        let writing = Writing {
            replace: false,
            sets: true,
        };
        batch.push(0, 0, &restore, writing);
        Flight::Restore {
            batch,
            replies: 0,
            errors: Vec::new(),
            probe: false,
        }
    }

    #[test]
    fn a_value_that_is_still_being_written_owes_no_reply() {
        let mut flights = Flights::new(usize::MAX);
        flights.queue.push_back(flight(1000));
        let length = flights.chunk().len();
        flights.advance(length - 1);
        assert!(!flights.owe_reply());
        assert_eq!(flights.begun(), 1);
        flights.advance(1);
        assert!(flights.owe_reply());
    }

    #[test]
    fn no_more_is_under_way_than_the_node_lets_wait() {
        let mut flights = Flights::new(2500);
        flights
            .queue
            .extend([flight(1000), flight(1000), flight(1000), flight(9000)]);
        let write_all = |flights: &mut Flights| {
            let mut count = 0;
            while !flights.chunk().is_empty() {
                let length = flights.chunk().len();
                flights.advance(length);
                count += 1;
            }
            count
        };
        assert_eq!(write_all(&mut flights), 2);
        assert!(flights.finish().is_some());
        assert_eq!(write_all(&mut flights), 1);
        assert!(flights.finish().is_some());
        assert_eq!(write_all(&mut flights), 0);
        assert!(flights.finish().is_some());
        // By itself one goes that is larger than all that may wait.
        assert_eq!(write_all(&mut flights), 1);
        assert!(flights.finish().is_some());
        assert!(flights.finish().is_none());
    }
}
