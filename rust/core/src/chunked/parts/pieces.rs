//! A chunk in pieces that the target takes.
//!
//! Invariant: the pieces, in order, hold what the chunk holds; none takes more than the target's limits to write, and
//! what can't be cut is told of, not sent.

use crate::chunked::parts::{Chunk, Kind, Place};

/// What an argument costs on the wire besides its bytes.
const ARGUMENT_OVERHEAD: usize = 16;

/// What a command costs besides its arguments' bytes: the temporary key's name, for one.
const COMMAND_OVERHEAD: usize = 256;

/// An element that is too large to be written, and how many bytes it has.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Oversize(pub usize);

/// What one command, and one argument of it, may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Most {
    pub bytes: usize,
    pub argument: usize,
}

impl Chunk {
    /// Cut the chunk, which was read at `place`; each piece comes with its own place.
    pub fn pieces(self, kind: Kind, place: Place, most: Most) -> Result<Vec<(Place, Self)>, Oversize> {
        if self.written_bytes() <= most.bytes.min(most.argument) {
            return Ok(vec![(place, self)]);
        }
        let (next, is_last) = (self.next, self.is_last);
        let empty = |next| Self {
            elements: Vec::new(),
            entries: Vec::new(),
            expiries: Vec::new(),
            next,
            is_last: false,
        };
        let mut pieces = vec![(place, empty(place))];
        let mut room = most.bytes;
        let mut make_room = |bytes: usize, pieces: &mut Vec<(Place, Self)>| {
            if bytes > most.bytes {
                return Err(Oversize(bytes));
            }
            if bytes > room {
                room = most.bytes;
                if let Some((before, piece)) = pieces.last() {
                    let here = after(*before, piece.count(kind));
                    pieces.push((here, empty(here)));
                }
            }
            room -= bytes;
            Ok(())
        };
        let per_element = if matches!(kind, Kind::Hash | Kind::SortedSet) {
            2
        } else {
            1
        };
        let mut expiries = self.expiries.iter();
        let mut elements = self.elements.into_iter();
        loop {
            let element: Vec<Vec<u8>> = elements.by_ref().take(per_element).collect();
            let Some(first) = element.first() else { break };
            let expiry = expiries.next();
            let again = expiry.map_or(0, |_| first.len() + COMMAND_OVERHEAD);
            check(&element, most)?;
            make_room(weight(&element) + again, &mut pieces)?;
            if let Some((_, piece)) = pieces.last_mut() {
                piece.elements.extend(element);
                piece.expiries.extend(expiry);
            }
        }
        for (id, fields) in self.entries {
            check(&fields, most)?;
            make_room(weight(&fields) + COMMAND_OVERHEAD, &mut pieces)?;
            if let Some((_, piece)) = pieces.last_mut() {
                piece.entries.push((id, fields));
            }
        }
        if let Some((_, piece)) = pieces.last_mut() {
            (piece.next, piece.is_last) = (next, is_last);
        }
        Ok(pieces)
    }

    /// What it takes to write all of it, at the most.
    fn written_bytes(&self) -> usize {
        let again = if self.expiries.is_empty() { 0 } else { self.bytes() };
        let commands = self.entries.len() + self.expiries.len();
        self.bytes() + again + commands * COMMAND_OVERHEAD
    }
}

/// Where `count` elements after `place` are.
fn after(place: Place, count: usize) -> Place {
    match place {
        Place::Offset(at) => Place::Offset(at + count as u64),
        Place::Cursor(_) | Place::After(..) => place,
    }
}

fn weight(arguments: &[Vec<u8>]) -> usize {
    arguments
        .iter()
        .map(|argument| argument.len() + ARGUMENT_OVERHEAD)
        .sum()
}

fn check(arguments: &[Vec<u8>], most: Most) -> Result<(), Oversize> {
    match arguments.iter().map(Vec::len).max() {
        Some(longest) if longest > most.argument => Err(Oversize(longest)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(elements: &[usize]) -> Chunk {
        Chunk {
            elements: elements.iter().map(|&length| vec![b'x'; length]).collect(),
            entries: Vec::new(),
            expiries: Vec::new(),
            next: Place::Offset(100),
            is_last: true,
        }
    }

    const MOST: Most = Most {
        bytes: 1000,
        argument: 800,
    };

    fn lengths(pieces: &[(Place, Chunk)]) -> Vec<Vec<usize>> {
        let of = |piece: &Chunk| piece.elements.iter().map(Vec::len).collect();
        pieces.iter().map(|(_, piece)| of(piece)).collect()
    }

    #[test]
    fn a_list_is_cut_between_elements() {
        let pieces = chunk(&[600, 300, 700, 10])
            .pieces(Kind::List, Place::Offset(96), MOST)
            .expect("pieces");
        assert_eq!(lengths(&pieces), [vec![600, 300], vec![700, 10]]);
        assert_eq!([pieces[0].0, pieces[1].0], [Place::Offset(96), Place::Offset(98)]);
        assert_eq!(
            (pieces[1].1.next, pieces[1].1.is_last),
            (Place::Offset(100), true)
        );
        assert!(!pieces[0].1.is_last);
    }

    #[test]
    fn a_field_stays_with_its_value_and_its_expiry() {
        let mut hash = chunk(&[10, 600, 20, 30]);
        hash.expiries = vec![-1, 5];
        let pieces = hash.pieces(Kind::Hash, Place::Cursor(3), MOST).expect("pieces");
        assert_eq!(lengths(&pieces), [vec![10, 600], vec![20, 30]]);
        assert_eq!(
            [&pieces[0].1.expiries, &pieces[1].1.expiries],
            [&vec![-1], &vec![5]]
        );
    }

    #[test]
    fn entries_of_a_stream_are_commands_of_their_own() {
        let mut stream = chunk(&[]);
        stream.entries = (0..5)
            .map(|id| (vec![id], vec![vec![b'f'; 5], vec![b'v'; 300]]))
            .collect();
        let pieces = stream
            .pieces(Kind::Stream, Place::After(0, 0), MOST)
            .expect("pieces");
        assert_eq!(pieces.len(), 5);
    }

    #[test]
    fn what_can_t_be_cut_is_told_of() {
        let too_long = chunk(&[1, 801]).pieces(Kind::Set, Place::Cursor(0), MOST);
        assert_eq!(too_long.expect_err("too long"), Oversize(801));
        let pair = chunk(&[700, 700]).pieces(Kind::Hash, Place::Cursor(0), MOST);
        assert_eq!(pair.expect_err("too large"), Oversize(1432));
    }

    #[test]
    fn a_chunk_that_fits_stays_whole() {
        let pieces = chunk(&[100, 100]).pieces(Kind::Set, Place::Cursor(0), MOST);
        assert_eq!(pieces.expect("one").len(), 1);
    }
}
