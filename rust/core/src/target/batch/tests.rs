use super::*;
use crate::target::flight::read_restores;

fn writing(replace: bool) -> Writing {
    Writing { replace, sets: true }
}

#[test]
fn plain_strings_are_set_and_can_be_restored() {
    let (mut text, mut number) = (Vec::new(), b"\0\xc1\x39\x30".to_vec());
    append_string(&mut text, b"a value");
    let footer = crate::rdb::Footer::new(&number, 11);
    number.extend_from_slice(&footer.to_bytes());
    let restore = |number, payload, expires_at| Restore {
        number,
        key: b"k",
        expires_at,
        payload,
        is_string: false,
        rdb_version: Some(9),
        eviction: None,
    };
    let mut batch = Batch::default();
    let mut weight = 0;
    for replace in [true, false] {
        weight += batch.push(1, 2, &restore(0, &text, 0), writing(replace));
        weight += batch.push(1, 2, &restore(1, &number, 17), writing(replace));
    }
    assert_eq!(weight, batch.total_weight());
    let commands: Vec<String> = (0..4)
        .map(|index| {
            let mut argument = arguments(batch.command(index));
            let words = std::iter::repeat_with(&mut argument).take_while(|word| !word.is_empty());
            words
                .map(|word| word.escape_ascii().to_string())
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    assert_eq!(
        commands,
        [
            "SET k a value",
            "SET k 12345 PXAT 17",
            "SET k a value NX",
            "SET k 12345 NX PXAT 17"
        ]
    );
    assert!((0..4).all(|index| batch.restore(index).payload.is_empty()));
    assert_eq!(batch.restore(3).expires_at, 17);

    let mut restores = Batch::asking();
    for index in 0..4 {
        let more = restores.push_as_restore(&batch, index);
        assert_eq!(batch.weight(index) + more, restores.weight(index));
    }
    assert_eq!(restores.restore(2).payload, text);
    assert_eq!(restores.restore(3).expires_at, 17);
    assert!(crate::rdb::same_value(restores.restore(1).payload, &number, 0).unwrap());
    let has = |index: usize, word: &[u8]| {
        let mut argument = arguments(restores.command(index));
        std::iter::repeat_with(&mut argument)
            .take(7)
            .any(|own| own == word)
    };
    assert!(has(0, b"REPLACE") && has(1, b"REPLACE") && has(1, b"ABSTTL"));
    assert!(!has(2, b"REPLACE") && !has(3, b"REPLACE"));

    // A measure of its use needs RESTORE.
    let mut others = Batch::default();
    let measured = Restore {
        eviction: Some((Eviction::Frequency, 7)),
        ..restore(0, &text, 0)
    };
    others.push(1, 2, &measured, writing(true));
    let writing = Writing {
        replace: true,
        sets: false,
    };
    others.push(1, 2, &restore(1, &text, 0), writing);
    assert!(others.entries().iter().all(|entry| !entry.is_set));
    assert_eq!(Batch::default().push_as_restore(&others, 0), 0);
}

#[test]
fn nil_is_a_busy_key_for_a_set_alone() {
    let mut text = Vec::new();
    append_string(&mut text, b"v");
    let restore = Restore {
        number: 0,
        key: b"k",
        expires_at: 0,
        payload: &text,
        is_string: false,
        rdb_version: None,
        eviction: None,
    };
    for (sets, said) in [(true, "BUSYKEY"), (false, "nil (not a reply")] {
        let mut batch = Batch::default();
        batch.push(1, 2, &restore, Writing { replace: false, sets });
        batch.seal(ExpiryCommand::Absolute);
        let (mut replies, mut errors) = (0, Vec::new());
        let read = read_restores(b"$-1\r\n:-1\r\n", &batch, &mut replies, &mut errors);
        assert_eq!(read.unwrap(), (10, true, 0));
        assert!(errors[0].1.starts_with(said.as_bytes()), "{errors:?}");
        // Where a reply is missing or one too many, it is no seal's.
        let (mut replies, mut errors) = (0, Vec::new());
        read_restores(b"+OK\r\n$-1\r\n", &batch, &mut replies, &mut errors).unwrap_err();
    }
}

#[test]
fn an_error_of_the_next_batch_is_no_seal_where_a_reply_was_left_out() {
    let mut text = Vec::new();
    append_string(&mut text, b"v");
    let restore = |number, key| Restore {
        number,
        key,
        expires_at: 0,
        payload: &text,
        is_string: false,
        rdb_version: None,
        eviction: None,
    };
    let read = |data: &[u8]| {
        let mut batch = Batch::default();
        let writing = Writing {
            replace: false,
            sets: false,
        };
        for (number, key) in [b"a".as_slice(), b"b", b"c"].into_iter().enumerate() {
            batch.push(1, 2, &restore(number as u32, key), writing);
        }
        batch.seal(ExpiryCommand::Absolute);
        let (mut replies, mut errors) = (0, Vec::new());
        read_restores(data, &batch, &mut replies, &mut errors).map(|(_, done, _)| (done, errors.len()))
    };
    assert_eq!(read(b"+OK\r\n-BUSYKEY x\r\n+OK\r\n:-1\r\n"), Ok((true, 1)));
    // The login may not ask.
    assert_eq!(read(b"+OK\r\n+OK\r\n+OK\r\n-NOPERM x\r\n"), Ok((true, 0)));
    // An odd reply to one of them is its own affair, unless it may be what closes the batch.
    assert_eq!(read(b"+OK\r\n+QUEUED\r\n+OK\r\n:-1\r\n"), Ok((true, 1)));
    read(b"+OK\r\n:-1\r\n+OK\r\n:-1\r\n").unwrap_err();
    // One reply too many: the last one is a key's.
    read(b"+OK\r\n+OK\r\n+OK\r\n-BUSYKEY x\r\n").unwrap_err();
    // One reply was left out, and the next batch begins with a busy key.
    read(b"+OK\r\n+OK\r\n:-1\r\n-BUSYKEY x\r\n").unwrap_err();
}

#[test]
fn entries_are_found_again() {
    let mut batch = Batch::default();
    let mut weight = 0;
    for (slot, key) in [b"a".as_slice(), b"\r\n", b""].into_iter().enumerate() {
        let restore = Restore {
            number: slot as u32,
            key,
            expires_at: slot as u64 * 1000,
            payload: b"$4\r\n",
            is_string: false,
            rdb_version: None,
            eviction: (slot == 2).then_some((Eviction::Frequency, 7)),
        };
        weight += batch.push(7, slot as u16, &restore, writing(slot == 1));
    }
    assert_eq!(weight, batch.total_weight());
    batch.seal(ExpiryCommand::Absolute);
    assert_eq!(weight, batch.total_weight());
    assert_eq!(batch.restore(1).key, b"\r\n");
    assert_eq!(batch.restore(1).number, 1);
    assert_eq!(batch.restore(1).eviction, None);
    assert_eq!(batch.restore(2).eviction, Some((Eviction::Frequency, 7)));
    assert_eq!(batch.restore(2).expires_at, 2000);
    assert_eq!(batch.restore(0).payload, b"$4\r\n");

    let mut asking = Batch::asking();
    for index in [2, 0] {
        asking.push_again(batch.entries()[index], batch.command(index));
    }
    assert_eq!(asking.command(1), batch.command(0));
    assert_eq!(asking.weight(0), batch.weight(2));
    assert_eq!(asking.total_weight(), batch.weight(2) + batch.weight(0));
    assert!(asking.bytes().starts_with(ASKING));
}

#[test]
fn a_seal_takes_no_more_room_than_there_is() {
    for (name, payload) in [(1 << 20, 9), (200, 1 << 20), (9, 1 << 20), (9, 9)] {
        let mut batch = Spares::default().take();
        let restore = Restore {
            number: 0,
            key: &vec![b'k'; name],
            expires_at: u64::MAX,
            payload: &vec![0; payload],
            is_string: false,
            rdb_version: None,
            eviction: Some((Eviction::IdleTime, u64::MAX)),
        };
        batch.push(0, 0, &restore, writing(true));
        let (length, capacity) = (batch.commands.len(), batch.commands.capacity());
        batch.seal(ExpiryCommand::Absolute);
        assert!(batch.commands.len() > length);
        assert_eq!(batch.commands.capacity(), capacity);
        assert_eq!(batch.bytes().ends_with(NOTHING), name > 9);
    }
}
