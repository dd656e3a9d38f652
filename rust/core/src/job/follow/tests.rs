//! What is recorded and shown of large keys that are followed by their elements, without any server.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::chunked::copy::Big;
use crate::job::control::Shared;
use crate::job::engine::{JobSpec, OnConflict, TargetLimits};
use crate::ledger::checkpoint::Mark;
use crate::ledger::progress::Outcome;
use crate::net::{Access, Address, AddressMap};
use crate::rdb::{FieldTtl, StreamId, Target};
use crate::resp::encode::ExpiryCommand;

pub(crate) const KEY: &[u8] = b"large";

/// A job of one partition that follows; nothing of it runs.
fn spec() -> JobSpec {
    JobSpec {
        source: Address::tcp("source".to_owned(), 6379),
        file: None,
        snapshot: None,
        source_access: Access::default(),
        source_run_id: String::new(),
        source_replication_id: String::new(),
        source_cluster: None,
        source_expiry: ExpiryCommand::Absolute,
        target_access: Access::default(),
        target_expiry: ExpiryCommand::Absolute,
        target_rdb: Target::new(&[]),
        target_limits: TargetLimits::new(512 << 20, 1 << 30),
        field_ttl: FieldTtl::Error,
        address_map: AddressMap::new(Vec::new()),
        topology: Vec::new(),
        target_nodes: Vec::new(),
        partition_count: 1,
        partitions: vec![(0, 0)],
        names: Vec::new(),
        follow: Some(FollowSpec {
            from: None,
            in_doubt: false,
            on_flush: OnFlush::Stop,
            memory: 1 << 20,
        }),
        on_conflict: OnConflict::Replace,
        key_map: None,
        big_key_bytes: Some(1),
        copy_id: None,
        big_positions: Vec::new(),
        value_filter: None,
        survey: None,
        eviction: None,
        pattern: None,
        type_name: None,
        scan_only: false,
        verify: None,
        sweeps: Vec::new(),
        sample: None,
        delete_extra: false,
        page_keys: 10,
        source_connections: 1,
        memory_limit: 1 << 24,
        retry_for: Duration::from_secs(1),
        park_after: Duration::from_secs(1),
        max_keys_per_second: None,
        max_bytes_per_second: None,
        pause_above: None,
        wait_replicas: 0,
        wait_timeout: Duration::from_secs(1),
    }
}

/// An engine whose stream stands at `offset`, and how it follows.
pub(crate) fn following(offset: u64) -> (Rc<Engine>, Rc<Follow>) {
    following_by(spec(), offset)
}

fn following_by(spec: JobSpec, offset: u64) -> (Rc<Engine>, Rc<Follow>) {
    let marks = [Mark {
        index: 0,
        cursor: 0,
        done: false,
    }];
    let engine = Engine::new(spec, Arc::new(Shared::new(&marks, None, false))).unwrap();
    let follow = Rc::clone(engine.follow.as_ref().unwrap());
    receive(&follow, offset);
    (engine, follow)
}

pub(super) fn receive(follow: &Follow, offset: u64) {
    follow.stream.borrow_mut().position = Some(Position {
        id: "history".to_owned(),
        offset,
        database: 0,
    });
}

pub(crate) fn big(page: PageId) -> Big {
    Big {
        page,
        number: 0,
        slot: 0,
        size: 0,
        source: KEY.to_vec(),
        target: KEY.to_vec(),
        in_doubt: false,
        refused: false,
    }
}

pub(super) fn touch_at(offset: u64) -> Touch {
    Touch {
        offset,
        selected: 0,
        at: 0,
    }
}

/// The key is followed, and an element of it is touched.
fn touched_element(offset: u64) -> (Rc<Engine>, Rc<Follow>) {
    let (engine, follow) = following(offset);
    assert!(follow.begin_elements(&big(0), Kind::Set));
    follow.publish_elements(&engine, KEY, 77, 1);
    follow.touch_elements(&engine, KEY, &[b"e".to_vec()], touch_at(offset));
    follow.set_fence(offset);
    (engine, follow)
}

#[test]
fn a_checkpoint_without_the_page_of_a_built_key_holds_the_key_and_its_touches() {
    let (engine, follow) = following(100);
    let page = engine.shared.ledger().open_page(0, 0, true, 1, 1);
    assert!(follow.begin_elements(&big(page), Kind::Set));
    follow.touch_elements(&engine, KEY, &[b"e".to_vec()], touch_at(150));
    receive(&follow, 200);
    follow.publish(&engine);
    let building = engine.shared.ledger().checkpoint();
    assert!(!building.marks[0].done);
    assert_eq!(building.follow.unwrap().position.offset, 200);

    follow.publish_elements(&engine, KEY, 0, 1);
    engine.settle(page, Outcome::Migrated, 1, 0);

    let built = engine.shared.ledger().checkpoint();
    assert!(built.marks[0].done);
    assert_eq!(built.big_positions, [(KEY.to_vec(), "followed set".to_owned())]);
    assert_eq!(built.follow.unwrap().position.offset, 150);
}

#[test]
fn a_checkpoint_without_the_page_of_a_key_that_was_not_built_holds_its_touch() {
    let (engine, follow) = following(100);
    let page = engine.shared.ledger().open_page(0, 0, true, 1, 1);
    assert!(follow.begin_elements(&big(page), Kind::Set));
    follow.touch_elements(&engine, KEY, &[b"e".to_vec()], touch_at(150));
    receive(&follow, 200);
    follow.publish(&engine);

    follow.leave_building(&engine, KEY);
    engine.settle(page, Outcome::Vanished, 1, 0);

    let left = engine.shared.ledger().checkpoint();
    assert_eq!(left.follow.unwrap().position.offset, 150);
}

#[test]
fn nothing_rests_while_a_round_is_under_way() {
    let (engine, follow) = touched_element(100);
    let at_rest = || {
        follow.publish(&engine);
        engine.shared.status().follow.as_ref().unwrap().at_rest
    };
    let round = follow.take_round().unwrap();
    engine.limiter.pause(true, Instant::now());
    assert!(!at_rest());
    follow.end_round(&round, 77);
    assert!(at_rest());
}

#[test]
fn the_expiry_is_not_known_after_a_round_that_failed() {
    let (_engine, follow) = touched_element(100);
    let round = follow.take_round().unwrap();
    assert_eq!(round.expires_at, Some(77));
    follow.put_back(round, Duration::ZERO);
    let again = follow.take_round().unwrap();
    assert_eq!((again.elements.len(), again.expires_at), (1, None));
}

#[test]
fn a_stream_is_clean_only_up_to_where_the_target_is_trimmed() {
    let (engine, follow) = following(100);
    let clean = || {
        follow.publish(&engine);
        engine.shared.status().follow.as_ref().unwrap().clean
    };
    // A command that trims, and another one behind it; the next round is due at once.
    let trim_at = |offset: u64| {
        for offset in [offset, offset + 10] {
            follow.touch_elements(&engine, KEY, &[], touch_at(offset));
            receive(&follow, offset + 10);
        }
    };
    let round = |first: u64, again: bool| {
        follow.parts.borrow_mut().keys.get_mut(KEY).unwrap().not_before = 0;
        let mut round = follow.take_round().unwrap();
        round.sees = Some((StreamId { ms: first, seq: 0 }, 0));
        round.again = again;
        follow.end_round(&round, 0);
    };
    assert!(follow.begin_elements(&big(0), Kind::Stream));
    trim_at(100);
    follow.publish_elements(&engine, KEY, 0, 1);
    follow.set_fence(1000);
    assert_eq!(clean(), 100, "what was trimmed while it was built is there");
    round(5, true);
    assert_eq!(clean(), 100, "the first round trims nothing");
    trim_at(120);
    round(9, true);
    assert_eq!(clean(), 120, "the second one trims to what the first one saw");
    trim_at(140);
    round(13, true);
    assert_eq!(clean(), 140);
    round(13, false);
    assert_eq!(clean(), 160);
}

#[test]
fn a_stream_is_trimmed_only_once_all_that_was_done_before_is_received() {
    let (engine, follow) = following(100);
    assert!(follow.begin_elements(&big(0), Kind::Stream));
    follow.publish_elements(&engine, KEY, 0, 1);
    follow.set_fence(1000);
    let first = |ms: u64| StreamId { ms, seq: 0 };
    let round = |sees: (StreamId, u64)| {
        follow.parts.borrow_mut().keys.get_mut(KEY).unwrap().not_before = 0;
        let mut round = follow.take_round().unwrap();
        let trims_to = round.first_seen;
        (round.again, round.sees) = (trims_to != Some(sees.0), Some(sees));
        follow.end_round(&round, 0);
        trims_to
    };
    assert_eq!(round((first(5), 200)), None);
    // The stream is late: what it saw first stays to be trimmed to, whatever later rounds see.
    assert_eq!(round((first(9), 250)), None);
    receive(&follow, 199);
    assert_eq!(round((first(9), 260)), None);
    receive(&follow, 200);
    assert_eq!(round((first(9), 270)), Some(first(5)));
    assert_eq!(round((first(9), 280)), None);
    follow.publish(&engine);
    let clean = engine.shared.status().follow.as_ref().unwrap().clean;
    assert!(clean <= 200, "{clean}");
    receive(&follow, 280);
    assert_eq!(round((first(9), 280)), Some(first(9)));
    follow.publish(&engine);
    assert_eq!(engine.shared.status().follow.as_ref().unwrap().clean, 280);
}

/// The job waits for the stream to come to where a list was read; what came of it.
fn waits_for_stream(retry_for: Duration, come: impl FnOnce(&Follow)) -> Result<Run, Unread> {
    let spec = JobSpec { retry_for, ..spec() };
    let (engine, follow) = following_by(spec, 100);
    assert!(follow.begin_elements(&big(0), Kind::List));
    follow.begin_list_read(KEY);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let read = follow.list_read_at(&engine, KEY, "history", 200, 7);
        tokio::pin!(read);
        tokio::select! {
            biased;
            read = &mut read => return read,
            () = std::future::ready(()) => come(&follow),
        }
        read.await
    })
}

#[test]
fn a_late_stream_is_waited_for_as_long_as_errors_are_retried() {
    let long = Duration::from_secs(3600);
    let read = waits_for_stream(long, |follow| {
        receive(follow, 200);
        follow.arrived.notify_waiters();
    });
    assert_eq!(read.map(|run| run.length()), Ok(7));
    assert_eq!(waits_for_stream(Duration::ZERO, |_| ()), Err(Unread::Late));
    let read = waits_for_stream(long, |follow| {
        let mut stream = follow.stream.borrow_mut();
        stream.position.as_mut().unwrap().id = "other".to_owned();
    });
    assert_eq!(read, Err(Unread::OtherHistory));
}
