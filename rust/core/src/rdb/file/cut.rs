//! Parts of a value that is too large to be kept: elements that stand together, as a small value of the same type.
//!
//! Invariant: all parts together hold what the value holds, each element once and in the order of the file; nothing is
//! kept of what was given out, and of what is not, one element at most, within the limit.

use crate::rdb::file::head::{self, Head};
use crate::rdb::file::item::{Item, Large, Part};
use crate::rdb::file::layout::{Form, Piece};
use crate::rdb::file::walk::Walk;
use crate::rdb::lzf::Expander;
use crate::rdb::type_byte as types;
use crate::rdb::write;

/// Elements of a part at most: what is done with them keeps a server that long.
const MOST_ELEMENTS: u64 = 1000;

/// At first, elements take this part of what was asked for: they may be compressed.
const FIRST_SHARE: usize = 16;

/// A large value that is given out in parts.
#[derive(Debug)]
pub(super) struct Cut {
    pub large: Large,
    form: Form,
    /// Bytes that a part of a string has, those that elements of a part should have in the file, and those that what
    /// can't be cut may have.
    part: usize,
    pub share: usize,
    limit: usize,
    stage: Stage,
    /// Bytes of what is here that were looked at.
    looked: usize,
    /// Bytes of what is here that are whole elements, and how many these are.
    border: usize,
    elements: u64,
    /// What stands before the count, and how many elements are left.
    prefix: Vec<u8>,
    left: u64,
    /// No more parts are given out.
    is_given_up: bool,
}

#[derive(Debug)]
enum Stage {
    /// At the value's first byte.
    Head,
    /// In a string, of which so many bytes of the file are left; its length, and how it is decompressed.
    Text(u64, u64, Option<Expander>),
    /// Between two elements, or within one.
    Between,
    Within,
    /// Behind the elements, or in a value that is only given out as a whole.
    Rest,
    Over,
}

/// What came of a look: bytes that are done with, and a part.
type Given = Result<(usize, Option<Part>), &'static str>;

impl Cut {
    pub fn new(large: Large, form: Form, part: usize, limit: usize) -> Self {
        Self {
            large,
            form,
            part,
            share: part / FIRST_SHARE,
            limit,
            stage: Stage::Head,
            looked: 0,
            border: 0,
            elements: 0,
            prefix: Vec::new(),
            left: 0,
            is_given_up: false,
        }
    }

    pub fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    /// The next part of `data`, which begins where the last look has ended; with no bytes and no part, more is needed.
    pub fn next(&mut self, data: &[u8], walk: &mut Walk) -> Given {
        let given = match self.stage {
            Stage::Head => self.begin(data, walk),
            Stage::Text(..) => self.text(data),
            Stage::Between | Stage::Within => self.elements(data, walk),
            Stage::Rest => self.rest(data, walk),
            Stage::Over => Ok((0, None)),
        }?;
        self.large.bytes += given.0 as u64;
        Ok(given)
    }

    fn begin(&mut self, data: &[u8], walk: &mut Walk) -> Given {
        match self.form {
            Form::Whole(pieces) => {
                walk.begin(pieces);
                self.stage = Stage::Rest;
                self.rest(data, walk)
            }
            Form::Text => {
                let Some((head, size)) = head::read(data)? else {
                    return Ok((0, None));
                };
                self.stage = match head {
                    Head::Plain(length) => Stage::Text(length, length, None),
                    Head::Compressed(length, plain) => {
                        let expander = Expander::new(length, plain).map_err(|malformed| malformed.0)?;
                        Stage::Text(length, plain, Some(expander))
                    }
                    Head::Integer(_) => {
                        self.form = Form::Whole(&[Piece::Text]);
                        return self.begin(data, walk);
                    }
                };
                Ok((size, None))
            }
            Form::Elements { prefix, .. } => {
                let Some(rest) = data.get(prefix..) else {
                    return Ok((0, None));
                };
                let Some((count, size)) = head::length(rest)? else {
                    return Ok((0, None));
                };
                self.prefix = data[..prefix].to_vec();
                self.left = count;
                self.stage = Stage::Between;
                Ok((prefix + size, None))
            }
        }
    }

    fn text(&mut self, data: &[u8]) -> Given {
        let Stage::Text(left, length, expander) = &mut self.stage else {
            return Ok((0, None));
        };
        let here = usize::try_from(*left).map_or(data.len(), |left| data.len().min(left));
        let (used, bytes) = match expander {
            None => {
                let size = self.part.min(usize::try_from(*left).unwrap_or(usize::MAX));
                if here < size {
                    return Ok((0, None));
                }
                (size, data[..size].to_vec())
            }
            Some(expander) => {
                let used = expander
                    .expand(&data[..here], self.part)
                    .map_err(|malformed| malformed.0)?;
                let is_last = *left == used as u64;
                if is_last && !expander.is_over() || !is_last && expander.is_over() {
                    return Err("a compressed string does not have the announced length");
                }
                let is_full = expander.ready() >= self.part;
                if !is_full && !is_last && used == 0 && here as u64 == *left {
                    return Err("a compressed string ends early");
                }
                let size = if is_full || is_last { self.part } else { 0 };
                (used, expander.take(size))
            }
        };
        *left -= used as u64;
        let is_over = *left == 0 && expander.as_ref().is_none_or(|expander| expander.ready() == 0);
        let length = *length;
        if is_over {
            self.stage = Stage::Over;
        }
        let part = (!bytes.is_empty()).then_some(Part::Text(bytes, length));
        Ok((used, part))
    }

    fn elements(&mut self, data: &[u8], walk: &mut Walk) -> Given {
        let Form::Elements { element, rest, .. } = self.form else {
            return Ok((0, None));
        };
        loop {
            if matches!(self.stage, Stage::Between) {
                if self.left == 0 {
                    walk.begin(rest);
                    self.stage = if rest.is_empty() { Stage::Over } else { Stage::Rest };
                    return match self.give_elements(data) {
                        (0, None) => self.rest(data, walk),
                        given => Ok(given),
                    };
                }
                if self.border >= self.share.max(1) || self.elements >= MOST_ELEMENTS {
                    return Ok(self.give_elements(data));
                }
                walk.begin(element);
                self.stage = Stage::Within;
            }
            let (passed, is_whole) = walk.walk(&data[self.looked..])?;
            self.looked += passed;
            let end = if is_whole { self.looked } else { data.len() };
            if end - self.border > self.limit && !self.is_given_up {
                // What is whole before it is of no use without it.
                return Ok(self.give_up(is_whole));
            }
            if !is_whole {
                return Ok(self.give_elements(data));
            }
            self.end_element();
        }
    }

    fn end_element(&mut self) {
        self.left -= 1;
        self.elements += 1;
        self.border = self.looked;
        self.stage = Stage::Between;
    }

    /// What is whole of what is here, as a value of its own.
    fn give_elements(&mut self, data: &[u8]) -> (usize, Option<Part>) {
        if self.is_given_up {
            self.elements = 0;
            self.border = 0;
            return (std::mem::take(&mut self.looked), None);
        }
        let (used, elements) = (
            std::mem::take(&mut self.border),
            std::mem::take(&mut self.elements),
        );
        self.looked -= used;
        if elements == 0 {
            return (used, None);
        }
        let is_stream = matches!(self.form, Form::Elements { rest, .. } if !rest.is_empty());
        let mut body = Vec::with_capacity(used + self.prefix.len() + 16);
        body.push(if is_stream {
            types::STREAM_LISTPACKS
        } else {
            self.large.type_byte
        });
        body.extend_from_slice(&self.prefix);
        write::length(&mut body, elements);
        body.extend_from_slice(&data[..used]);
        if is_stream {
            // Length, last ID, groups: what they are comes behind the entries.
            body.extend_from_slice(&[0; 4]);
        }
        (used, Some(Part::Body(body)))
    }

    fn rest(&mut self, data: &[u8], walk: &mut Walk) -> Given {
        if self.is_over() {
            return Ok((0, None));
        }
        let (passed, is_over) = walk.walk(&data[self.looked..])?;
        self.looked += passed;
        if is_over {
            self.stage = Stage::Over;
        }
        let is_too_large = self.looked > self.limit || !is_over && data.len() > self.limit;
        if is_too_large && !self.is_given_up {
            return Ok(self.give_up(false));
        }
        if self.is_given_up {
            return Ok((std::mem::take(&mut self.looked), None));
        }
        if !is_over {
            return Ok((0, None));
        }
        let used = std::mem::take(&mut self.looked);
        let mut body = Vec::with_capacity(used + 2);
        body.push(self.large.type_byte);
        let part = if matches!(self.form, Form::Elements { .. }) {
            body.push(0);
            body.extend_from_slice(&data[..used]);
            Part::Rest(body)
        } else {
            body.extend_from_slice(&data[..used]);
            Part::Body(body)
        };
        Ok((used, Some(part)))
    }

    fn give_up(&mut self, is_whole: bool) -> (usize, Option<Part>) {
        self.is_given_up = true;
        let seen = self.looked - self.border;
        if is_whole {
            self.end_element();
        }
        self.elements = 0;
        self.border = 0;
        let used = std::mem::take(&mut self.looked);
        (used, Some(Part::TooLarge(seen as u64)))
    }
}

/// What is being passed over without being kept.
#[derive(Debug)]
pub(super) enum Passing {
    /// What a server keeps beside the keys.
    Item(Item<'static>),
    /// A key's value that is too large, with the bytes so far.
    Value(Large),
    /// One that is given out in parts.
    Parts(Cut),
}
