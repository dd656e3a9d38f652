//! Keys as text for people, as `slotferry/text.py` shows them too.
//!
//! Invariant: one line of printable characters, of bounded length, whatever bytes a key holds.

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
