//! What a command changes at the ends of a list: how many entries it adds or takes there.
//!
//! Invariant: a change tells all that the command did to the list, given how long the list was before it; of what is not
//! plain in the command's own words, there is no change.

/// An end of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Where LPUSH adds.
    Head,
    /// Where RPUSH adds.
    Tail,
}

/// What was done to a list. As servers do it: what is taken is no more than there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// So many entries were added at this end.
    Push(End, u64),
    /// The same, if there was a list.
    PushIfThere(End, u64),
    /// So many were taken from this end.
    Pop(End, u64),
    /// All but those from one index to another were taken, both counted as LTRIM does.
    Trim(i64, i64),
}

/// A command that changes nothing of a list but its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    Push(End),
    PushIfThere(End),
    Pop(End),
    Trim,
    /// LMOVE.
    Move,
    /// RPOPLPUSH.
    MoveRight,
}

/// The same by a command's name in lower case. Read in the servers' sources (Redis 6.2 to 8.6, Valkey to 9.1), as their
/// streams have it: a blocking pop comes as LPOP, RPOP, LMOVE or RPOPLPUSH, and LMPOP as LPOP or RPOP.
pub(crate) fn of(command: &[u8]) -> Option<Ends> {
    Some(match command {
        b"lpush" => Ends::Push(End::Head),
        b"rpush" => Ends::Push(End::Tail),
        b"lpushx" => Ends::PushIfThere(End::Head),
        b"rpushx" => Ends::PushIfThere(End::Tail),
        b"lpop" => Ends::Pop(End::Head),
        b"rpop" => Ends::Pop(End::Tail),
        b"ltrim" => Ends::Trim,
        b"lmove" => Ends::Move,
        b"rpoplpush" => Ends::MoveRight,
        _ => return None,
    })
}

/// The words of a command that say what it changes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Words {
    numbers: [Option<i64>; 2],
    ends: [Option<End>; 2],
}

impl Ends {
    /// Whether short words of the command say what it changes.
    pub fn has_words(self) -> bool {
        matches!(self, Self::Pop(_) | Self::Trim | Self::Move)
    }

    /// What the command, of `count` arguments, did to its key with this number.
    pub fn change(self, key: u64, count: usize, words: &Words) -> Option<Change> {
        let pushed = (count as u64).checked_sub(2).filter(|&pushed| pushed > 0);
        match (self, key, count) {
            (Self::Push(end), 0, _) => Some(Change::Push(end, pushed?)),
            (Self::PushIfThere(end), 0, _) => Some(Change::PushIfThere(end, pushed?)),
            (Self::Pop(end), 0, 2) => Some(Change::Pop(end, 1)),
            (Self::Pop(end), 0, 3) => Some(Change::Pop(end, u64::try_from(words.numbers[0]?).ok()?)),
            (Self::Trim, 0, 4) => Some(Change::Trim(words.numbers[0]?, words.numbers[1]?)),
            (Self::Move, 0, 5) => Some(Change::Pop(words.ends[0]?, 1)),
            (Self::Move, 1, 5) => Some(Change::Push(words.ends[1]?, 1)),
            (Self::MoveRight, 0, 3) => Some(Change::Pop(End::Tail, 1)),
            (Self::MoveRight, 1, 3) => Some(Change::Push(End::Head, 1)),
            _ => None,
        }
    }
}

impl Words {
    /// The word at a place, which counts from 0, the command's name.
    pub fn take(&mut self, command: Ends, word: &[u8], at: usize) {
        let first = match command {
            Ends::Move => 3,
            _ => 2,
        };
        let Some(place) = at.checked_sub(first).filter(|&place| place < 2) else {
            return;
        };
        if command == Ends::Move {
            self.ends[place] = if word.eq_ignore_ascii_case(b"LEFT") {
                Some(End::Head)
            } else if word.eq_ignore_ascii_case(b"RIGHT") {
                Some(End::Tail)
            } else {
                None
            };
        } else {
            self.numbers[place] = std::str::from_utf8(word).ok().and_then(|word| word.parse().ok());
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::resp::encode;
    use crate::source::keys::{Effect, KeyReader, Table};

    /// What a command changes, where all keys in `followed` are followed.
    fn changes(command: &str, followed: &str, size: usize) -> String {
        let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        let mut data = Vec::new();
        encode::command(&mut data, &words);
        let mut reader = KeyReader::new(Table::of_tests(), 0, 0);
        let (mut found, mut buffer) = (Vec::new(), Vec::new());
        for piece in data.chunks(size) {
            buffer.extend(piece);
            let progress = reader.read(&buffer, |effect, _, _| {
                match effect {
                    Effect::KeyInPart { name, .. } if followed.as_bytes().contains(&name[0]) => return true,
                    Effect::KeyInPart { name, .. } | Effect::Key { name, .. } => {
                        found.push(format!("{} whole", name.escape_ascii()));
                    }
                    Effect::Ends { name, change, .. } => {
                        found.push(format!("{} {change:?}", name.escape_ascii()));
                    }
                    other => found.push(format!("{other:?}")),
                }
                false
            });
            buffer.drain(..progress.unwrap().used);
        }
        found.join("; ")
    }

    #[test]
    fn what_commands_change_at_the_ends_of_lists() {
        let long = format!("LPOP a {}", "1".repeat(70));
        for (command, expected) in [
            ("LPUSH a x y z", "a Push(Head, 3)"),
            ("rpush a x", "a Push(Tail, 1)"),
            ("LPUSHX a x y", "a PushIfThere(Head, 2)"),
            ("RPUSHX a x", "a PushIfThere(Tail, 1)"),
            ("LPOP a", "a Pop(Head, 1)"),
            ("RPOP a 12", "a Pop(Tail, 12)"),
            ("RPOP a -1", "a whole"),
            ("LPOP a x", "a whole"),
            (&long, "a whole"),
            ("LTRIM a 1 -2", "a Trim(1, -2)"),
            ("LTRIM a 1", "a whole"),
            ("LMOVE a b LEFT right", "a Pop(Head, 1); b Push(Tail, 1)"),
            ("LMOVE a a RIGHT LEFT", "a Pop(Tail, 1); a Push(Head, 1)"),
            ("LMOVE a b LEFT x", "a Pop(Head, 1); b whole"),
            ("LMOVE a o LEFT LEFT", "o whole; a Pop(Head, 1)"),
            ("LMOVE o a LEFT LEFT", "o whole; a Push(Head, 1)"),
            ("RPOPLPUSH a b", "a Pop(Tail, 1); b Push(Head, 1)"),
            ("BLPOP a 0", "a whole"),
            ("LSET a 0 x", "a whole"),
            ("LINSERT a BEFORE x y", "a whole"),
            ("LREM a 0 x", "a whole"),
        ] {
            for size in [1, 7, 1000] {
                assert_eq!(changes(command, "ab", size), expected, "{command}");
            }
        }
    }
}
