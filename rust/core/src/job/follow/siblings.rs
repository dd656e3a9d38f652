//! Touched keys that may share their name at the target with other keys of the source, as rules may have it.
//!
//! Invariant: of keys that get one name one is in hand at a time, and it is written, or deleted at the target, only after
//! the source was asked for the others: where it has one of them too, neither overwrites the other, and that is recorded.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

use super::{Follow, LOOK_EVERY};
use crate::error::ErrorKind;
use crate::event::{Event, EventKind, Side};
use crate::job::engine::Engine;
use crate::ledger::touched::{KeyId, Taken};
use crate::ledger::unsettled::{Failure, FailureKind};
use crate::net::client::{CallError, Client, Commands};
use crate::resp::Tree;
use crate::slot::key_slot;
use crate::text::said;
use crate::text::shown;

/// So many pages may wait to be read.
const MOST_ASKED: usize = 8;

/// A source that did not answer is asked again after this time.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// The keys that were taken to be asked for, and what came of it.
#[derive(Debug, Default)]
pub(super) struct Siblings {
    /// Whether the rules may give two keys one name; else none of this is used.
    pub is_on: bool,
    /// The keys in hand, with the hashes of their names at the target.
    in_hand: RefCell<HashMap<KeyId, u64>>,
    names: RefCell<HashSet<u64>>,
    /// Pages of keys that have their names to themselves.
    asked: RefCell<VecDeque<Vec<Taken>>>,
    /// Wakes who asks.
    woken: Notify,
}

impl Siblings {
    pub fn new(is_on: bool) -> Self {
        Self {
            is_on,
            ..Self::default()
        }
    }

    /// Take the next page that may be read; whoever asks for more is woken where there is none.
    pub fn take(&self) -> Vec<Vec<Taken>> {
        let page = self.asked.borrow_mut().pop_front();
        self.woken.notify_one();
        page.into_iter().collect()
    }

    /// A key is in hand no longer.
    pub fn let_go(&self, id: KeyId) {
        if let Some(hash) = self.in_hand.borrow_mut().remove(&id) {
            self.names.borrow_mut().remove(&hash);
        }
    }
}

/// A key, and what was found of it at the source.
struct Asked {
    taken: Taken,
    target: Vec<u8>,
    /// The other keys that get its name; none: they can't be told.
    others: Option<Vec<Vec<u8>>>,
    is_there: bool,
    others_there: Vec<Vec<u8>>,
}

fn hash_of(name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// The name that a key gets at the target.
fn name_of(engine: &Engine, key: &[u8]) -> Vec<u8> {
    engine.with_naming(|naming| match naming {
        None => key.to_vec(),
        Some((map, scratch)) => map.rename(key, scratch).to_vec(),
    })
}

impl Follow {
    /// Whether a key of the scan gets a name that a touched key in hand gets as well: then it is a touched key itself.
    pub fn diverts(&self, engine: &Engine, key: &[u8]) -> bool {
        if !self.siblings.is_on || self.siblings.names.borrow().is_empty() {
            return false;
        }
        let hash = hash_of(&name_of(engine, key));
        if !self.siblings.names.borrow().contains(&hash) {
            return false;
        }
        let in_hand = self.siblings.in_hand.borrow();
        let Some((&id, _)) = in_hand.iter().find(|(_, of)| **of == hash) else {
            return false;
        };
        let mut touched = self.touched.borrow_mut();
        // As old as that one: the cursor passes this key, and the mark must not.
        if let (Some(touch), Some(slot)) = (touched.touch_of(id), Self::slot(engine, key)) {
            touched.touch_before(key, slot, touch);
        }
        true
    }

    /// Take touched keys whose names at the target are free, to ask for the others that get them.
    fn take_to_ask(&self, engine: &Engine) -> Vec<Asked> {
        let siblings = &self.siblings;
        if self.over.get() || engine.draining.get() || siblings.asked.borrow().len() >= MOST_ASKED {
            return Vec::new();
        }
        let round = self.parts.borrow().in_round().map(|key| name_of(engine, &key));
        let (mut names, mut targets) = (siblings.names.borrow_mut(), Vec::new());
        let taken = {
            let scanned = self.scanned.borrow();
            self.take_touched(|key| {
                let target = name_of(engine, key);
                let is_free = scanned.is_free(&target)
                    && round.as_ref() != Some(&target)
                    && names.insert(hash_of(&target));
                if is_free {
                    targets.push(target);
                }
                is_free
            })
        };
        let mut in_hand = siblings.in_hand.borrow_mut();
        let each = taken.into_iter().zip(targets);
        each.map(|(taken, target)| {
            in_hand.insert(taken.id, hash_of(&target));
            let others = engine.with_naming(|naming| {
                let (map, scratch) = naming?;
                let mut others = map.sources(&target, scratch).ok()?;
                others.retain(|other| **other != *taken.key);
                Some(others)
            });
            Asked {
                taken,
                target,
                others,
                is_there: false,
                others_there: Vec::new(),
            }
        })
        .collect()
    }

    /// The source has answered: keys that have their names to themselves may be read.
    fn sort_out(&self, engine: &Engine, asked: Vec<Asked>) {
        let (mut alone, mut shared) = (Vec::new(), Vec::new());
        for each in asked {
            if each.others.is_none() || each.is_there && !each.others_there.is_empty() {
                shared.push(each);
            } else if each.others_there.is_empty() {
                alone.push(each.taken);
            } else {
                self.hand_over(&each);
            }
        }
        self.touched.borrow_mut().release();
        self.siblings.asked.borrow_mut().extend(self.in_pages(alone));
        for each in shared {
            self.refuse_shared(engine, each);
        }
        self.woken.notify_one();
    }

    /// The source lacks a key, and has another one that gets its name: that one is copied.
    fn hand_over(&self, asked: &Asked) {
        let slot = key_slot(&asked.target);
        for other in &asked.others_there {
            // It is copied whole: no round may go beside that.
            self.leave_elements(other, self.received());
        }
        let others = asked.others_there.iter().map(|other| (other.as_slice(), slot));
        let (others, received): (Vec<_>, _) = (others.collect(), self.received());
        let mut touched = self.touched.borrow_mut();
        touched.hand_over(asked.taken.id, &others, received);
        drop(touched);
        self.siblings.let_go(asked.taken.id);
        if let Some(key) = self.owed.borrow_mut().take(&*asked.taken.key) {
            self.resolved.borrow_mut().push(key);
        }
    }

    /// Two keys of the source get one name: the one that was touched is not written, and that is recorded.
    fn refuse_shared(&self, engine: &Engine, asked: Asked) {
        let key = asked.taken.key.to_vec();
        let name = shown(&asked.target);
        let message = match asked.others_there.first() {
            Some(other) => format!(
                "the source has {} too, and both get the name {name} at the target, which is left as it is",
                shown(other)
            ),
            None => format!("too many keys may get the name {name} at the target, which is left as it is"),
        };
        let is_new = !self.owed.borrow().contains(&key);
        let page = engine.shared.ledger().open_followed(1);
        self.open(page, vec![asked.taken]);
        let failure = Failure {
            key: key.clone(),
            slot: key_slot(&asked.target),
            kind: FailureKind::Collision,
            message: message.clone(),
            sides: None,
            node: engine.spec.source.to_string(),
        };
        engine.fail(page, failure);
        // Until it is copied, or gone: what was resolved before is so no longer.
        self.resolved.borrow_mut().retain(|resolved| *resolved != key);
        if is_new {
            let told = format!("{}: {message}", shown(&key));
            engine.shared.tell(Event::new(EventKind::NamesShared, told));
        }
        self.owed.borrow_mut().insert(key);
    }

    /// The source did not answer: keys are taken again.
    fn take_back(&self, asked: Vec<Asked>) {
        let mut touched = self.touched.borrow_mut();
        for each in asked {
            touched.returned(each.taken.id);
            self.siblings.let_go(each.taken.id);
        }
        touched.release();
    }
}

impl Engine {
    /// Ask the source for keys that may share their names, until the job ends.
    pub(crate) async fn ask_for_siblings(self: Rc<Self>, follow: Rc<Follow>) {
        if !follow.siblings.is_on {
            return;
        }
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut source = None;
        loop {
            tokio::select! {
                _ = look.tick() => {}
                () = follow.siblings.woken.notified() => {}
            }
            loop {
                let mut asked = follow.take_to_ask(&self);
                if asked.is_empty() {
                    break;
                }
                if self.ask(&mut source, &mut asked).await.is_ok() {
                    follow.sort_out(&self, asked);
                    continue;
                }
                // Who reads keys meets it as well, and ends the job if it lasts.
                source = None;
                follow.take_back(asked);
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }

    /// Ask which of these keys, and of those that get their names, the source has.
    async fn ask(&self, source: &mut Option<Client>, asked: &mut [Asked]) -> Result<(), CallError> {
        let mut commands = Commands::default();
        for each in &*asked {
            let Some(others) = each.others.as_ref().filter(|others| !others.is_empty()) else {
                continue;
            };
            for key in std::iter::once(&*each.taken.key).chain(others.iter().map(Vec::as_slice)) {
                commands.push(&[b"EXISTS", key]);
            }
        }
        if commands.count() == 0 {
            return Ok(());
        }
        let spec = &self.spec;
        let client = match source {
            Some(client) => client,
            None => source.insert(
                self.converse(Side::Source, &spec.source, Some(&spec.source_run_id))
                    .await?,
            ),
        };
        let mut replies = client.call(commands).await?.into_iter();
        for each in asked {
            let Some(others) = each.others.as_ref().filter(|others| !others.is_empty()) else {
                continue;
            };
            each.is_there = self.is_there(replies.next())?;
            for other in others {
                if self.is_there(replies.next())? {
                    each.others_there.push(other.clone());
                }
            }
        }
        Ok(())
    }

    fn is_there(&self, reply: Option<Tree>) -> Result<bool, CallError> {
        let text = match reply {
            Some(Tree::Integer(count)) => return Ok(count > 0),
            Some(Tree::Error(text)) => said(&text),
            _ => "no number".to_owned(),
        };
        if text.starts_with("NOPERM") {
            let source = &self.spec.source;
            self.stop(
                ErrorKind::SourceRefused,
                format!(
                    "the source {source} answered {text} to EXISTS, by which keys are looked for that would get one name"
                ),
            );
        }
        Err(CallError::Lost(text))
    }
}
