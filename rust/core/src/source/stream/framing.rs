//! What comes after PSYNC, sans-IO: the answer, a snapshot that is read past, and then commands for ever.
//!
//! Invariant: the offset counts every byte of the stream of commands and nothing else (`\n` between commands is a sign
//! of life and no part of it); no more than one argument is held, and only one that was asked for; a length that the
//! peer claims reserves nothing.

use memchr::{memchr, memmem};

use crate::reply::said;
use crate::resp::Decoded;

/// No line of the protocol is longer.
const LONGEST_LINE: usize = 64 * 1024;

/// The bytes that end a snapshot whose length was not known when it began.
const DELIMITER: usize = 40;

/// So much of a snapshot's beginning is looked at: its auxiliary fields take some 200 bytes.
const HEAD: usize = 1024;

/// No server's replication id is longer; they have 40 hexadecimal digits.
const LONGEST_ID: usize = 64;

/// What is no replication stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the source sends no replication stream: {what} at \"{}\"", start.escape_ascii())]
pub struct StreamError {
    what: &'static str,
    start: Vec<u8>,
}

impl StreamError {
    fn at(what: &'static str, data: &[u8]) -> Self {
        Self {
            what,
            start: data[..data.len().min(40)].to_vec(),
        }
    }
}

/// What a server answers to PSYNC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A snapshot follows, and then the commands from `offset` on.
    FullResync {
        /// The history that the offset counts in.
        id: String,
        /// How many bytes of it the snapshot holds.
        offset: u64,
    },
    /// The commands go on where we asked for them; `id` names the history from now on, where it has another name.
    Continue {
        /// The new name, if any.
        id: Option<String>,
    },
    /// Not now: it loads, is busy, or has lost its own primary.
    Later(String),
    /// The user may not do this, or is not logged in.
    Denied(String),
    /// It never will: it does not know PSYNC, or has it disabled.
    Refused(String),
}

/// Look for the answer to PSYNC at the start of `data`.
pub fn answer(data: &[u8]) -> Result<Decoded<Answer>, StreamError> {
    let lead = data.iter().take_while(|&&byte| byte == b'\n').count();
    let Some((line, used)) = line(&data[lead..])? else {
        return Ok(Decoded::Partial(data.len() + 1));
    };
    let answer = match line.split_first() {
        Some((b'+', text)) => accepted(text).ok_or_else(|| StreamError::at("no answer to PSYNC", line))?,
        Some((b'-', text)) => refused(text),
        _ => return Err(StreamError::at("no answer to PSYNC", line)),
    };
    Ok(Decoded::Whole(answer, lead + used))
}

fn accepted(text: &[u8]) -> Option<Answer> {
    let text = std::str::from_utf8(text).ok()?;
    let mut words = text.split_ascii_whitespace();
    match words.next()? {
        "FULLRESYNC" => Some(Answer::FullResync {
            id: replication_id(words.next()?)?,
            offset: words.next()?.parse().ok()?,
        }),
        "CONTINUE" => Some(Answer::Continue {
            id: match words.next() {
                None => None,
                Some(word) => Some(replication_id(word)?),
            },
        }),
        _ => None,
    }
}

fn replication_id(word: &str) -> Option<String> {
    let is_one = word.len() <= LONGEST_ID && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_one.then(|| word.to_owned())
}

fn refused(error: &[u8]) -> Answer {
    let text = said(error);
    match text.split(' ').next().unwrap_or_default() {
        "NOMASTERLINK" | "LOADING" | "MASTERDOWN" | "BUSY" | "TRYAGAIN" => Answer::Later(text),
        "NOPERM" | "NOAUTH" | "WRONGPASS" => Answer::Denied(text),
        // A primary that hands over to its replica (FAILOVER) says so with a plain ERR.
        _ if text.contains("failover") || text.contains("FAILOVER") => Answer::Later(text),
        _ => Answer::Refused(text),
    }
}

/// The line at the start of `data` without its end, and how many bytes it takes; `None` if its end is not there yet.
fn line(data: &[u8]) -> Result<Option<(&[u8], usize)>, StreamError> {
    let window = &data[..data.len().min(LONGEST_LINE)];
    match memchr(b'\n', window) {
        Some(end) => {
            let line = &data[..end];
            Ok(Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1)))
        }
        None if data.len() >= LONGEST_LINE => Err(StreamError::at("no end of a line", data)),
        None => Ok(None),
    }
}

/// Reads past the snapshot that follows FULLRESYNC, whatever its size.
#[derive(Debug, Default)]
pub struct SnapshotSkipper {
    end: Option<End>,
    /// Bytes of it so far.
    bytes: u64,
    /// Its beginning, with its auxiliary fields.
    head: Vec<u8>,
}

/// How the end of a snapshot is known.
#[derive(Debug)]
enum End {
    After(u64),
    At([u8; DELIMITER]),
}

impl SnapshotSkipper {
    /// Use up what `data` has of the snapshot: how many bytes, and whether it is over.
    pub fn skip(&mut self, data: &[u8]) -> Result<(usize, bool), StreamError> {
        let mut used = 0;
        if self.end.is_none() {
            used = data.iter().take_while(|&&byte| byte == b'\n').count();
            let Some((line, head)) = line(&data[used..])? else {
                return Ok((used, false));
            };
            self.end = Some(snapshot_end(line)?);
            used += head;
        }
        let rest = &data[used..];
        let (skipped, over) = match self.end.as_mut() {
            Some(End::After(left)) => {
                let count = (rest.len() as u64).min(*left);
                *left -= count;
                (count as usize, *left == 0)
            }
            Some(End::At(delimiter)) => match memmem::find(rest, delimiter.as_slice()) {
                Some(at) => (at + DELIMITER, true),
                // The delimiter may have begun.
                None => (rest.len().saturating_sub(DELIMITER - 1), false),
            },
            None => (0, false),
        };
        self.bytes += skipped as u64;
        let head = skipped.min(HEAD - self.head.len());
        self.head.extend_from_slice(&rest[..head]);
        Ok((used + skipped, over))
    }

    /// The database that the stream has selected where the snapshot stands, if the snapshot tells: a replica that is
    /// followed does not repeat it.
    pub fn selected_database(&self) -> Option<u32> {
        const FIELD: &[u8] = b"\xfa\x0erepl-stream-db";
        let at = memmem::find(&self.head, FIELD)? + FIELD.len();
        // A number of 8, 16 or 32 bits, little-endian, or digits behind their length (rdb.c).
        match self.head.get(at..)? {
            [0xc0, number, ..] => Some(u32::from(*number)),
            [0xc1, low, high, ..] => Some(u32::from(u16::from_le_bytes([*low, *high]))),
            [0xc2, one, two, three, four, ..] => Some(u32::from_le_bytes([*one, *two, *three, *four])),
            [length @ 1..=9, rest @ ..] => std::str::from_utf8(rest.get(..usize::from(*length))?)
                .ok()?
                .parse()
                .ok(),
            _ => None,
        }
    }

    /// How many bytes of it were read past.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn snapshot_end(line: &[u8]) -> Result<End, StreamError> {
    let wrong = || StreamError::at("no snapshot", line);
    if let Some(delimiter) = line.strip_prefix(b"$EOF:") {
        return delimiter.try_into().map(End::At).map_err(|_| wrong());
    }
    let digits = line
        .strip_prefix(b"$")
        .and_then(|text| std::str::from_utf8(text).ok());
    digits
        .and_then(|text| text.parse().ok())
        .map(End::After)
        .ok_or_else(wrong)
}

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

    fn whole(data: &[u8]) -> Answer {
        match answer(data).unwrap() {
            Decoded::Whole(answer, used) => {
                assert_eq!(used, data.len());
                answer
            }
            Decoded::Partial(_) => panic!("{:?} is an answer", data.escape_ascii().to_string()),
        }
    }

    const ID: &str = "8f3c1d0a9b7e6f5d4c3b2a190817263544536271";

    #[test]
    fn answers_to_psync() {
        let full = format!("\n\n+FULLRESYNC {ID} 1234\r\n");
        let expected = Answer::FullResync {
            id: ID.to_owned(),
            offset: 1234,
        };
        assert_eq!(whole(full.as_bytes()), expected);
        for end in 0..full.len() {
            let part = answer(&full.as_bytes()[..end]);
            assert!(matches!(part, Ok(Decoded::Partial(_))), "{end}");
        }
        assert_eq!(whole(b"+CONTINUE\r\n"), Answer::Continue { id: None });
        let id = Some(ID.to_owned());
        assert_eq!(
            whole(format!("+CONTINUE {ID}\r\n").as_bytes()),
            Answer::Continue { id }
        );
        for later in [
            "NOMASTERLINK Can't SYNC while not connected with my master",
            "LOADING Redis is loading the dataset in memory",
            "ERR Can't SYNC while failover is in progress",
        ] {
            let answer = whole(format!("-{later}\r\n").as_bytes());
            assert_eq!(answer, Answer::Later(later.to_owned()));
        }
        let denied = "NOPERM User f has no permissions to run the 'psync' command";
        assert_eq!(
            whole(format!("-{denied}\r\n").as_bytes()),
            Answer::Denied(denied.to_owned())
        );
        let unknown = "ERR unknown command 'psync', with args beginning with: '?' '-1' ";
        assert!(matches!(
            whole(format!("-{unknown}\r\n").as_bytes()),
            Answer::Refused(_)
        ));
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for data in [
            "+OK\r\n",
            "+FULLRESYNC x\r\n",
            "+FULLRESYNC x -1\r\n",
            ":1\r\n",
            "\r\n",
            "+CONTINUE a/b\r\n",
        ] {
            assert!(answer(data.as_bytes()).is_err(), "{data:?}");
        }
        assert!(answer(&vec![b'+'; LONGEST_LINE]).is_err());
    }

    /// Feed `data` in pieces of `size` bytes, as a connection does: what is not used stays.
    fn skip(data: &[u8], size: usize) -> (u64, Vec<u8>) {
        let mut skipper = SnapshotSkipper::default();
        let mut buffer = Vec::new();
        let mut pieces = data.chunks(size);
        loop {
            let (used, over) = skipper.skip(&buffer).unwrap();
            buffer.drain(..used);
            if over {
                buffer.extend(pieces.flatten());
                return (skipper.bytes(), buffer);
            }
            assert!(buffer.len() < size + 64, "{} bytes are held", buffer.len());
            buffer.extend(pieces.next().expect("the snapshot ends"));
        }
    }

    #[test]
    fn snapshots_are_skipped_by_length_and_by_delimiter() {
        let body: Vec<u8> = (0..5000_u32).map(|number| number as u8).collect();
        let sized = [b"\n\n$5000\r\n".as_slice(), &body, b"*1\r\n"].concat();
        // The delimiter's own beginning in the snapshot is no end.
        let head = format!("$EOF:{ID}\r\n");
        let endless = [
            head.as_bytes(),
            &body,
            &ID.as_bytes()[..39],
            ID.as_bytes(),
            b"*1\r\n",
        ]
        .concat();
        for size in [1, 7, 39, 40, 41, 1000, 100_000] {
            assert_eq!(skip(&sized, size), (5000, b"*1\r\n".to_vec()), "{size}");
            assert_eq!(skip(&endless, size), (5079, b"*1\r\n".to_vec()), "{size}");
        }
        let mut empty = SnapshotSkipper::default();
        assert_eq!(empty.skip(b"$0\r\n").unwrap(), (4, true));
        for wrong in ["+OK\r\n", "$EOF:short\r\n", "$-1\r\n", "$x\r\n"] {
            assert!(
                SnapshotSkipper::default().skip(wrong.as_bytes()).is_err(),
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn a_snapshot_tells_the_database_of_its_stream() {
        for (value, expected) in [
            (b"\xc0\x05".as_slice(), Some(5)),
            (b"\xc1\x00\x01", Some(256)),
            (b"\x0212", Some(12)),
            (b"\x02-1", None),
            (b"", None),
        ] {
            let body = [b"REDIS0011\xfa\x0erepl-stream-db", value].concat();
            let mut skipper = SnapshotSkipper::default();
            let sized = [format!("${}\r\n", body.len()).as_bytes(), &body].concat();
            assert_eq!(skipper.skip(&sized).unwrap(), (sized.len(), true));
            assert_eq!(skipper.selected_database(), expected, "{}", value.escape_ascii());
        }
    }

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
            let _ = answer(&data);
            let _ = SnapshotSkipper::default().skip(&data);
            let mut commands = Commands::new(0);
            let mut rest = data.as_slice();
            while let Ok(Step { used, item: Some(_), .. }) = commands.next(rest, |length| length < 9) {
                rest = &rest[used..];
            }
        }
    }
}
