//! What each error reply to a RESTORE means for its key: one table, exhaustively matched.
//!
//! Invariant: every reply leads to exactly one verdict; what is not known is a recorded failure, never a
//! silent success and never an endless retry.

use crate::net::{Address, AddressMap};

/// What to do about one key after one reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The slot belongs to another node: patch the map, send there, ask for a fresh topology.
    Moved {
        /// The slot that moved.
        slot: u16,
        /// Its owner.
        to: Redirect,
    },
    /// ASKING + RESTORE to the named node, for this key only.
    Ask(Redirect),
    /// A passing state of the node or slot: back off, fresh topology, again.
    Wait,
    /// The node takes no writes for want of memory or disk: back off; stop the job at the retry limit.
    Full,
    /// The key exists on the target: the conflict policy decides.
    Busy,
    /// The target cannot read this payload as it is: translate it, or record a failure.
    Payload,
    /// This user may not touch this key: a recorded failure.
    Denied,
    /// This user may not do this at all, or is not logged in: the job stops.
    Refused,
    /// Anything else: a recorded failure.
    Failed,
}

/// Where a redirect points. The host may be empty: then it is the host that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    host: String,
    port: u16,
}

impl Redirect {
    /// Where it is reached, given the node that sent the redirect. "?": the server has no hostname to announce.
    pub fn address(&self, asked: &Address, map: &AddressMap) -> Address {
        map.named(&self.host, self.port, asked)
    }
}

/// Judge an error reply, given without its leading `-`.
pub fn judge(error: &[u8]) -> Verdict {
    let text = String::from_utf8_lossy(&error[..error.len().min(LONGEST_JUDGED)]);
    let (code, rest) = text.split_once(' ').unwrap_or((&text, ""));
    match code {
        "MOVED" => redirect(rest).map_or(Verdict::Failed, |(slot, to)| Verdict::Moved { slot, to }),
        "ASK" => redirect(rest).map_or(Verdict::Failed, |(_, to)| Verdict::Ask(to)),
        "TRYAGAIN" | "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" | "READONLY" | "BUSY" | "NOREPLICAS"
        | "UNBLOCKED" => Verdict::Wait,
        "OOM" | "MISCONF" => Verdict::Full,
        "BUSYKEY" => Verdict::Busy,
        "NOAUTH" | "WRONGPASS" => Verdict::Refused,
        // Redis 6.2: "this user has no permissions to run the 'restore' command"; since 7.0 with its name.
        "NOPERM" if rest.contains("to run the") => Verdict::Refused,
        "NOPERM" => Verdict::Denied,
        "ERR" if rest.starts_with("DUMP payload version") || rest.starts_with("Bad data format") => {
            Verdict::Payload
        }
        "ERR" if rest.starts_with("unknown command") => Verdict::Refused,
        _ => Verdict::Failed,
    }
}

/// What an error means stands within so many bytes; a redirect's host has 255 at most.
const LONGEST_JUDGED: usize = 1024;

/// Parse `<slot> <host>:<port>`; the host may be empty, a name or an IPv6 address.
fn redirect(rest: &str) -> Option<(u16, Redirect)> {
    let (slot, address) = rest.split_once(' ')?;
    let (host, port) = address.trim_end().rsplit_once(':')?;
    let slot = slot.parse().ok().filter(|&slot| slot < crate::slot::SLOTS)?;
    let is_host = host.len() <= 255 && host.bytes().all(|byte| byte.is_ascii_graphic());
    let redirect = Redirect {
        host: is_host.then(|| host.trim_matches(['[', ']']).to_owned())?,
        port: port.parse().ok().filter(|&port| port > 0)?,
    };
    Some((slot, redirect))
}

/// Whether an error of a source that is a cluster says that the key's slot is another node's, or on its way to one.
pub(crate) fn is_elsewhere(error: &[u8]) -> bool {
    matches!(judge(error), Verdict::Moved { .. } | Verdict::Ask(_)) || error.starts_with(b"TRYAGAIN")
}

/// Why a key is left pending that a node of the source passes on.
pub(crate) fn why_elsewhere(error: &[u8]) -> String {
    let text = String::from_utf8_lossy(&error[..error.len().min(LONGEST_JUDGED)]);
    format!("its slot has left the source's node, or is about to: {text}")
}

/// A line of INFO.
pub(crate) fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects() {
        let asked = Address::tcp("10.0.0.1".to_owned(), 6379);
        let map = AddressMap::default();
        let Verdict::Moved { slot, to } = judge(b"MOVED 3999 127.0.0.1:6381") else {
            panic!("is a MOVED");
        };
        assert_eq!(
            (slot, to.address(&asked, &map).to_string()),
            (3999, "127.0.0.1:6381".to_owned())
        );
        let Verdict::Ask(to) = judge(b"ASK 3999 :6381") else {
            panic!("is an ASK");
        };
        assert_eq!(to.address(&asked, &map).to_string(), "10.0.0.1:6381");
        let Verdict::Ask(to) = judge(b"ASK 3999 ?:6381") else {
            panic!("is an ASK");
        };
        assert_eq!(to.address(&asked, &map).to_string(), "10.0.0.1:6381");
        let Verdict::Ask(to) = judge(b"ASK 3999 fe80::1:6381") else {
            panic!("is an ASK");
        };
        assert_eq!(to.address(&asked, &map).to_string(), "[fe80::1]:6381");
    }

    #[test]
    fn what_is_elsewhere() {
        for text in ["MOVED 7 10.0.0.1:6379", "ASK 7 :6379", "TRYAGAIN Multiple keys"] {
            assert!(is_elsewhere(text.as_bytes()), "{text}");
        }
        for text in [
            "ERR no such key",
            "NOPERM No permissions",
            "CLUSTERDOWN Hash slot not served",
        ] {
            assert!(!is_elsewhere(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn malformed_redirects_are_failures() {
        for text in [
            "MOVED",
            "MOVED x y:1",
            "MOVED 16384 h:1",
            "MOVED 1 h",
            "ASK 1 h:99999",
            "MOVED 1 h:0",
            "MOVED 1 h\x1b[2J:1",
            "ASK 1 two words:1",
        ] {
            assert_eq!(judge(text.as_bytes()), Verdict::Failed, "{text}");
        }
    }

    #[test]
    fn the_table() {
        for (text, verdict) in [
            (
                "TRYAGAIN Multiple keys request during rehashing of slot",
                Verdict::Wait,
            ),
            ("CLUSTERDOWN Hash slot not served", Verdict::Wait),
            ("LOADING Redis is loading the dataset in memory", Verdict::Wait),
            (
                "READONLY You can't write against a read only replica.",
                Verdict::Wait,
            ),
            ("MASTERDOWN Link with MASTER is down", Verdict::Wait),
            ("BUSY Redis is busy running a script.", Verdict::Wait),
            ("NOREPLICAS Not enough good replicas to write.", Verdict::Wait),
            (
                "OOM command not allowed when used memory > 'maxmemory'.",
                Verdict::Full,
            ),
            ("MISCONF Redis is configured to save RDB snapshots", Verdict::Full),
            ("BUSYKEY Target key name already exists.", Verdict::Busy),
            ("ERR DUMP payload version or checksum are wrong", Verdict::Payload),
            ("ERR Bad data format", Verdict::Payload),
            (
                "NOPERM this user has no permissions to run the 'restore' command",
                Verdict::Refused,
            ),
            (
                "NOPERM User bob has no permissions to run the 'restore' command",
                Verdict::Refused,
            ),
            ("NOPERM No permissions to access a key", Verdict::Denied),
            ("NOAUTH Authentication required.", Verdict::Refused),
            ("ERR something new", Verdict::Failed),
            ("", Verdict::Failed),
        ] {
            assert_eq!(judge(text.as_bytes()), verdict, "{text}");
        }
    }
}
