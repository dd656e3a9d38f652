use super::*;
use crate::target::closing::Closings;
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
        let closings = Closings::default();
        batch.seal(&closings);
        let (mut replies, mut errors) = (0, Vec::new());
        let data = [b"$-1\r\n", FIRST_ANSWER].concat();
        let read = read_restores(&data, &batch, &mut replies, &mut errors, &closings);
        assert_eq!(read.unwrap(), (data.len(), true, 0));
        assert!(errors[0].1.starts_with(said.as_bytes()), "{errors:?}");
    }
}

/// What closes the first batch of a job.
const FIRST_ANSWER: &[u8] = b"$33\r\nslotferry-flight-0000000000000001\r\n";

/// Read replies to a batch of keys to restore (`r`), to set (`s`) and to delete (`d`): how many entries count, where
/// it is done.
fn counted(entries: &str, data: &[u8]) -> Result<Option<usize>, crate::resp::ProtocolError> {
    let mut text = Vec::new();
    append_string(&mut text, b"v");
    let (mut batch, closings) = (Batch::default(), Closings::default());
    for (number, (kind, key)) in entries.chars().zip([b"a".as_slice(), b"b", b"c"]).enumerate() {
        let restore = Restore {
            number: number as u32,
            key,
            expires_at: 0,
            payload: if kind == 'd' { b"" } else { &text },
            is_string: false,
            rdb_version: None,
            eviction: None,
        };
        if kind == 'd' {
            batch.push_deletion(1, 2, &restore);
        } else {
            let sets = kind == 's';
            batch.push(1, 2, &restore, Writing { replace: false, sets });
        }
    }
    batch.seal(&closings);
    let (mut replies, mut errors) = (0, Vec::new());
    let (used, done, _) = read_restores(data, &batch, &mut replies, &mut errors, &closings)?;
    assert!(!done || used <= data.len());
    Ok(done.then(|| batch.entries().len() - errors.len()))
}

#[test]
fn a_batch_counts_by_the_answer_that_is_its_own() {
    let closed = |replies: &[u8]| [replies, FIRST_ANSWER].concat();
    assert_eq!(
        counted("rrr", &closed(b"+OK\r\n-BUSYKEY x\r\n+OK\r\n")),
        Ok(Some(2))
    );
    assert_eq!(counted("rdr", &closed(b"+OK\r\n:1\r\n+OK\r\n")), Ok(Some(3)));
    // An odd reply to one of them is its own affair.
    assert_eq!(
        counted("rsd", &closed(b":1\r\n+QUEUED\r\n$1\r\nx\r\n")),
        Ok(Some(0))
    );
    assert_eq!(counted("rr", b"+OK\r\n+OK\r\n"), Ok(None));
    let refused = b"+OK\r\n-NOPERM this user has no permissions to run the 'echo' command\r\n";
    assert_eq!(counted("r", refused), Ok(Some(1)));
    // A node that is loading says so to everything.
    assert_eq!(
        counted("rd", b"-LOADING\r\n-LOADING\r\n-LOADING\r\n"),
        Ok(Some(0))
    );
}

#[test]
fn a_reply_that_was_left_out_or_is_one_too_many_is_noticed_wherever_it_is() {
    let own: [(char, &[&[u8]]); 3] = [
        (
            'r',
            &[b"+OK\r\n", b"-BUSYKEY x\r\n", b"-LOADING x\r\n", b"-NOPERM x\r\n"],
        ),
        ('s', &[b"+OK\r\n", b"$-1\r\n", b"-BUSY x\r\n"]),
        ('d', &[b":1\r\n", b"-LOADING x\r\n"]),
    ];
    let closings: [&[u8]; 3] = [FIRST_ANSWER, b"-LOADING x\r\n", b"-MOVED 1 a:1\r\n"];
    let behind: [&[u8]; 6] = [
        b"+OK\r\n",
        b":1\r\n",
        b"$-1\r\n",
        b"-BUSYKEY x\r\n",
        b"-LOADING x\r\n",
        b"$33\r\nslotferry-flight-0000000000000002\r\n",
    ];
    let ways: Vec<(&[u8], &[u8])> = closings
        .iter()
        .flat_map(|closing| behind.iter().map(move |next| (*closing, *next)))
        .collect();
    for three in 0..27 {
        let kinds = [three % 3, three / 3 % 3, three / 9].map(|kind| own[kind]);
        let entries: String = kinds.iter().map(|(kind, _)| kind).collect();
        let lengths = kinds.map(|(_, replies)| replies.len());
        for (number, (closing, next)) in
            (0..lengths.iter().product()).flat_map(|n| ways.iter().map(move |way| (n, *way)))
        {
            let mut rest = number;
            let mut replies: Vec<&[u8]> = kinds
                .iter()
                .map(|(_, replies)| {
                    let reply = replies[rest % replies.len()];
                    rest /= replies.len();
                    reply
                })
                .collect();
            replies.extend([closing, next]);
            for at in 0..4 {
                let mut fewer = replies.clone();
                fewer.remove(at);
                let mut more = replies.clone();
                more.insert(at, next);
                for data in [fewer, more] {
                    let data = data.concat();
                    let counts = counted(&entries, &data);
                    assert!(
                        matches!(counts, Err(_) | Ok(None | Some(0))),
                        "{entries}: {}",
                        data.escape_ascii()
                    );
                }
            }
        }
    }
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
    batch.seal(&Closings::default());
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
        batch.seal(&Closings::default());
        assert!(batch.commands.len() > length && batch.commands.len() <= length + CLOSING_BYTES);
        assert_eq!(batch.commands.capacity(), capacity);
    }
}
