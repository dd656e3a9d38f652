//! The commands of a stream, sans-IO.
//!
//! Invariant: the offset counts every byte of the stream of commands and nothing else (`\n` between commands is a sign
//! of life and no part of it); no more than one argument is held, and only one that was asked for; a length that the
//! peer claims reserves nothing.

use crate::source::stream::error::StreamError;

/// A part of a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A command begins, with so many arguments, its name counted.
    Begin(usize),
    /// An argument that was asked for.
    Argument(&'a [u8]),
    /// An argument that was not asked for, of so many bytes, is over.
    Skipped(u64),
    /// The command is whole.
    End,
}

/// One look at the stream.
#[derive(Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// Bytes that are used up.
    pub used: usize,
    /// What they were; `None`: more bytes are needed.
    pub item: Option<Item<'a>>,
    /// So many bytes in all are needed before there can be an item, where that is known.
    pub need: usize,
}

impl<'a> Step<'a> {
    fn item(used: usize, item: Item<'a>) -> Self {
        Self {
            used,
            item: Some(item),
            need: 0,
        }
    }

    fn partial(used: usize, need: usize) -> Self {
        Self {
            used,
            item: None,
            need,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between commands.
    Between,
    /// At an argument, of so many that are left.
    Argument(usize),
    /// In an argument that is skipped: its length, what is left of it and its line end, and arguments after it.
    Skipping { length: u64, left: u64, after: usize },
}

/// The commands of a stream, one after another, an argument at a time.
#[derive(Debug)]
pub struct Commands {
    state: State,
    offset: u64,
    start: u64,
}

/// Longest argument that is believed: far beyond `proto-max-bulk-len`, far below overflow.
const LONGEST_ARGUMENT: u64 = 1 << 40;

impl Commands {
    /// Commands that begin behind `offset`.
    pub fn new(offset: u64) -> Self {
        Self {
            state: State::Between,
            offset,
            start: offset,
        }
    }

    /// All bytes up to here were used.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The command that is under way, or comes next, begins behind this offset: who has lost it asks from here.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Look at the stream, which goes on with `data`; `wants` says of an argument of so many bytes whether it is to be
    /// handed over whole.
    #[inline]
    pub fn next<'a>(
        &mut self,
        data: &'a [u8],
        wants: impl FnOnce(u64) -> bool,
    ) -> Result<Step<'a>, StreamError> {
        let step = match self.state {
            State::Between => return self.begin(data),
            State::Argument(0) => {
                self.state = State::Between;
                self.start = self.offset;
                Step::item(0, Item::End)
            }
            State::Argument(left) => self.argument(data, left, wants)?,
            State::Skipping { length, left, after } => self.skip(0, data.len(), length, left, after),
        };
        self.offset += step.used as u64;
        Ok(step)
    }

    fn begin<'a>(&mut self, data: &'a [u8]) -> Result<Step<'a>, StreamError> {
        let lead = data.iter().take_while(|&&byte| byte == b'\n').count();
        let rest = &data[lead..];
        let Some((count, used)) = header(rest, b'*')? else {
            return Ok(Step::partial(lead, 0));
        };
        let count = usize::try_from(count)
            .ok()
            .filter(|&count| count > 0 && i32::try_from(count).is_ok())
            .ok_or_else(|| StreamError::at("no number of arguments", rest))?;
        self.start = self.offset;
        self.offset += used as u64;
        self.state = State::Argument(count);
        Ok(Step::item(lead + used, Item::Begin(count)))
    }

    #[inline]
    fn argument<'a>(
        &mut self,
        data: &'a [u8],
        left: usize,
        wants: impl FnOnce(u64) -> bool,
    ) -> Result<Step<'a>, StreamError> {
        let Some((length, used)) = header(data, b'$')? else {
            return Ok(Step::partial(0, 0));
        };
        if length > LONGEST_ARGUMENT {
            return Err(StreamError::at("no length of an argument", data));
        }
        if !wants(length) {
            return Ok(self.skip(used, data.len(), length, length + 2, left - 1));
        }
        let end = used + length as usize;
        match data.get(end..end + 2) {
            None => Ok(Step::partial(0, end + 2)),
            Some(b"\r\n") => {
                self.state = State::Argument(left - 1);
                Ok(Step::item(end + 2, Item::Argument(&data[used..end])))
            }
            Some(_) => Err(StreamError::at("no end of an argument", data)),
        }
    }

    /// Skip what there is of an argument that begins at `from` in a buffer of `there` bytes.
    fn skip<'a>(&mut self, from: usize, there: usize, length: u64, left: u64, after: usize) -> Step<'a> {
        let count = ((there - from) as u64).min(left);
        let left = left - count;
        let used = from + count as usize;
        if left == 0 {
            self.state = State::Argument(after);
            Step::item(used, Item::Skipped(length))
        } else {
            self.state = State::Skipping { length, left, after };
            Step::partial(used, 0)
        }
    }
}

/// The number in the line at the start of `data` that begins with `kind`, and how many bytes it takes.
#[inline]
fn header(data: &[u8], kind: u8) -> Result<Option<(u64, usize)>, StreamError> {
    /// More digits than any length has.
    const LONGEST: usize = 20;
    let Some(&first) = data.first() else {
        return Ok(None);
    };
    let wrong = || Err(StreamError::at("no RESP command", data));
    if first != kind {
        return wrong();
    }
    let mut value: u64 = 0;
    for (at, &byte) in data.iter().enumerate().skip(1) {
        match byte {
            b'0'..=b'9' if at <= LONGEST => {
                match value
                    .checked_mul(10)
                    .and_then(|value| value.checked_add(u64::from(byte - b'0')))
                {
                    Some(next) => value = next,
                    None => return wrong(),
                }
            }
            b'\r' if at > 1 => {
                return match data.get(at + 1) {
                    None => Ok(None),
                    Some(b'\n') => Ok(Some((value, at + 2))),
                    Some(_) => wrong(),
                };
            }
            _ => return wrong(),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::resp::encode;

    /// Where a command begins, and its arguments; `None`: one that was skipped.
    type Read = (u64, Vec<Option<Vec<u8>>>);

    /// All commands in `data`, fed in pieces; arguments up to `most` bytes are wanted. With each, its start.
    fn read(data: &[u8], size: usize, most: u64) -> (Vec<Read>, u64) {
        let mut commands = Commands::new(100);
        let (mut buffer, mut all, mut current) = (Vec::new(), Vec::new(), Vec::new());
        let mut pieces = data.chunks(size);
        loop {
            let step = commands.next(&buffer, |length| length <= most).unwrap();
            let (used, need) = (step.used, step.need);
            let stalled = step.item.is_none();
            match step.item {
                Some(Item::Argument(bytes)) => current.push(Some(bytes.to_vec())),
                Some(Item::Skipped(_)) => current.push(None),
                Some(Item::Begin(_)) => all.push((commands.start(), Vec::new())),
                Some(Item::End) => all.last_mut().unwrap().1 = std::mem::take(&mut current),
                None => {}
            }
            buffer.drain(..used);
            assert!(need as u64 <= most + 32 && buffer.len() as u64 <= most + 64 + size as u64);
            if stalled {
                match pieces.next() {
                    Some(piece) => buffer.extend(piece),
                    None => break,
                }
            }
        }
        assert!(buffer.is_empty());
        (all, commands.offset())
    }

    #[test]
    fn a_sign_of_life_is_no_part_of_the_offset() {
        let (all, offset) = read(b"\n\n*1\r\n$4\r\nPING\r\n\n*1\r\n$4\r\nPING\r\n\n", 3, 10);
        let ping = vec![Some(b"PING".to_vec())];
        assert_eq!((all, offset), (vec![(100, ping.clone()), (114, ping)], 128));
    }

    #[test]
    fn what_breaks_resp_is_an_error() {
        for data in [
            "PING\r\n",
            "*0\r\n",
            "*-1\r\n",
            "*1\r\n:4\r\n",
            "*1\r\n$4\r\nPING??",
            "*1\n",
            "*1\r\n$-1\r\n",
            "*99999999999999999999999\r\n",
            "*1\r\n$99999999999999\r\n",
        ] {
            let mut commands = Commands::new(0);
            let mut rest = data.as_bytes();
            let failed = loop {
                match commands.next(rest, |_| true) {
                    Err(_) => break true,
                    Ok(Step { item: None, .. }) => break false,
                    Ok(step) => rest = &rest[step.used..],
                }
            };
            assert!(failed, "{data:?}");
        }
    }

    proptest! {
        #[test]
        fn every_byte_counts_however_it_is_cut(
            commands in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6), 0..12),
            size in 1usize..80,
            most in 0u64..40,
        ) {
            let mut data = Vec::new();
            let mut expected = Vec::new();
            for arguments in &commands {
                let kept = arguments.iter().map(|bytes| (bytes.len() as u64 <= most).then(|| bytes.clone()));
                expected.push((100 + data.len() as u64, kept.collect::<Vec<_>>()));
                let arguments: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
                encode::command(&mut data, &arguments);
            }
            let (found, offset) = read(&data, size, most);
            prop_assert_eq!(found, expected);
            prop_assert_eq!(offset, 100 + data.len() as u64);
        }

        #[test]
        fn any_bytes_end_in_an_error_or_wait_for_more(data in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut commands = Commands::new(0);
            let mut rest = data.as_slice();
            while let Ok(Step { used, item: Some(_), .. }) = commands.next(rest, |length| length < 9) {
                rest = &rest[used..];
            }
        }
    }
}
