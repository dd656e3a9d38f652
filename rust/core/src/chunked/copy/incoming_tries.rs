//! Steps of a value on its way, tried as often as it takes.
//!
//! Invariant: a step that may have been done is done again only where that changes nothing, which the step itself sees to.

use std::rc::Rc;
use std::time::Instant;

use crate::chunked::compare::{AsItComes, Broken, Compared, Sides};
use crate::chunked::copy::Cuts;
use crate::chunked::copy::incoming::{Ending, Incoming, Way, failed};
use crate::chunked::copy::one_key::{Attempt, Copy, Stop};
use crate::chunked::copy::source::Source;
use crate::chunked::copy::waiting::Returns;
use crate::error::ErrorKind;
use crate::job::engine::{Backoff, Engine};
use crate::net::client::{CallError, Client};
use crate::topology::NodeId;

impl Incoming {
    /// Keep a connection for what comes next.
    pub(super) fn keep(&mut self, node: NodeId, client: Client) {
        self.target = Some((node, client));
    }

    pub(super) async fn once<T>(
        &mut self,
        mut step: impl AsyncFnMut(&mut Copy<'_>) -> Attempt<T>,
    ) -> Attempt<T> {
        let (mut source, mut sides) = (Source::default(), Sides::default());
        let mut copy = Copy {
            engine: &self.engine,
            big: &self.big,
            source: &mut source,
            target: &mut self.target,
            sides: &mut sides,
            in_doubt: &mut self.in_doubt,
        };
        step(&mut copy).await
    }

    /// Try a step as often as it takes.
    pub(super) async fn persist<T>(
        &mut self,
        mut attempt: impl AsyncFnMut(&mut Copy<'_>) -> Attempt<T>,
    ) -> Result<T, Ending> {
        let engine = Rc::clone(&self.engine);
        let (mut refusals, mut refused) = (Cuts::new(0), 0);
        loop {
            if engine.draining.get() {
                return Err(Ending::Left);
            }
            let stop = match self.once(&mut attempt).await {
                Ok(done) => {
                    let mut health = engine.health.borrow_mut();
                    health.answered(self.big.slot, Instant::now());
                    return Ok(done);
                }
                Err(stop) => stop,
            };
            let (reason, full) = match stop {
                Stop::Drained => return Err(Ending::Left),
                Stop::Fatal(error) => {
                    engine.stop(error.kind, error.message);
                    return Err(Ending::Left);
                }
                Stop::Failed(kind, message, node) => {
                    self.sweep_now().await;
                    return Err(failed(kind, message, node.to_string()));
                }
                Stop::Changed(what) => {
                    self.sweep_now().await;
                    return Err(Ending::Late(what.to_owned()));
                }
                Stop::Source(reason)
                | Stop::Elsewhere(reason)
                | Stop::NotNow(reason)
                | Stop::Uncertain(reason) => {
                    return Err(Ending::Late(reason));
                }
                Stop::Moved | Stop::Gone | Stop::Ordinary | Stop::Late(_) => continue,
                Stop::Target { reason, full } => (reason, full),
                Stop::Cut(reason) => {
                    refused += 1;
                    if let Some(times) = refusals.lost_again(&engine, &self.big, refused, Instant::now()) {
                        self.sweep_now().await;
                        return Err(engine.refused_ending(&self.big, &reason, times));
                    }
                    (reason, false)
                }
            };
            match engine.slot_returns(self.big.slot, &reason, full).await {
                Returns::Perhaps => {}
                Returns::Late(reason) => return Err(Ending::Late(reason)),
                Returns::Never => return Err(Ending::Left),
            }
        }
    }

    async fn sweep_now(&mut self) {
        let _ = self.once(async |copy| copy.sweep_parts().await).await;
    }

    /// Do a step of the comparison as often as it takes; an ending where it has found what ends it.
    pub(super) async fn compare(
        &mut self,
        mut step: impl AsyncFnMut(&mut AsItComes, &Rc<Engine>) -> Result<Option<Compared>, Broken>,
    ) -> Result<(), Ending> {
        let engine = Rc::clone(&self.engine);
        let begun = Instant::now();
        let mut backoff = Backoff::new();
        loop {
            if engine.draining.get() {
                return Err(Ending::Left);
            }
            let Way::Compare(comparison) = &mut self.way else {
                return Ok(());
            };
            let owner = engine.owner(self.big.slot).map(|(_, address)| address);
            let node = owner
                .as_ref()
                .map_or_else(|| "no node".to_owned(), ToString::to_string);
            let compared = match owner {
                Some(address) => match comparison.connect(&engine, address).await {
                    Ok(()) => step(comparison, &engine).await,
                    Err(error) => Err(Broken::Target(error)),
                },
                None => Err(Broken::Again("not served by any node".to_owned())),
            };
            let reason = match compared {
                Ok(None) => return Ok(()),
                Ok(Some(compared)) => return Err(self.compared(compared, node)),
                Err(Broken::Failed(kind, message)) => return Err(failed(kind, message, node)),
                Err(Broken::Drained) => return Err(Ending::Left),
                Err(Broken::Elsewhere(reason)) => return Err(Ending::Late(reason)),
                Err(Broken::Again(reason)) => reason,
                Err(Broken::Target(error) | Broken::Source(error)) => {
                    comparison.disconnect();
                    match error {
                        CallError::Lost(text) => format!("{text} at {node}"),
                        CallError::Changed(text) | CallError::Refused(text) => {
                            engine.stop(
                                ErrorKind::TargetRefused,
                                format!("the target's node {node}: {text}"),
                            );
                            return Err(Ending::Left);
                        }
                    }
                }
            };
            if begun.elapsed() >= engine.spec.park_after.min(engine.spec.retry_for) {
                return Err(Ending::Late(reason));
            }
            engine.want_topology(reason, Some(self.big.slot));
            tokio::time::sleep(backoff.step()).await;
        }
    }
}
