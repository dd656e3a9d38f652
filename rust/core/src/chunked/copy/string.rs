//! A large string: one SET that is passed on as it is read.
//!
//! Invariant: the command is whole only after the source has said that nothing changed; before, it never runs.

use std::time::Instant;

use crate::chunked::copy::one_key::{Attempt, Copy, Done, Stop};
use crate::chunked::copy::source::Look;
use crate::chunked::parts::{Kind, Place};
use crate::job::engine::OnConflict;
use crate::ledger::progress::Outcome;
use crate::net::Address;
use crate::net::client::{Commands, NotTaken};
use crate::resp::Tree;
use crate::resp::encode;

impl Copy<'_> {
    /// A string goes over in one SET, whose value is passed on as it is read: the server takes it in as it comes
    /// and keeps it without copying it, where APPEND would move what is there again and again. The last part is
    /// held back until the source says that nothing has changed; without it, the command never runs.
    pub(crate) async fn copy_string(&mut self, look: &Look) -> Attempt<Done> {
        let name = self.big.target.clone();
        let replace = self.engine.spec.on_conflict == OnConflict::Replace;
        let at = look.expires_at.to_string();
        let mut options: Vec<&[u8]> = Vec::new();
        if !replace {
            options.push(b"NX");
        }
        if look.expires_at > 0 {
            options.extend([b"PXAT".as_slice(), at.as_bytes()]);
        }
        let mut head = format!("*{}\r\n$3\r\nSET\r\n", 3 + options.len()).into_bytes();
        encode::bulk(&mut head, &name);
        head.extend_from_slice(format!("${}\r\n", look.length).as_bytes());
        let (address, _) = self.connect_target().await?;
        // Out of reach of the next attempt: half a command is on it.
        let Some((node, mut client)) = self.target.take() else {
            return Err(Stop::Moved);
        };
        if let Err(not_taken) = client.push(&head).await {
            return Err(self.not_taken(not_taken, &address));
        }
        let mut progress = Self::afresh(look);
        let mut tail = loop {
            self.pause().await?;
            let begun = Instant::now();
            let chunk = self.read(&progress, 1).await?;
            progress.place = chunk.next;
            let piece = chunk.elements.into_iter().next().unwrap_or_default();
            if chunk.is_last {
                break piece;
            }
            self.engine.budget.hold(piece.len());
            let pushed = client.push(&piece).await;
            self.engine.budget.free(piece.len());
            if let Err(not_taken) = pushed {
                return Err(self.not_taken(not_taken, &address));
            }
            self.rest(begun).await;
        };
        let (expires_at, now, length) = self.confirm(Kind::String).await?;
        if expires_at > 0 && expires_at <= now {
            return Ok(Done::Settled(Outcome::Expired, 0));
        }
        if progress.place != Place::Offset(look.length) || length != Some(look.length.cast_signed()) {
            return Err(Stop::Changed("the source's key changed"));
        }
        tail.extend_from_slice(b"\r\n");
        for option in options {
            encode::bulk(&mut tail, option);
        }
        *self.in_doubt = true;
        let reply = client.call(Commands::encoded(tail, 1)).await;
        let reply = reply
            .map_err(|error| self.not_taken(NotTaken::Lost(error.into_text()), &address))?
            .pop();
        *self.in_doubt = false;
        *self.target = Some((node, client));
        match reply {
            Some(Tree::Text(_)) => {
                self.wait_for_replicas().await?;
                Ok(Done::Settled(Outcome::Migrated, look.length))
            }
            Some(Tree::Error(text)) => Err(self.target_error(&text, &address)),
            // Somebody wrote it meanwhile: it is met as any key that is there.
            _ => Err(Stop::Changed("the target's key appeared")),
        }
    }

    /// The target has not taken all of the command: a string beyond what it allows is refused early.
    pub(super) fn not_taken(&mut self, not_taken: NotTaken, address: &Address) -> Stop {
        match not_taken {
            NotTaken::Refused(text) => self.target_error(&text, address),
            NotTaken::Lost(reason) => Stop::Cut(format!("{reason} at {address}")),
        }
    }
}
