//! What a rewritten name is made of: text, and groups of the pattern that matched.
//!
//! Invariant: every group that a template names is one of its pattern's.

use regex::bytes::{CaptureLocations, Regex};

use crate::error::{Result, usage};

/// A template, taken apart.
#[derive(Debug)]
pub(crate) struct Template(Vec<Part>);

/// One part of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Text(Vec<u8>),
    Group(usize),
}

impl Template {
    /// Take a template apart; every group that it names has to be one of the pattern's.
    pub fn parse(template: &[u8], regex: &Regex) -> Result<Self> {
        let shown = || template.escape_ascii();
        let mut parts = Vec::new();
        let mut text = Vec::new();
        let mut rest = template;
        while let Some(dollar) = memchr::memchr(b'$', rest) {
            text.extend_from_slice(&rest[..dollar]);
            rest = &rest[dollar + 1..];
            if let Some(after) = rest.strip_prefix(b"$") {
                text.push(b'$');
                rest = after;
                continue;
            }
            let name = if let Some(after) = rest.strip_prefix(b"{") {
                let end = memchr::memchr(b'}', after)
                    .ok_or_else(|| usage(format!("the template {} has a '${{' without its '}}'", shown())))?;
                rest = &after[end + 1..];
                &after[..end]
            } else {
                let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
                let length = if digits > 0 {
                    digits
                } else {
                    rest.iter()
                        .take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_')
                        .count()
                };
                let (name, after) = rest.split_at(length);
                rest = after;
                name
            };
            let group = group_number(name, regex).ok_or_else(|| {
                usage(format!(
                    "the template {} names the group '{}', which the pattern {:?} does not have (write $$ for a dollar)",
                    shown(),
                    name.escape_ascii(),
                    regex.as_str()
                ))
            })?;
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text)));
            }
            parts.push(Part::Group(group));
        }
        text.extend_from_slice(rest);
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Self(parts))
    }

    pub fn parts(&self) -> &[Part] {
        &self.0
    }

    /// Append what it stands for where the pattern has matched `name` with these groups.
    pub fn expand(&self, name: &[u8], groups: &CaptureLocations, out: &mut Vec<u8>) {
        for part in &self.0 {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                // A group that takes no part in the match stands for nothing.
                Part::Group(group) => {
                    if let Some((start, end)) = groups.get(*group) {
                        out.extend_from_slice(&name[start..end]);
                    }
                }
            }
        }
    }
}

fn group_number(name: &[u8], regex: &Regex) -> Option<usize> {
    let name = std::str::from_utf8(name).ok()?;
    if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) {
        return name.parse().ok().filter(|&group| group < regex.captures_len());
    }
    regex
        .capture_names()
        .position(|group| group.is_some_and(|group| group == name))
}
