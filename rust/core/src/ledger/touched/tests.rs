//! The set by examples.

use crate::ledger::touched::owed::OWED_REST;
use crate::ledger::touched::*;

fn at(offset: u64) -> Touch {
    Touch {
        offset,
        selected: 0,
        at: offset as u32,
    }
}

fn names(taken: &[Taken]) -> Vec<&[u8]> {
    taken.iter().map(|taken| &*taken.key).collect()
}

#[test]
fn a_key_is_in_one_copys_hands_and_keeps_its_first_touch() {
    let mut touched = Touched::new(10_000);
    touched.touch(b"a", 1, at(10));
    touched.touch(b"b", 2, at(20));
    touched.touch(b"a", 1, at(30));
    assert_eq!(touched.mark(at(40)), at(10));
    let taken = touched.take(10, 100, u32::MAX, |_| true);
    assert_eq!(names(&taken), [b"a", b"b"]);
    touched.touch(b"a", 1, at(50));
    touched.touch(b"a", 1, at(60));
    assert!(touched.take(10, 100, u32::MAX, |_| true).is_empty());
    assert_eq!(touched.mark(at(70)), at(10));
    touched.landed(taken[0].id);
    assert_eq!(touched.mark(at(70)), at(20));
    touched.landed(taken[1].id);
    assert_eq!(touched.mark(at(70)), at(50));
    let taken = touched.take(10, 100, u32::MAX, |_| true);
    assert_eq!(names(&taken), [b"a"]);
    touched.landed(taken[0].id);
    assert_eq!((touched.mark(at(70)), touched.bytes()), (at(70), 0));
}

#[test]
fn a_key_that_comes_back_is_taken_first_and_holds_the_mark() {
    let mut touched = Touched::new(10_000);
    touched.touch(b"a", 1, at(10));
    let taken = touched.take(1, 100, u32::MAX, |_| true);
    touched.touch(b"b", 2, at(20));
    touched.touch(b"a", 1, at(30));
    touched.returned(taken[0].id);
    assert_eq!(touched.mark(at(40)), at(10));
    let taken = touched.take(10, 100, u32::MAX, |_| true);
    assert_eq!(names(&taken), [b"a", b"b"]);
    for taken in &taken {
        touched.landed(taken.id);
    }
    assert!(touched.take(10, 100, u32::MAX, |_| true).is_empty() && touched.is_empty());
    assert_eq!(touched.mark(at(40)), at(40));
}

#[test]
fn a_key_that_something_else_copies_waits() {
    let mut touched = Touched::new(10_000);
    touched.touch(b"a", 1, at(10));
    touched.touch(b"b", 2, at(20));
    assert_eq!(names(&touched.take(10, 100, u32::MAX, |key| key != b"a")), [b"b"]);
    assert!(touched.take(10, 100, u32::MAX, |_| true).is_empty());
    touched.release();
    assert_eq!(names(&touched.take(10, 100, u32::MAX, |_| true)), [b"a"]);
}

#[test]
fn what_does_not_fit_becomes_slots_that_a_comparison_settles() {
    let mut touched = Touched::new(10 * (ENTRY_BYTES + 2));
    for number in 0..10_u64 {
        let slot = (number % 3) as u16;
        touched.touch(format!("{number:02}").as_bytes(), slot, at(number * 10));
    }
    touched.touch(b"10", 2, at(100));
    assert!(touched.bytes() <= 10 * (ENTRY_BYTES + 2));
    assert_eq!(touched.doubtful().slots, [0, 1]);
    assert_eq!(touched.mark(at(200)), at(0));
    // Not remembered by name until a comparison begins.
    touched.touch(b"00", 0, at(110));
    assert!(!touched.contains(b"00"));
    assert_eq!(touched.begin_comparison().slots, [0, 1]);
    touched.touch(b"00", 0, at(120));
    assert!(touched.contains(b"00"));
    assert_eq!(touched.mark(at(200)), at(0));
    touched.end_comparison();
    assert_eq!(touched.mark(at(200)), at(20));
    touched.doubt_all(at(130));
    assert!(touched.doubtful().all);
    touched.begin_comparison();
    touched.doubt_all(at(140));
    touched.end_comparison();
    assert!(touched.doubtful().all);
}

#[test]
fn a_key_that_was_touched_a_moment_ago_is_left_until_later() {
    let mut touched = Touched::new(10_000);
    touched.touch(b"a", 1, at(10));
    touched.touch(b"b", 2, at(20));
    let taken = touched.take(10, 100, 10, |_| true);
    assert_eq!(names(&taken), [b"a"]);
    touched.returned(taken[0].id);
    assert!(touched.take(10, 100, 9, |_| true).is_empty());
    assert_eq!(names(&touched.take(10, 100, 20, |_| true)), [b"a", b"b"]);
}

#[test]
fn in_another_history_all_counts_from_where_it_begins() {
    let mut touched = Touched::new(10_000);
    touched.touch(b"a", 1, at(1000));
    touched.touch(b"b", 2, at(2000));
    let taken = touched.take(1, 100, u32::MAX, |_| true);
    touched.touch(b"a", 1, at(3000));
    touched.doubt_all(at(3000));
    touched.rebase(at(5));
    touched.touch(b"c", 3, at(7));
    assert_eq!(touched.mark(at(9)), at(5));
    touched.begin_comparison();
    touched.end_comparison();
    touched.landed(taken[0].id);
    let taken = touched.take(10, 100, u32::MAX, |_| true);
    assert_eq!(taken.len(), 3);
    for taken in taken {
        touched.landed(taken.id);
    }
    assert_eq!((touched.mark(at(9)), touched.len()), (at(9), 0));
}

#[test]
fn a_key_that_is_owed_does_not_hold_the_mark_and_is_taken_when_it_rests() {
    let mut touched = Touched::new(10_000);
    touched.touch(b"busy", 1, at(10));
    let taken = touched.take(10, 100, u32::MAX, |_| true);
    touched.touch(b"busy", 1, at(20));
    assert!(touched.is_touched_again(b"busy"));
    touched.owe(taken[0].id);
    touched.returned(taken[0].id);
    assert_eq!((touched.mark(at(30)), touched.clean(at(30))), (at(30), at(10)));
    assert_eq!(touched.owed().collect::<Vec<_>>(), [b"busy"]);
    touched.touch(b"busy", 1, at(40));
    // It rests only some time after it was touched last, but at a fence it is taken.
    assert!(touched.take(10, 100, 40 + OWED_REST - 1, |_| true).is_empty());
    let taken = touched.take(10, 100, 40 + OWED_REST, |_| true);
    assert_eq!(names(&taken), [b"busy"]);
    touched.returned(taken[0].id);
    let taken = touched.take(10, 100, u32::MAX, |_| true);
    touched.touch(b"busy", 1, at(50));
    touched.landed(taken[0].id);
    // What is copied is whole: from here on it is a key as any other.
    assert_eq!((touched.mark(at(60)), touched.clean(at(60))), (at(50), at(50)));
    let taken = touched.take(10, 100, u32::MAX, |_| true);
    touched.landed(taken[0].id);
    assert_eq!(touched.clean(at(60)), at(60));
    assert!(touched.is_empty());
}

#[test]
fn a_key_that_is_handed_over_leaves_its_touch_to_another() {
    let mut touched = Touched::new(10_000);
    touched.touch(b"a", 1, at(10));
    let taken = touched.take(10, 100, u32::MAX, |_| true);
    touched.touch(b"b", 2, at(20));
    assert_eq!(touched.touch_of(taken[0].id), Some(at(10)));
    touched.hand_over(taken[0].id, &[(b"b", 2)], Some(at(30)));
    assert_eq!(touched.mark(at(40)), at(10));
    let taken = touched.take(10, 100, u32::MAX, |_| true);
    assert_eq!(names(&taken), [b"b"]);
    touched.landed(taken[0].id);
    assert_eq!((touched.mark(at(40)), touched.is_empty()), (at(40), true));
}
