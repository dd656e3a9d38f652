//! What a key of the target may be called at the source, through all rules. Invariant: every name that is returned is
//! one that [`KeyMap::place`] takes and gives this name.

use crate::transform::inverse::{Ambiguous, MOST_NAMES, MOST_TRIES};
use crate::transform::keymap::{KeyMap, Scratch, Step};

impl KeyMap {
    /// The pattern of the first rule that has no way back; none if every rule has one.
    pub fn without_way_back(&self) -> Option<&str> {
        self.steps().iter().find_map(|step| match step {
            Step::Rewrite { regex, reverse, .. } if reverse.is_none() => Some(regex.as_str()),
            _ => None,
        })
    }

    /// Whether no two names can get one, whichever they are.
    pub fn is_one_to_one(&self) -> bool {
        let mut steps = self.steps().iter();
        steps.all(|step| matches!(step, Step::AddPrefix(_)))
    }

    /// Every name of the source that is taken and gets the name `target`, in no order. Fails where there may be too many.
    pub fn sources(&self, target: &[u8], scratch: &mut Scratch) -> Result<Vec<Vec<u8>>, Ambiguous> {
        let Some(name) = target.strip_prefix(self.prefix()) else {
            return Ok(Vec::new());
        };
        let steps = self.steps();
        let mut tries = 0;
        let mut found = before_all(steps, vec![name.to_vec()], &mut tries)?;
        for (place, step) in steps.iter().enumerate() {
            if let Step::Rewrite { last: true, .. } = step {
                found.extend(before_all(&steps[..=place], vec![name.to_vec()], &mut tries)?);
            }
        }
        found.sort_unstable();
        found.dedup();
        found.retain(|source| {
            self.place(source, scratch)
                .is_some_and(|(placed, _)| placed == target)
        });
        Ok(found)
    }
}

/// What names may have been before these steps.
fn before_all(steps: &[Step], mut names: Vec<Vec<u8>>, tries: &mut usize) -> Result<Vec<Vec<u8>>, Ambiguous> {
    for step in steps.iter().rev() {
        let mut found = Vec::new();
        for name in names {
            match step {
                Step::AddPrefix(prefix) => found.extend(name.strip_prefix(&prefix[..]).map(<[u8]>::to_vec)),
                Step::StripPrefix(prefix) => {
                    found.push([prefix, &name[..]].concat());
                    found.push(name);
                }
                Step::Rewrite {
                    template, reverse, ..
                } => {
                    let reverse = reverse.as_ref().ok_or(Ambiguous)?;
                    reverse.before(template, &name, tries, &mut found);
                    found.push(name);
                }
            }
            if *tries > MOST_TRIES || found.len() > MOST_NAMES {
                return Err(Ambiguous);
            }
        }
        found.sort_unstable();
        found.dedup();
        names = found;
    }
    Ok(names)
}

#[cfg(test)]
mod tests;
