//! The connection that the stream comes over, one after another, and what its commands mean for the set of touched keys.
//!
//! Invariant: nothing of the stream is waited for by its reader, and nothing of it is passed over silently: what names
//! no key is counted, told, or a doubt that holds the mark.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Follow, LOOK_EVERY, OnFlush, add};
use crate::error::ErrorKind;
use crate::event::{EventKind, Side};
use crate::job::engine::{Backoff, Engine};
use crate::ledger::books::PageId;
use crate::ledger::position::Position;
use crate::ledger::touched::Touch;
use crate::net::Access;
use crate::resp::Restore;
use crate::source::keys::Effect;
use crate::source::stream::{Attachment, Begun, Ended, Follower};

/// A connection that lasts so long was a good one, even if nothing came: sources ping every 10 s by default.
const STEADY: Duration = Duration::from_secs(60);

/// Listens to the stream for one job.
struct Listener {
    engine: Rc<Engine>,
    follow: Rc<Follow>,
}

impl Follower for Listener {
    fn begun(&mut self, begun: Begun, position: &Position) {
        let follow = &self.follow;
        let is_first = !follow.has_begun();
        let asked = is_first && follow.spec.from.is_some();
        {
            let mut stream = follow.stream.borrow_mut();
            stream.connected = true;
            stream.position = Some(position.clone());
        }
        let touch = self.touch(position.offset, position.database);
        let resynced = matches!(begun, Begun::Anew { .. }) && (!is_first || asked);
        if is_first {
            follow.go_on_with_elements(&self.engine);
        }
        let doubt = if resynced {
            follow.stream.borrow_mut().resyncs += 1;
            follow.touched.borrow_mut().rebase(touch);
            follow.leave_all_elements(touch);
            Some("the stream began anew")
        } else if is_first && follow.spec.in_doubt {
            Some("an earlier run left a comparison to be done")
        } else {
            None
        };
        if is_first {
            follow.owe_again(&self.engine);
            follow.touch_owed(&self.engine);
        }
        if doubt.is_some() {
            follow.touched.borrow_mut().doubt_all(touch);
        }
        // Who is told of it finds it so.
        follow.publish(&self.engine);
        self.tell_begun(begun, position, resynced);
        if let Some(why) = doubt {
            self.want_comparison(why);
        }
        self.engine.health.borrow_mut().source(None, Instant::now());
        self.engine.changed.notify_one();
    }

    #[inline]
    fn effect(&mut self, effect: Effect<'_>, offset: u64, selected: u32) -> bool {
        let own = self.engine.spec.source_access.database;
        let figures = &self.follow.figures;
        match effect {
            Effect::Key { database, name } => {
                if database == own {
                    let touch = self.touch(offset, selected);
                    self.follow.touch(&self.engine, name, touch);
                }
            }
            Effect::KeyInPart {
                database,
                name,
                container,
            } => {
                if database == own {
                    if self.follow.follows_elements(name, container) {
                        return true;
                    }
                    let touch = self.touch(offset, selected);
                    self.follow.touch(&self.engine, name, touch);
                }
            }
            Effect::Elements { name, elements, .. } => {
                let touch = self.touch(offset, selected);
                self.follow.touch_elements(&self.engine, name, elements, touch);
            }
            Effect::Ends { name, change, .. } => {
                let touch = self.touch(offset, selected);
                self.follow.touch_ends(&self.engine, name, change, touch);
            }
            Effect::Flushed(database) => {
                if database.is_none_or(|database| database == own) {
                    add(&figures.flushes, 1);
                    self.emptied(offset, selected, "emptied (FLUSHDB or FLUSHALL)");
                }
            }
            Effect::Swapped(one, other) => {
                if one != other && (one == own || other == own) {
                    add(&figures.flushes, 1);
                    self.emptied(offset, selected, "swapped with another (SWAPDB)");
                }
            }
            Effect::Functions => {
                add(&figures.functions, 1);
                let source = &self.engine.spec.source;
                let message = format!("source {source}: its functions were changed");
                Follow::tell(&self.engine, EventKind::FollowFunctions, message);
            }
            Effect::Published => add(&figures.published, 1),
            Effect::Script => add(&figures.scripts, 1),
            Effect::Unknown(name) => {
                let touch = self.touch(offset, selected);
                self.doubt(
                    touch,
                    &format!("what {} changed is not known", name.escape_ascii()),
                );
            }
        }
        false
    }

    fn received(&mut self, offset: u64, selected: u32, commands: u64, writes: u64) {
        if let Some(position) = &mut self.follow.stream.borrow_mut().position {
            (position.offset, position.database) = (offset, selected);
        }
        if self.follow.awaited.get() > 0 {
            self.follow.arrived.notify_waiters();
        }
        add(&self.follow.figures.commands, commands);
        add(&self.follow.figures.writes, writes);
        if self.follow.fence.get().is_some() {
            self.follow.woken.notify_one();
            self.follow.progressed.notify_one();
        }
    }
}

impl Listener {
    fn touch(&self, offset: u64, selected: u32) -> Touch {
        Touch {
            offset,
            selected,
            at: self.follow.now(),
        }
    }

    #[cold]
    fn tell_begun(&self, begun: Begun, position: &Position, resynced: bool) {
        let source = &self.engine.spec.source;
        let at = format!("at offset {} of {}", position.offset, position.id);
        let (kind, message) = match begun {
            Begun::Resumed => (
                EventKind::FollowAttached,
                format!("source {source}: its stream goes on {at}"),
            ),
            Begun::Anew { .. } if resynced => (
                EventKind::FollowResynced,
                format!(
                    "source {source}: what came since the last position is gone; its stream begins anew {at}"
                ),
            ),
            Begun::Anew { .. } => (
                EventKind::FollowAttached,
                format!("source {source}: followed from here on, {at}"),
            ),
        };
        Follow::tell(&self.engine, kind, message);
    }

    /// Only a comparison settles what happened: ask for one.
    #[cold]
    fn doubt(&self, touch: Touch, why: &str) {
        let is_new = !self.follow.touched.borrow().is_all_in_doubt();
        self.follow.touched.borrow_mut().doubt_all(touch);
        if is_new {
            self.follow.publish(&self.engine);
            self.want_comparison(why);
        }
    }

    fn want_comparison(&self, why: &str) {
        let message = format!(
            "source {}: {why}; both sides have to be compared",
            self.engine.spec.source
        );
        Follow::tell(&self.engine, EventKind::ComparisonWanted, message);
    }

    /// The source's database is another one all at once.
    #[cold]
    fn emptied(&self, offset: u64, selected: u32, what: &str) {
        let touch = self.touch(offset, selected);
        match self.follow.spec.on_flush {
            OnFlush::Compare => self.doubt(touch, &format!("its database was {what}")),
            OnFlush::Stop => {
                // The mark stays before it, so that the next run meets it again.
                self.follow.touched.borrow_mut().doubt_all(touch);
                self.follow.publish(&self.engine);
                let source = &self.engine.spec.source;
                self.engine.stop(
                    ErrorKind::SourceFlushed,
                    format!("the database of the source {source} was {what} while it was followed"),
                );
            }
        }
    }
}

impl Engine {
    /// Follow the source until the job ends.
    pub fn follow_source(self: &Rc<Self>) {
        let Some(follow) = &self.follow else {
            return;
        };
        let (engine, followed) = (Rc::clone(self), Rc::clone(follow));
        self.spawn(async move { stay_attached(&engine, &followed).await });
        self.spawn(Rc::clone(self).keep_elements(Rc::clone(follow)));
        self.spawn(Rc::clone(self).ask_for_siblings(Rc::clone(follow)));
        let (engine, followed) = (Rc::clone(self), Rc::clone(follow));
        self.spawn(async move {
            let mut look = tokio::time::interval(LOOK_EVERY);
            loop {
                tokio::select! {
                    _ = look.tick() => {}
                    () = followed.progressed.notified() => {}
                }
                followed.publish(&engine);
                if followed.touched.borrow().has_ready() {
                    followed.woken.notify_one();
                }
            }
        });
    }

    /// Delete a touched key that the source lacks.
    pub(crate) fn delete_followed(self: &Rc<Self>, page: PageId, slot: u16, gone: &Restore<'_>) {
        if let Some(follow) = &self.follow {
            follow.count_deletion();
        }
        self.route_deletion(page, slot, gone);
    }
}

/// One connection after another; a source that is away for too long ends the job.
async fn stay_attached(engine: &Rc<Engine>, follow: &Rc<Follow>) {
    let mut attachment = Attachment::new(follow.spec.from.clone());
    let mut listener = Listener {
        engine: Rc::clone(engine),
        follow: Rc::clone(follow),
    };
    let source = engine.spec.source.clone();
    let mut backoff = Backoff::new();
    let mut lost: Option<Instant> = None;
    let mut reached = None;
    loop {
        let access: Access = engine.login(Side::Source).current();
        let tried = Instant::now();
        let ended = attachment.follow(&source, &access, &mut listener).await;
        follow.stream.borrow_mut().connected = false;
        // Attaching alone is no progress: a stream that breaks at the same place each time has to come to an end.
        let offset = follow.received().map(|touch| touch.offset);
        if offset != reached || tried.elapsed() >= STEADY {
            (lost, backoff, reached) = (None, Backoff::new(), offset);
        }
        let (kind, reason) = match ended {
            Ended::Lost(reason) => (ErrorKind::SourceLost, reason),
            Ended::LoginDenied(reason) if engine.want_access(Side::Source, &source, &reason) => {
                (ErrorKind::SourceRefused, reason)
            }
            Ended::LoginDenied(reason) => {
                let message = format!("the source {source} rejects the connection: {reason}");
                return engine.stop(ErrorKind::SourceRefused, message);
            }
            Ended::Denied(reason) => {
                return engine.stop(
                    ErrorKind::SourceRefused,
                    format!(
                        "the source {source} does not let this user follow it: {reason} (it needs +psync +replconf +ping \
                         +command)"
                    ),
                );
            }
            Ended::Refused(reason) => {
                let message = format!("the source {source} can't be followed: {reason}");
                return engine.stop(ErrorKind::SourceRefused, message);
            }
        };
        let reason = format!("source {source}: its stream is cut off: {reason}");
        let now = Instant::now();
        let since = *lost.get_or_insert_with(|| {
            Follow::tell(engine, EventKind::FollowLost, reason.clone());
            now
        });
        if now - since >= engine.spec.retry_for {
            let waited: Duration = now - since;
            return engine.stop(kind, format!("{reason}, for {} s", waited.as_secs()));
        }
        tokio::time::sleep(backoff.step()).await;
    }
}
