//! One key on both sides: the same, or what differs and how.
//!
//! Invariant: nothing is called the same unless value and expiry were compared; what differs comes with what both
//! sides hold, in short.

use crate::compare::shape;
use crate::job::engine::{Depth, Verify};
use crate::ledger::progress::Outcome;
use crate::ledger::unsettled::{Difference, FailureKind};
use crate::rdb::{Comparison, PayloadError, compare_values, describe, same_bytes};
use crate::resp::Restore;

/// What a key turned out to be; `Same` is not among it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Nothing to find: neither side has it (any more).
    Gone(Outcome),
    Differs(Difference),
    /// Too large to be decoded within the budget: to be compared in parts.
    Large,
}

/// What the target holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held<'a> {
    pub payload: &'a [u8],
    /// Milliseconds since the epoch; 0: does not expire.
    pub expires_at: u64,
}

/// By how many milliseconds the expiries of keys that a copy finds equal may differ.
pub(crate) const TTL_TOLERANCE: u64 = 1000;

/// The rules by which keys are compared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub verify: Verify,
    /// Bytes that a payload may have, and four times of which its value may take, to be compared as a whole.
    pub large: usize,
}

/// Compare what the source has (an empty payload: nothing) with what the target has; `None`: the same.
#[inline]
pub(crate) fn judge(wanted: &Restore<'_>, held: Option<Held<'_>>, rules: Rules, now: u64) -> Option<Finding> {
    let is_wanted = !wanted.payload.is_empty();
    match held {
        Some(_) if rules.verify.depth == Depth::Existence => {
            (!is_wanted).then_some(Finding::Gone(Outcome::Vanished))
        }
        Some(held) if is_wanted => {
            let equal = if rules.verify.depth == Depth::Value {
                same_bytes(wanted.payload, held.payload).unwrap_or(false)
            } else {
                wanted.payload == held.payload
            };
            if equal && same_expiry(wanted.expires_at, held.expires_at, rules.verify.ttl_tolerance) {
                return None;
            }
            look_closer(wanted, held, equal, rules, now)
        }
        held => {
            let ours = is_wanted.then_some(wanted.expires_at);
            let theirs = held.map(|held| held.expires_at);
            Some(
                match judge_absent(ours, theirs, now + rules.verify.ttl_tolerance) {
                    Absent::Gone(outcome) => Finding::Gone(outcome),
                    Absent::Missing => Finding::Differs(Difference::new(
                        FailureKind::Missing,
                        in_short(wanted.payload, rules),
                        "absent",
                    )),
                    Absent::Extra => Finding::Differs(Difference::new(
                        FailureKind::Extra,
                        "absent",
                        in_short(held.map_or(b"", |held| held.payload), rules),
                    )),
                },
            )
        }
    }
}

/// What it means that a side lacks a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absent {
    /// Neither side has it, or it goes just now.
    Gone(Outcome),
    Missing,
    Extra,
}

/// Judge by what the source and the target say of its expiry (`None`: absent; 0: none). What expires at `expired_by`
/// or before went just now, or goes within what the clocks may differ by.
pub(crate) fn judge_absent(ours: Option<u64>, theirs: Option<u64>, expired_by: u64) -> Absent {
    match (ours, theirs) {
        (None, None) => Absent::Gone(Outcome::Vanished),
        (Some(at), None) | (None, Some(at)) if at > 0 && at <= expired_by => Absent::Gone(Outcome::Expired),
        (_, None) => Absent::Missing,
        (_, Some(_)) => Absent::Extra,
    }
}

/// The payloads or the expiries are not equal as they stand.
#[cold]
fn look_closer(wanted: &Restore<'_>, held: Held<'_>, equal: bool, rules: Rules, now: u64) -> Option<Finding> {
    let comparison = if equal {
        Ok(Comparison::Same)
    } else if rules.verify.depth == Depth::Value {
        let (limit, expired_by) = (rules.large.saturating_mul(4), now + rules.verify.ttl_tolerance);
        compare_values(wanted.payload, held.payload, limit, expired_by, rules.verify.show)
    } else {
        Ok(shape::compare(wanted.payload, held.payload))
    };
    let differs = |kind, source, target| Some(Finding::Differs(Difference::new(kind, source, target)));
    match comparison {
        Ok(Comparison::Different(source, target)) => differs(FailureKind::Different, source, target),
        Ok(Comparison::OtherType(source, target)) => differs(FailureKind::Type, source, target),
        Ok(Comparison::Same) => {
            let [ours, theirs] = [wanted.expires_at, held.expires_at];
            if same_expiry(ours, theirs, rules.verify.ttl_tolerance) {
                return None;
            }
            differs(FailureKind::Ttl, show_expiry(ours), show_expiry(theirs))
        }
        Err(PayloadError::TooLarge { .. }) => Some(Finding::Large),
        Err(error) => {
            let [source, target] = [wanted.payload, held.payload].map(|payload| in_short(payload, rules));
            let why = format!("the values can't be compared, {error}");
            let kind = FailureKind::Payload;
            Some(Finding::Differs(Difference::incomparable(
                kind, source, target, why,
            )))
        }
    }
}

/// Whether two expiries (0: none) are the same within `tolerance` ms.
pub(crate) fn same_expiry(ours: u64, theirs: u64, tolerance: u64) -> bool {
    (ours == 0) == (theirs == 0) && ours.abs_diff(theirs) <= tolerance
}

/// An expiry in short.
pub(crate) fn show_expiry(expires_at: u64) -> String {
    if expires_at == 0 {
        "no TTL".to_owned()
    } else {
        format!("expires at {expires_at} ms")
    }
}

fn in_short(payload: &[u8], rules: Rules) -> String {
    match rules.verify.depth {
        Depth::Existence => return "there".to_owned(),
        Depth::Length => return shape::describe(payload),
        Depth::Value => {}
    }
    describe(payload, rules.large.saturating_mul(4), rules.verify.show).unwrap_or_else(|_| {
        let kind = payload
            .first()
            .map_or("nothing", |&byte| crate::rdb::kind_name(byte));
        format!("{kind}, a payload of {} bytes", payload.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdb::{Footer, Show};

    const RULES: Rules = Rules {
        verify: Verify {
            ttl_tolerance: 100,
            depth: Depth::Value,
            show: Show::Values,
        },
        large: 1 << 20,
    };
    const NOW: u64 = 1_000_000;

    fn sealed(body: &[u8]) -> Vec<u8> {
        [body, &Footer::new(body, 11).to_bytes()].concat()
    }

    fn judged(ours: Option<(&[u8], u64)>, theirs: Option<(&[u8], u64)>) -> Option<Finding> {
        judged_by(RULES, ours, theirs)
    }

    fn judged_by(rules: Rules, ours: Option<(&[u8], u64)>, theirs: Option<(&[u8], u64)>) -> Option<Finding> {
        let ours = ours.map(|(body, at)| (sealed(body), at));
        let theirs = theirs.map(|(body, at)| (sealed(body), at));
        let wanted = Restore {
            number: 0,
            is_string: false,
            rdb_version: None,
            eviction: None,
            key: b"k",
            expires_at: ours.as_ref().map_or(0, |ours| ours.1),
            payload: ours.as_ref().map_or(b"".as_slice(), |ours| &ours.0),
        };
        let held = theirs.as_ref().map(|(payload, expires_at)| Held {
            payload,
            expires_at: *expires_at,
        });
        judge(&wanted, held, rules, NOW)
    }

    fn kind(finding: Option<Finding>) -> FailureKind {
        match finding {
            Some(Finding::Differs(Difference { kind, sides, message })) => {
                assert_ne!(sides.source, sides.target);
                assert_eq!(message.is_empty(), kind != FailureKind::Payload, "{message}");
                kind
            }
            other => panic!("{other:?}"),
        }
    }

    const A: &[u8] = b"\x00\x01a";
    const B: &[u8] = b"\x00\x01b";

    #[test]
    fn every_kind_of_difference() {
        assert_eq!(judged(Some((A, 0)), Some((A, 0))), None);
        assert_eq!(judged(Some((A, 5000)), Some((A, 5100))), None);
        assert_eq!(kind(judged(Some((A, 5000)), Some((A, 5101)))), FailureKind::Ttl);
        assert_eq!(kind(judged(Some((A, 5000)), Some((A, 0)))), FailureKind::Ttl);
        assert_eq!(kind(judged(Some((A, 0)), Some((B, 0)))), FailureKind::Different);
        let list = b"\x01\x01\x01a".as_slice();
        assert_eq!(kind(judged(Some((A, 0)), Some((list, 0)))), FailureKind::Type);
        assert_eq!(kind(judged(Some((A, 0)), None)), FailureKind::Missing);
        assert_eq!(kind(judged(None, Some((A, 0)))), FailureKind::Extra);
        let unknown = b"\xf0what".as_slice();
        assert_eq!(
            kind(judged(Some((A, 0)), Some((unknown, 0)))),
            FailureKind::Payload
        );
    }

    #[test]
    fn a_look_for_existence_minds_only_what_the_target_lacks() {
        let verify = Verify {
            depth: Depth::Existence,
            ..RULES.verify
        };
        let rules = Rules { verify, ..RULES };
        assert_eq!(judged_by(rules, Some((A, 5000)), Some((B, 0))), None);
        assert_eq!(kind(judged_by(rules, Some((A, 0)), None)), FailureKind::Missing);
        let vanished = Some(Finding::Gone(Outcome::Vanished));
        assert_eq!(judged_by(rules, None, Some((B, 0))), vanished);
        assert_eq!(judged_by(rules, None, None), vanished);
        let expired = Some(Finding::Gone(Outcome::Expired));
        assert_eq!(judged_by(rules, Some((A, NOW + 100)), None), expired);
    }

    #[test]
    fn what_expires_at_this_moment_is_no_difference() {
        let expired = Some(Finding::Gone(Outcome::Expired));
        assert_eq!(judged(Some((A, NOW + 100)), None), expired);
        assert_eq!(judged(None, Some((A, NOW + 100))), expired);
        assert_eq!(kind(judged(Some((A, NOW + 101)), None)), FailureKind::Missing);
        assert_eq!(judged(None, None), Some(Finding::Gone(Outcome::Vanished)));
    }

    #[test]
    fn a_value_beyond_the_limit_is_left_to_be_compared_in_parts() {
        let rules = Rules { large: 10, ..RULES };
        let [ours, theirs] = [b'a', b'b'].map(|last| {
            let mut body = b"\x00\x40\x64".to_vec();
            body.extend([last; 100]);
            sealed(&body)
        });
        let wanted = Restore {
            number: 0,
            is_string: false,
            rdb_version: None,
            eviction: None,
            key: b"k",
            expires_at: 0,
            payload: &ours,
        };
        let held = Held {
            payload: &theirs,
            expires_at: 0,
        };
        assert_eq!(judge(&wanted, Some(held), rules, NOW), Some(Finding::Large));
    }
}
