//! The answer to PSYNC.
//!
//! Invariant: what another try may help against is told from what it won't.

use crate::resp::Decoded;
use crate::source::stream::error::{StreamError, line};
use crate::text::said;

/// No server's replication id is longer; they have 40 hexadecimal digits.
const LONGEST_ID: usize = 64;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::stream::error::LONGEST_LINE;

    const ID: &str = "8f3c1d0a9b7e6f5d4c3b2a190817263544536271";

    fn whole(data: &[u8]) -> Answer {
        match answer(data).unwrap() {
            Decoded::Whole(answer, used) => {
                assert_eq!(used, data.len());
                answer
            }
            Decoded::Partial(_) => panic!("{:?} is an answer", data.escape_ascii().to_string()),
        }
    }

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
}
