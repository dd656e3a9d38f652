//! What a stream remembers besides its entries: IDs, groups, what is pending in them.
//!
//! Invariant: only what both sides tell is compared, since versions differ in what they tell.

use super::Parts;
use super::pair::Pair;
use crate::payload::Quoted;
use crate::resp::Tree;

/// Pending entries that are compared at once.
const MOST_PENDING: usize = 4096;

impl Pair<'_> {
    /// The first of these facts that differs.
    pub(super) async fn stream_facts(&mut self) -> Parts {
        const FACTS: [&[u8]; 3] = [b"last-generated-id", b"max-deleted-entry-id", b"entries-added"];
        const GROUP_FACTS: [&[u8]; 5] = [
            b"name",
            b"last-delivered-id",
            b"pending",
            b"consumers",
            b"entries-read",
        ];
        let (ours, theirs) = self.both(&[b"XINFO", b"STREAM"], &[]).await?;
        if let Some(difference) = other_fact(&ours, &theirs, &FACTS) {
            return Ok(Some(difference));
        }
        let (ours, theirs) = self.both(&[b"XINFO", b"GROUPS"], &[]).await?;
        let [mut ours, mut theirs] = [ours, theirs].map(|groups| groups.elements().to_vec());
        for groups in [&mut ours, &mut theirs] {
            groups.sort_by_key(|group| fact(group, b"name").map(show_tree));
        }
        if ours.len() != theirs.len() {
            return Ok(Some((
                format!("{} groups", ours.len()),
                format!("{} groups", theirs.len()),
            )));
        }
        for (ours, theirs) in ours.iter().zip(&theirs) {
            let name = fact(ours, b"name").and_then(Tree::text).unwrap_or_default();
            let of_group = |(ours, theirs): (String, String)| {
                let shown = |what: String| format!("group {}: {what}", Quoted(name));
                (shown(ours), shown(theirs))
            };
            let difference = match other_fact(ours, theirs, &GROUP_FACTS) {
                Some(difference) => Some(difference),
                None => self.pending_entries(name).await?,
            };
            if difference.is_some() {
                return Ok(difference.map(of_group));
            }
        }
        Ok(None)
    }

    async fn pending_entries(&mut self, group: &[u8]) -> Parts {
        let size = MOST_PENDING.to_string();
        let mut start = b"-".to_vec();
        loop {
            let arguments: [&[u8]; 4] = [group, &start, b"+", size.as_bytes()];
            let (ours, theirs) = self.both(&[b"XPENDING"], &arguments).await?;
            // ID, consumer and how often it was delivered; how long ago is another number at every look.
            let tell = |entry: &Tree| match entry.elements() {
                [id, consumer, _, times] => Some((id.clone(), consumer.clone(), times.clone())),
                _ => None,
            };
            let [mine, other] =
                [&ours, &theirs].map(|reply| reply.elements().iter().map(tell).collect::<Vec<_>>());
            if mine != other {
                let at = mine.iter().zip(&other).take_while(|(a, b)| a == b).count();
                let shown = |reply: &Tree| {
                    let entry = reply.elements().get(at).map(show_tree);
                    format!("pending {}", entry.as_deref().unwrap_or("no more"))
                };
                return Ok(Some((shown(&ours), shown(&theirs))));
            }
            match ours
                .elements()
                .last()
                .and_then(|entry| entry.elements().first()?.text())
            {
                Some(last) if mine.len() == MOST_PENDING => start = [b"(", last].concat(),
                _ => return Ok(None),
            }
        }
    }
}

/// A reply in short.
fn show_tree(tree: &Tree) -> String {
    match tree {
        Tree::Text(text) => Quoted(text).to_string(),
        Tree::Integer(number) => number.to_string(),
        Tree::Array(elements) => {
            let shown: Vec<String> = elements.iter().take(4).map(show_tree).collect();
            shown.join(" ")
        }
        Tree::Nil | Tree::Error(_) => "nothing".to_owned(),
    }
}

/// The value of a name in a reply that lists names and values in turn.
fn fact<'a>(reply: &'a Tree, name: &[u8]) -> Option<&'a Tree> {
    let at = reply
        .elements()
        .iter()
        .step_by(2)
        .position(|known| known.text() == Some(name))?;
    reply.elements().get(2 * at + 1)
}

/// The first of the facts that both sides tell and that is not the same.
fn other_fact(ours: &Tree, theirs: &Tree, names: &[&[u8]]) -> Option<(String, String)> {
    names.iter().find_map(|name| {
        let (ours, theirs) = (fact(ours, name)?, fact(theirs, name)?);
        let shown = |value| format!("{} {}", String::from_utf8_lossy(name), show_tree(value));
        (ours != theirs).then(|| (shown(ours), shown(theirs)))
    })
}
