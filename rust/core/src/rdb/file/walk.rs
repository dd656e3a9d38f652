//! Goes over a value from length to length.
//!
//! Invariant: it may stop at any byte and goes on there; it holds a frame for each level of nesting, which the layouts
//! bound, and nothing of the value.

use crate::rdb::file::head::{self, Head};
use crate::rdb::file::layout::Piece;

/// A walk over one value.
#[derive(Debug, Default)]
pub(super) struct Walk {
    frames: Vec<Frame>,
    /// Bytes to pass before the next piece.
    skip: u64,
}

#[derive(Debug)]
struct Frame {
    pieces: &'static [Piece],
    next: usize,
    /// How often it is still walked, this time counted.
    left: u64,
}

/// What a module's data goes on with, by its mark (`RDB_MODULE_OPCODE_…`).
const MODULE_MARKS: [&[Piece]; 5] = [
    &[Piece::Length],
    &[Piece::Length],
    &[Piece::Bytes(4)],
    &[Piece::Bytes(8)],
    &[Piece::Text],
];

impl Walk {
    /// Begin with a value that is made of `pieces`.
    pub fn begin(&mut self, pieces: &'static [Piece]) {
        self.frames.clear();
        self.skip = 0;
        self.enter(pieces, 1);
    }

    /// Walk on over `data`: how many bytes of it were passed, and whether the value is over.
    pub fn walk(&mut self, data: &[u8]) -> Result<(usize, bool), &'static str> {
        let mut at = 0;
        loop {
            if self.skip > 0 {
                let passed = self.skip.min((data.len() - at) as u64);
                at += passed as usize;
                self.skip -= passed;
                if self.skip > 0 {
                    return Ok((at, false));
                }
            }
            let Some(frame) = self.frames.last_mut() else {
                return Ok((at, true));
            };
            let Some(&piece) = frame.pieces.get(frame.next) else {
                frame.next = 0;
                frame.left -= 1;
                if frame.left == 0 {
                    self.frames.pop();
                }
                continue;
            };
            match self.pass(piece, &data[at..])? {
                Some(size) => at += size,
                None => return Ok((at, false)),
            }
        }
    }

    fn enter(&mut self, pieces: &'static [Piece], left: u64) {
        self.frames.push(Frame {
            pieces,
            next: 0,
            left,
        });
    }

    /// Pass the beginning of a piece, of so many bytes; `None` where it is not whole.
    fn pass(&mut self, piece: Piece, data: &[u8]) -> Result<Option<usize>, &'static str> {
        let mut entered: Option<(&'static [Piece], u64)> = None;
        let size = match piece {
            Piece::Bytes(count) => {
                self.skip = count;
                0
            }
            Piece::Text => {
                let Some((head, size)) = head::read(data)? else {
                    return Ok(None);
                };
                self.skip = match head {
                    Head::Plain(length) | Head::Compressed(length, _) => length,
                    Head::Integer(length) => length.into(),
                };
                size
            }
            Piece::Score => {
                let Some(&length) = data.first() else {
                    return Ok(None);
                };
                // From 253 on it stands for what is not a number, and for the infinities.
                self.skip = if length < 253 { length.into() } else { 0 };
                1
            }
            Piece::Module => {
                entered = Some((&[Piece::ModuleMark], u64::MAX));
                0
            }
            Piece::Length | Piece::Each(_) | Piece::ModuleMark => {
                let Some((length, size)) = head::length(data)? else {
                    return Ok(None);
                };
                match piece {
                    Piece::Each(pieces) if length > 0 => entered = Some((pieces, length)),
                    Piece::ModuleMark => entered = self.after_mark(length)?,
                    _ => {}
                }
                size
            }
        };
        // The piece's own frame first, which is not the last one any more where another is entered.
        if let Some(frame) = self.frames.last_mut() {
            frame.next += 1;
        }
        if let Some((pieces, left)) = entered {
            self.enter(pieces, left);
        }
        Ok(Some(size))
    }

    /// What comes behind a module's mark; nothing behind its end, which is the frame's as well.
    fn after_mark(&mut self, mark: u64) -> Result<Option<(&'static [Piece], u64)>, &'static str> {
        const UNKNOWN: &str = "a module's data has an unknown mark";
        let Some(number) = mark.checked_sub(1) else {
            if let Some(frame) = self.frames.last_mut() {
                frame.left = 1;
            }
            return Ok(None);
        };
        let number = usize::try_from(number).map_err(|_| UNKNOWN)?;
        let pieces = MODULE_MARKS.get(number).ok_or(UNKNOWN)?;
        Ok(Some((pieces, 1)))
    }
}
