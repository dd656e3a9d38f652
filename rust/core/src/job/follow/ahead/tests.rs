//! Whatever is written, read, written wrongly and told of late: what is called proven at the fence is equal.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::job::follow::tests::{KEY, big, following, receive, touch_at};
use crate::net::Address;

/// Elements are numbers below this one, and a scan names so many of them at once.
const ELEMENTS: u8 = 12;
const CHUNK: u8 = 3;

type Held = BTreeMap<u8, u8>;

/// The source is written: an element gets this value, or goes.
type Write = (u8, Option<u8>);

#[derive(Debug, Clone)]
enum Step {
    Write(Write),
    /// The stream tells of so many writes more.
    Hear(usize),
    /// A round reads, with writes before that; it is lost behind so many elements, or one of them is written wrongly.
    Round {
        meanwhile: Vec<Write>,
        lost_behind: Option<usize>,
        wrong: Option<(usize, Option<u8>)>,
    },
    /// A comparison, with writes between its reads of the source and the target.
    Look(Vec<Write>),
    /// Another comparison, in the middle of which a node is lost: an element there becomes what it was, or goes, unheard.
    LookAtLoss(Write),
}

fn write() -> impl Strategy<Value = Write> {
    (0..ELEMENTS, prop::option::weighted(0.8, 0..3u8))
}

fn steps(with_faults: bool) -> impl Strategy<Value = Vec<Step>> {
    let writes = || prop::collection::vec(write(), 0..3);
    let wrong = prop::option::weighted(0.3, (0..4usize, prop::option::of(0..3u8)));
    let wrong = wrong.prop_map(move |wrong| wrong.filter(|_| with_faults));
    let round = (writes(), prop::option::weighted(0.2, 0..4usize), wrong);
    let step = prop_oneof![
        4 => write().prop_map(Step::Write),
        2 => (0..4usize).prop_map(Step::Hear),
        3 => round.prop_map(|(meanwhile, lost_behind, wrong)| Step::Round { meanwhile, lost_behind, wrong }),
        4 => writes().prop_map(Step::Look),
        u32::from(with_faults) => write().prop_map(Step::LookAtLoss),
    ];
    prop::collection::vec(step, 1..60)
}

struct World {
    engine: Rc<Engine>,
    follow: Rc<Follow>,
    source: Held,
    target: Held,
    untold: VecDeque<u8>,
    offset: u64,
}

impl World {
    fn new(begun: &Held) -> Self {
        let (engine, follow) = following(100);
        assert!(follow.begin_elements(&big(0), Kind::Hash));
        follow.publish_elements(&engine, KEY, 0, 4);
        follow.set_fence(u64::MAX);
        follow.compare_ahead();
        Self {
            engine,
            follow,
            source: begun.clone(),
            target: begun.clone(),
            untold: VecDeque::new(),
            offset: 100,
        }
    }

    fn write(&mut self, writes: Vec<Write>) {
        for (element, value) in writes {
            match value {
                Some(value) => self.source.insert(element, value),
                None => self.source.remove(&element),
            };
            self.untold.push_back(element);
        }
    }

    fn hear(&mut self, count: usize) {
        for element in self.untold.drain(..count.min(self.untold.len())) {
            let touch = touch_at(self.offset);
            self.follow
                .touch_elements(&self.engine, KEY, &[vec![element]], touch);
            self.offset += 10;
            receive(&self.follow, self.offset);
        }
    }

    fn round(
        &mut self,
        meanwhile: Vec<Write>,
        lost_behind: Option<usize>,
        wrong: Option<(usize, Option<u8>)>,
    ) -> bool {
        let Some(round) = self.follow.take_round() else {
            return false;
        };
        self.write(meanwhile);
        let written = lost_behind.unwrap_or(usize::MAX);
        for (place, element) in round.elements.iter().enumerate().take(written) {
            let element = element[0];
            let mut value = self.source.get(&element).copied();
            if let Some((at, other)) = wrong.filter(|(at, _)| *at == place) {
                assert_eq!(at, place);
                value = other;
            }
            match value {
                Some(value) => self.target.insert(element, value),
                None => self.target.remove(&element),
            };
        }
        if lost_behind.is_some() {
            self.follow.put_back(round, std::time::Duration::ZERO);
        } else {
            self.follow.end_round(&round, 0);
        }
        true
    }

    /// One comparison; returns whether there was one to do.
    fn look(&mut self, meanwhile: Vec<Write>) -> bool {
        self.look_with(meanwhile, None)
    }

    /// The same; behind its reads a node of the target is lost with a write.
    fn look_with(&mut self, meanwhile: Vec<Write>, lost: Option<Write>) -> bool {
        let Some(ahead) = self.follow.next_ahead() else {
            return false;
        };
        let (names, next): (Vec<u8>, _) = match &ahead.what {
            What::Ends => {
                let is_equal = self.source.len() == self.target.len();
                self.follow.compared_ahead(&ahead, Came::Ends(is_equal));
                return true;
            }
            What::Elements(elements) => (elements.iter().map(|element| element[0]).collect(), None),
            What::Scan(Place::Cursor(from)) => {
                let from = u8::try_from(*from).unwrap();
                let named = from..from + CHUNK;
                let next = (named.end < ELEMENTS).then_some(Place::Cursor(named.end.into()));
                (
                    named.filter(|name| self.source.contains_key(name)).collect(),
                    next,
                )
            }
            What::Scan(place) => panic!("{place:?} is no place in a hash"),
        };
        let ours: Vec<_> = names.iter().map(|name| self.source.get(name).copied()).collect();
        self.write(meanwhile);
        let each = names.iter().zip(ours);
        let unequal = each.filter(|(name, ours)| self.target.get(name).copied() != *ours);
        let unequal = unequal.map(|(&name, _)| vec![name]).collect();
        if let Some((element, value)) = lost {
            match value {
                Some(value) => self.target.insert(element, value),
                None => self.target.remove(&element),
            };
            self.follow.forget_compared();
            self.follow.compare_ahead();
        }
        self.follow.compared_ahead(&ahead, Came::Unequal(unequal, next));
        true
    }

    /// Writes are stopped: whether the key is proven to be equal.
    fn is_proven(&mut self) -> bool {
        self.hear(usize::MAX);
        while self.round(Vec::new(), None, None) {}
        let (sender, answer) = mpsc::sync_channel(1);
        self.follow.compare_at_fence(sender);
        while self.look(Vec::new()) {}
        !answer.try_recv().expect("an answer").is_empty()
    }
}

fn proven(begun: &Held, steps: Vec<Step>) -> (bool, bool) {
    let mut world = World::new(begun);
    for step in steps {
        match step {
            Step::Write(one) => world.write(vec![one]),
            Step::Hear(count) => world.hear(count),
            Step::Round {
                meanwhile,
                lost_behind,
                wrong,
            } => {
                world.round(meanwhile, lost_behind, wrong);
            }
            Step::Look(meanwhile) => {
                world.look(meanwhile);
            }
            Step::LookAtLoss(lost) => {
                world.look_with(Vec::new(), Some(lost));
            }
        }
    }
    // A scan that goes on, as long as there is time for it.
    while world.follow.compare_ahead() > 0 {
        world.look(Vec::new());
    }
    (world.is_proven(), world.source == world.target)
}

fn begun() -> impl Strategy<Value = Held> {
    prop::collection::btree_map(0..ELEMENTS, 0..3u8, 0..8)
}

proptest! {
    #[test]
    fn what_is_proven_is_equal_whatever_rounds_write(begun in begun(), steps in steps(true)) {
        let (is_proven, is_equal) = proven(&begun, steps);
        prop_assert_eq!(is_proven, is_equal);
    }

    #[test]
    fn what_is_equal_is_proven(begun in begun(), steps in steps(false)) {
        prop_assert_eq!(proven(&begun, steps), (true, true));
    }
}

#[test]
fn a_key_that_is_not_scanned_to_its_end_is_not_proven() {
    let begun = Held::from([(1, 1)]);
    let mut world = World::new(&begun);
    assert!(world.look(Vec::new()));
    assert_eq!(world.follow.compare_ahead(), 1);
    assert!(!world.is_proven());
}

#[test]
fn what_a_lost_node_has_held_is_not_proven() {
    let begun = Held::from([(1, 1), (2, 2)]);
    let mut world = World::new(&begun);
    while world.follow.compare_ahead() > 0 {
        world.look(Vec::new());
    }
    // A replica takes over that has not got the last write, of which there are as many elements.
    world.target.insert(2, 7);
    world.follow.forget_compared();
    assert!(!world.is_proven());
}

#[test]
fn an_answer_from_before_a_node_was_lost_says_nothing_of_what_is_there_now() {
    let begun = Held::from([(1, 1), (4, 4), (7, 7), (10, 10)]);
    let mut world = World::new(&begun);
    assert!(world.look(Vec::new()));
    // What was compared by now is older at the replica that takes over.
    assert!(world.look_with(Vec::new(), Some((1, Some(0)))));
    while world.follow.compare_ahead() > 0 {
        world.look(Vec::new());
    }
    assert!(!world.is_proven());
}

/// All of a key is compared; what that was called is forgotten by `loss`.
fn is_forgotten(loss: impl FnOnce(&World)) -> bool {
    let mut world = World::new(&Held::from([(1, 1)]));
    while world.follow.compare_ahead() > 0 {
        world.look(Vec::new());
    }
    loss(&world);
    world.follow.compare_ahead() == 1
}

#[test]
fn a_node_that_names_another_owner_of_a_slot_ends_what_was_compared() {
    let address = Address::tcp("taken-over".to_owned(), 6379);
    let known = |world: &World| world.engine.moved(0, &address);
    assert!(is_forgotten(|world| assert!(known(world).is_some())));
    // It is no news the second time.
    assert!(!is_forgotten(|world| {
        known(world);
        while world.follow.compare_ahead() > 0 {
            let ahead = world.follow.next_ahead().expect("a scan");
            world
                .follow
                .compared_ahead(&ahead, Came::Unequal(Vec::new(), None));
        }
        known(world);
    }));
}
