//! Patterns and globs of names, compiled.
//!
//! Invariant: matching takes linear time, whatever the pattern; a glob means what it means to the servers.

use regex::bytes::{Regex, RegexBuilder};

use crate::error::{Result, usage};

/// Memory for one compiled pattern: what is larger is refused when it is compiled.
const LARGEST_PATTERN: usize = 10 << 20;

/// Compile a pattern; fails with `Usage` that names it.
pub(crate) fn compile(pattern: &str) -> Result<Regex> {
    RegexBuilder::new(pattern)
        .unicode(false)
        .dot_matches_new_line(true)
        .size_limit(LARGEST_PATTERN)
        .build()
        .map_err(|error| {
            usage(format!(
                "the pattern {pattern:?} does not compile: {}",
                one_line(&error)
            ))
        })
}

/// The error's last line: the ones before draw the pattern.
fn one_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let line = text.lines().last().unwrap_or_default().trim();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// One expression that matches what any of the globs or patterns does; `None` without any.
pub(crate) fn any_of(globs: &[Vec<u8>], patterns: &[String]) -> Result<Option<Regex>> {
    // Each by itself first, so that an error names the one at fault and parentheses can't pair across.
    for pattern in patterns {
        compile(pattern)?;
    }
    let all: Vec<String> = globs
        .iter()
        .map(|glob| glob_pattern(glob))
        .chain(patterns.iter().map(|pattern| format!("(?:{pattern})")))
        .collect();
    if all.is_empty() {
        return Ok(None);
    }
    compile(&all.join("|")).map(Some)
}

/// A glob as the servers read it (`stringmatchlen` in their `util.c`), as a pattern: `*` any bytes, `?` one,
/// `[a-z]` and `[^a-z]` sets, `\` takes the next byte as it is.
fn glob_pattern(glob: &[u8]) -> String {
    use std::fmt::Write as _;
    let literal = |out: &mut String, byte: u8| {
        let _ = write!(out, "\\x{byte:02X}");
    };
    let mut out = String::from(r"\A");
    let mut rest = glob;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'*' => out.push_str(".*"),
            b'?' => out.push('.'),
            b'\\' if !rest.is_empty() => {
                literal(&mut out, rest[0]);
                rest = &rest[1..];
            }
            b'[' => {
                let negated = rest.first() == Some(&b'^');
                if negated {
                    rest = &rest[1..];
                }
                let mut set = String::new();
                // A set without an end takes all the rest.
                loop {
                    match rest {
                        [] => break,
                        [b']', after @ ..] => {
                            rest = after;
                            break;
                        }
                        [b'\\', byte, after @ ..] => {
                            literal(&mut set, *byte);
                            rest = after;
                        }
                        [first, b'-', last, after @ ..] => {
                            literal(&mut set, *first.min(last));
                            set.push('-');
                            literal(&mut set, *first.max(last));
                            rest = after;
                        }
                        [byte, after @ ..] => {
                            literal(&mut set, *byte);
                            rest = after;
                        }
                    }
                }
                match (negated, set.is_empty()) {
                    (false, true) => out.push_str(r"[^\x00-\xFF]"),
                    (true, true) => out.push('.'),
                    (false, false) => {
                        let _ = write!(out, "[{set}]");
                    }
                    (true, false) => {
                        let _ = write!(out, "[^{set}]");
                    }
                }
            }
            other => literal(&mut out, other),
        }
    }
    out.push_str(r"\z");
    out
}
