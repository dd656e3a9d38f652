//! The copying of a slot: its keys are watched, read and restored.
//!
//! Invariant: a key is watched before it is read, and known to expire or not by what was asked after that. The
//! source is kept by no command for longer than a chunk of keys takes: WATCH compares each key with all that are
//! watched already, so its own time grows with their square. Only what WATCH sees every change of is passed on
//! (`watch_sees_all`); other keys stay at the source, for MIGRATE, as those that come late.

use std::time::SystemTime;

use crate::handover::Fate;
use crate::handover::coordinator::{Coordinator, Expiries};
use crate::handover::slot::{Broken, SourceReader, at_source, at_target, note, opened};
use crate::rdb::{Kind, append_string};
use crate::resp::Reply;
use crate::resp::encode;
use crate::resp::encode::ExpiryCommand;

/// A string up to this length is read by GETRANGE, which costs the source less than MEMORY USAGE and DUMP.
const STRING_BYTES: u16 = 16 * 1024;

/// Of a hundred keys so many have to be strings for GETRANGE to be tried.
const MOSTLY: usize = 90;

/// How the keys of a try are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Strings,
    Dump,
}

/// What was asked for a chunk, beside its values.
#[derive(Clone, Copy)]
struct Asked {
    /// WATCH of its keys.
    watch: bool,
    /// How many keys of the whole source expire.
    keyspace: bool,
    /// When each of its keys does.
    expiry: bool,
}

impl SourceReader {
    /// Copy the keys that were listed; what was sent last is to be settled. Returns why the slot is left alone,
    /// if it is.
    pub(crate) async fn copy(&mut self, coordinator: &Coordinator) -> Result<Option<Fate>, Broken> {
        if std::mem::replace(&mut self.watching, true) {
            // Keys of a try before are watched still.
            let source = opened(&mut self.source, at_source)?;
            source.add(1, |out| encode::command(out, &[b"UNWATCH"]));
            source.replies(1, |_| 0).await.map_err(at_source)?;
        }
        let mut refusal = None;
        let all: Vec<usize> = (0..self.keys.len()).collect();
        let strings = self.mostly_strings && !self.strings_refused;
        let rest = if strings {
            let others = self
                .read(&all, Reading::Strings, true, coordinator, &mut refusal)
                .await?;
            self.mostly_strings = others.len() * 100 <= all.len() * (100 - MOSTLY);
            others
        } else {
            all
        };
        if self.bytes > self.spec.limits.bytes {
            return Ok(Some(Fate::Large));
        }
        if refusal.is_none() && !rest.is_empty() {
            if let Some(fate) = self.weigh(&rest, &mut refusal).await? {
                return Ok(Some(fate));
            }
            let others = self
                .read(&rest, Reading::Dump, !strings, coordinator, &mut refusal)
                .await?;
            if !strings {
                self.mostly_strings = others.len() * 100 >= rest.len() * MOSTLY;
            }
        }
        Ok(refusal.map(Fate::Refused))
    }

    /// Ask how large keys are. Returns `Large` if one of them, or all together, are.
    async fn weigh(
        &mut self,
        places: &[usize],
        refusal: &mut Option<String>,
    ) -> Result<Option<Fate>, Broken> {
        let Self {
            keys,
            source,
            spec,
            sizes,
            ..
        } = self;
        let source = opened(source, at_source)?;
        let (mut total, mut largest) = (0, 0);
        sizes.clear();
        sizes.resize(keys.len(), 0);
        for chunk in places.chunks(spec.limits.chunk_keys) {
            source.add(chunk.len(), |out| {
                for &place in chunk {
                    encode::memory_usage(out, keys.get(place));
                }
            });
            let mut asked = chunk.iter();
            source
                .replies(chunk.len(), |reply| {
                    match reply {
                        Reply::Integer(size) => {
                            total += size.unsigned_abs();
                            largest = largest.max(size.unsigned_abs());
                            if let Some(&place) = asked.next() {
                                sizes[place] = size.unsigned_abs();
                            }
                        }
                        Reply::Bulk(None) => {
                            asked.next(); // gone meanwhile
                        }
                        other => note(refusal, &other),
                    }
                    0
                })
                .await
                .map_err(at_source)?;
        }
        let limits = spec.limits;
        Ok((total > limits.bytes || largest > limits.key_bytes).then_some(Fate::Large))
    }

    /// Read keys and pass them on to the target, whose answers to the last of them are to be settled. Returns, of
    /// strings, the places that are to be read otherwise; of what DUMP gave, the places of strings.
    async fn read(
        &mut self,
        places: &[usize],
        reading: Reading,
        watch: bool,
        coordinator: &Coordinator,
        refusal: &mut Option<String>,
    ) -> Result<Vec<usize>, Broken> {
        let mut others = Vec::new();
        let cut = self.cut(places, reading);
        let mut chunks = cut.iter().map(|&(first, end)| &places[first..end]).peekable();
        let Some(first) = chunks.peek() else {
            return Ok(others);
        };
        let mut asked = self.ask(first, reading, watch, coordinator.expiries.get())?;
        while let Some(chunk) = chunks.next() {
            self.take(chunk, reading, asked, coordinator, &mut others, refusal)
                .await?;
            let Some(next) = chunks.peek() else {
                break;
            };
            if refusal.is_none() {
                // The source is at work while the target is.
                asked = self.ask(next, reading, watch, coordinator.expiries.get())?;
                opened(&mut self.source, at_source)?
                    .send()
                    .await
                    .map_err(at_source)?;
                self.settle(refusal).await?;
            }
            if refusal.is_some() {
                break;
            }
        }
        Ok(others)
    }

    /// Where to cut: no more keys than may be asked for at once, and no more bytes where sizes are known.
    fn cut(&self, places: &[usize], reading: Reading) -> Vec<(usize, usize)> {
        let limits = &self.spec.limits;
        let mut cut = Vec::new();
        let (mut first, mut bytes) = (0, 0);
        for (at, &place) in places.iter().enumerate() {
            let size = if reading == Reading::Dump {
                self.sizes[place]
            } else {
                0
            };
            if at > first && (at - first >= limits.chunk_keys || bytes + size > limits.chunk_bytes) {
                cut.push((first, at));
                (first, bytes) = (at, 0);
            }
            bytes += size;
        }
        cut.push((first, places.len()));
        cut
    }

    fn ask(
        &mut self,
        places: &[usize],
        reading: Reading,
        watch: bool,
        expiries: Expiries,
    ) -> Result<Asked, Broken> {
        let asked = Asked {
            watch,
            keyspace: expiries != Expiries::Some,
            expiry: expiries != Expiries::None,
        };
        let Self { keys, source, .. } = self;
        let replies = places.len() * (1 + usize::from(asked.expiry));
        let more = usize::from(asked.watch) + usize::from(asked.keyspace);
        opened(source, at_source)?.add(replies + more, |out| {
            if asked.watch {
                encode::head(out, places.len() + 1);
                encode::bulk(out, b"WATCH");
                for &place in places {
                    encode::bulk(out, keys.get(place));
                }
            }
            if asked.keyspace {
                // After WATCH: a key that is given an expiry from then on makes the transaction fail.
                encode::command(out, &[b"INFO", b"keyspace"]);
            }
            for &place in places {
                let key = keys.get(place);
                if asked.expiry {
                    // As MIGRATE does it: a TTL that is told and set at once needs no clock in common.
                    encode::expiry(out, ExpiryCommand::Relative, key);
                }
                match reading {
                    // One byte more than there may be tells a longer one.
                    Reading::Strings => encode::getrange(out, key, i64::from(STRING_BYTES)),
                    Reading::Dump => encode::dump(out, key),
                }
            }
        });
        Ok(asked)
    }

    /// Read what was asked beside the values of a chunk. Returns whether the expiry of each key comes with them.
    async fn learn(
        &mut self,
        places: &[usize],
        reading: Reading,
        asked: Asked,
        coordinator: &Coordinator,
        refusal: &mut Option<String>,
    ) -> Result<bool, Broken> {
        let source = opened(&mut self.source, at_source)?;
        if asked.watch {
            source
                .replies(1, |reply| {
                    note(refusal, &reply);
                    0
                })
                .await
                .map_err(at_source)?;
        }
        if asked.keyspace {
            // Where that can't be told, each key is asked.
            let mut some = true;
            source
                .replies(1, |reply| {
                    if let Reply::Bulk(Some(text)) = reply {
                        some = any_expires(text);
                    }
                    0
                })
                .await
                .map_err(at_source)?;
            coordinator
                .expiries
                .set(if some { Expiries::Some } else { Expiries::None });
            if some && !asked.expiry {
                source.replies(places.len(), |_| 0).await.map_err(at_source)?;
                return Ok(self.ask(places, reading, false, Expiries::Some)?.expiry);
            }
        }
        Ok(asked.expiry)
    }

    /// Read the replies of a chunk, and pass what they hold on to the target.
    async fn take(
        &mut self,
        places: &[usize],
        reading: Reading,
        asked: Asked,
        coordinator: &Coordinator,
        others: &mut Vec<usize>,
        refusal: &mut Option<String>,
    ) -> Result<(), Broken> {
        let with_expiry = self.learn(places, reading, asked, coordinator, refusal).await?;
        let Self {
            keys,
            source,
            target,
            sent,
            bytes,
            strings_refused,
            ..
        } = self;
        let target = opened(target, at_target)?;
        let source = opened(source, at_source)?;
        let none = (!with_expiry).then_some(-1);
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as i64);
        let (mut at, mut expiry) = (0, none);
        let mut payload = Vec::new();
        source
            .replies(places.len() * (1 + usize::from(with_expiry)), |reply| {
                let Some(expires) = std::mem::replace(&mut expiry, none) else {
                    expiry = Some(match reply {
                        Reply::Integer(expiry) => expiry,
                        other => {
                            note(refusal, &other);
                            -2
                        }
                    });
                    return 0;
                };
                let place = places[at];
                at += 1;
                let ttl = ttl_to_set(expires, now);
                let mut pass_on = |payload: &[u8]| {
                    // It is gone, or its expiry was not told: a copy without one would live for ever.
                    let Some(ttl) = ttl else { return };
                    *bytes += payload.len() as u64;
                    sent.push_back(place);
                    target.add(1, |out| {
                        encode::restore_asking(out, keys.get(place), ttl, payload);
                    });
                };
                match (reading, reply) {
                    (Reading::Strings, Reply::Bulk(Some(value)))
                        if !value.is_empty() && value.len() <= usize::from(STRING_BYTES) =>
                    {
                        payload.clear();
                        append_string(&mut payload, value);
                        pass_on(&payload);
                    }
                    (Reading::Strings, reply) => {
                        *strings_refused |=
                            matches!(reply, Reply::Error(text) if text.starts_with(b"NOPERM"));
                        others.push(place);
                    }
                    (Reading::Dump, Reply::Bulk(Some(value))) => {
                        let kind = value.first().and_then(|&byte| Kind::of(byte));
                        if kind == Some(Kind::String) {
                            others.push(place);
                        }
                        if watch_sees_all(kind) {
                            pass_on(value);
                        }
                    }
                    (Reading::Dump, Reply::Bulk(None)) => {}
                    (Reading::Dump, other) => note(refusal, &other),
                }
                0
            })
            .await
            .map_err(at_source)?;
        target.send().await.map_err(at_target)
    }

    /// Read the target's replies to all that was sent.
    pub(crate) async fn settle(&mut self, refusal: &mut Option<String>) -> Result<(), Broken> {
        let Self {
            target,
            sent,
            restored,
            ..
        } = self;
        opened(target, at_target)?
            .replies(sent.len(), |reply| {
                let place = sent.pop_front();
                match reply {
                    Reply::Simple(_) => restored.extend(place),
                    other => note(refusal, &other),
                }
                0
            })
            .await
            .map_err(at_target)
    }
}

/// Whether every change of such a value makes a transaction fail that watches its key.
///
/// Of a stream only new and deleted entries do: to no server XGROUP, XREADGROUP, XACK, XCLAIM, XAUTOCLAIM and XSETID
/// are a change (`t_stream.c` has no `signalModifiedKey` for them). Of a module's values it is for the module to tell.
fn watch_sees_all(kind: Option<Kind>) -> bool {
    match kind {
        Some(Kind::String | Kind::List | Kind::Set | Kind::SortedSet | Kind::Hash) => true,
        Some(Kind::Stream | Kind::Module) | None => false,
    }
}

/// The TTL, in ms, to restore a key with whose PTTL is `expires`: 0 for one that does not expire, none for one that is
/// gone. The server adds the time to it without a look at the sum, and takes one that overflows for a time long past.
fn ttl_to_set(expires: i64, now: i64) -> Option<u64> {
    const LEEWAY: i64 = 24 * 60 * 60 * 1000; // between our clock and the target's
    match expires {
        -1 => Some(0),
        0.. => Some(expires.clamp(1, i64::MAX - now - LEEWAY).cast_unsigned()),
        _ => None,
    }
}

/// Whether any key of any database has an expiry, by the keyspace section of INFO.
fn any_expires(text: &[u8]) -> bool {
    let counts = text
        .split(|&byte| byte == b'\n')
        .filter(|line| line.starts_with(b"db"))
        .map(|line| {
            line.split(|&byte| byte == b',')
                .find_map(|field| field.strip_prefix(b"expires="))
        });
    for count in counts {
        if count != Some(b"0".as_slice()) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::{any_expires, ttl_to_set, watch_sees_all};
    use crate::rdb::Kind;

    #[test]
    fn no_ttl_overflows_at_the_target() {
        let now = 1_796_000_000_000;
        for (expires, ttl) in [
            (-1, Some(0)),
            (-2, None),
            (i64::MIN, None),
            (0, Some(1)),
            (5, Some(5)),
        ] {
            assert_eq!(ttl_to_set(expires, now), ttl, "{expires}");
        }
        let longest = ttl_to_set(i64::MAX, now).unwrap_or(0).cast_signed();
        assert!(longest.checked_add(now).is_some());
    }

    #[test]
    fn what_is_not_known_is_not_copied() {
        for (type_byte, expected) in [(0, true), (14, true), (18, true), (20, true), (25, true)]
            .into_iter()
            .chain([6, 7, 8, 15, 19, 21, 26, 27, 28, 255].map(|other| (other, false)))
        {
            assert_eq!(watch_sees_all(Kind::of(type_byte)), expected, "type {type_byte}");
        }
    }

    #[test]
    fn only_a_zero_says_that_no_key_expires() {
        assert!(!any_expires(b"# Keyspace\r\n"));
        assert!(!any_expires(
            b"# Keyspace\r\ndb0:keys=12,expires=0,avg_ttl=0,subexpiry=3\r\n"
        ));
        assert!(any_expires(b"# Keyspace\r\ndb0:keys=12,expires=10,avg_ttl=0\r\n"));
        assert!(any_expires(
            b"# Keyspace\r\ndb0:keys=1,expires=0,avg_ttl=0\r\ndb1:keys=1,expires=1,avg_ttl=7\r\n"
        ));
        assert!(any_expires(b"# Keyspace\r\ndb0:keys=12\r\n"));
    }
}
