//! Keys and servers' errors as text for people, keys as `slotferry/text.py` shows them too.
//!
//! Invariant: one line of printable characters, of bounded length, whatever bytes a key or an error holds.

use std::fmt::Write;

/// Longer keys are cut.
const LONGEST: usize = 80;

/// A key for a message: UTF-8 as text, all else escaped, and shortened where it is long.
pub(crate) fn shown(key: &[u8]) -> String {
    match key {
        b"" => "\"\"".to_owned(),
        b"\"\"" => r"\x22\x22".to_owned(),
        _ if key.len() > LONGEST => format!("{}… ({} bytes)", escaped(&key[..LONGEST]), key.len()),
        _ => escaped(key),
    }
}

/// So much of a server's error is shown: enough for any that a server words itself.
const MOST_SAID: usize = 300;

/// What a server says in an error, as it may be shown: one line of printable characters, of bounded length.
pub fn said(error: &[u8]) -> String {
    let text = String::from_utf8_lossy(&error[..error.len().min(MOST_SAID)]);
    let mut text: String = text
        .chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect();
    if error.len() > MOST_SAID {
        let _ = write!(text, "... ({} bytes)", error.len());
    }
    text
}

fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '\t' => text.push_str("\\t"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                ' '..='~' => text.push(character),
                // What `Debug` writes as it is can be printed.
                _ if !character.is_ascii() && character.escape_debug().count() == 1 => text.push(character),
                _ => hex(&mut text, character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        hex(&mut text, chunk.invalid());
    }
    text
}

fn hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(text, "\\x{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_shown_on_one_line_and_in_part() {
        assert_eq!(said(b"ERR no\r\x1b[2J\xff"), "ERR no  [2J\u{fffd}");
        let long = said(&vec![b'x'; 60_000]);
        assert!(long.len() < 400 && long.ends_with("(60000 bytes)"), "{long}");
    }

    #[test]
    fn keys_are_shown_as_lists_of_them_are() {
        for (key, text) in [
            (b"plain".as_slice(), "plain"),
            (b"with 'quotes' \"too\"", "with 'quotes' \"too\""),
            ("ümlaut".as_bytes(), "ümlaut"),
            (b"bin\xff\x00\n\t\r\\", r"bin\xff\x00\n\t\r\\"),
            ("turned \u{202e}".as_bytes(), r"turned \xe2\x80\xae"),
            (b"half \xc3", r"half \xc3"),
            (b"", "\"\""),
            (b"\"\"", r"\x22\x22"),
        ] {
            assert_eq!(shown(key), text);
        }
        let long = shown(&[b'k'; 1000]);
        assert_eq!(long, format!("{}… (1000 bytes)", "k".repeat(80)));
    }
}
