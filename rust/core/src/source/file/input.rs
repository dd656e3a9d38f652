//! The bytes of a file: opened, decompressed, handed over in pieces by a thread of their own.
//!
//! Invariant: a piece or two are ahead of who takes them, no more; a file that has changed since it was looked at is not
//! read on, and none that changes meanwhile is called whole.

use std::fs::{File, Metadata};
use std::io::{self, Cursor, Read};
use std::path::Path;
use std::time::UNIX_EPOCH;

use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::error::{Error, ErrorKind, Result};
use crate::rdb::file::{FileReader, Item, Step};
use crate::source::file::{FileSpec, Input};

/// Bytes of a piece.
const PIECE: usize = 256 << 10;

/// Pieces that wait to be taken.
const AHEAD: usize = 2;

/// What is looked at of a file's beginning: what stands before its first key takes no more, but for large libraries.
const MOST_LOOKED_AT: usize = 64 << 20;

/// Start to read the file; what went wrong comes in the place of a piece, and nothing after it.
pub(super) fn open(spec: &FileSpec) -> Receiver<Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let spec = spec.clone();
    let failed = sender.clone();
    let thread = std::thread::Builder::new()
        .name("slotferry-file".to_owned())
        .spawn(move || {
            if let Err(error) = hand_over(&spec, &sender) {
                // Who does not take it has ended.
                let _ = sender.blocking_send(Err(error));
            }
        });
    if let Err(error) = thread {
        let error = Error::new(ErrorKind::Internal, format!("no thread to read a file: {error}"));
        let _ = failed.try_send(Err(error));
    }
    receiver
}

fn hand_over(spec: &FileSpec, sender: &Sender<Result<Vec<u8>>>) -> Result<()> {
    let refused = |error: io::Error| {
        let message = format!("{} can't be read: {}", spec.name, plain(&error));
        Error::new(ErrorKind::SourceRefused, message)
    };
    let Input::Path(path) = &spec.input else {
        return pass_on(
            &mut decompressed(io::stdin().lock()).map_err(refused)?,
            sender,
            refused,
        );
    };
    let file = File::open(path).map_err(refused)?;
    let unchanged = |file: &File| -> Result<()> {
        let found = stamp(&file.metadata().map_err(refused)?);
        if spec.stamp.is_none_or(|known| known == found) {
            return Ok(());
        }
        let message = format!(
            "{} has changed since the run began: it is not read any further",
            spec.name
        );
        Err(Error::new(ErrorKind::SourceRefused, message))
    };
    unchanged(&file)?;
    let read = pass_on(&mut decompressed(&file).map_err(refused)?, sender, refused);
    // A file that was written to meanwhile may look damaged for that alone.
    unchanged(&file)?;
    read
}

fn pass_on(
    input: &mut dyn Read,
    sender: &Sender<Result<Vec<u8>>>,
    refused: impl Fn(io::Error) -> Error,
) -> Result<()> {
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        let count = (&mut *input).take(PIECE as u64).read_to_end(&mut piece);
        let is_over = piece.is_empty();
        if !is_over && sender.blocking_send(Ok(piece)).is_err() {
            return Ok(());
        }
        count.map_err(&refused)?;
        if is_over {
            return Ok(());
        }
    }
}

/// The file's bytes, decompressed where its first bytes say that it is compressed.
fn decompressed<'a>(mut file: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = Vec::new();
    file.by_ref().take(4).read_to_end(&mut magic)?;
    let is_gzip = magic.starts_with(&[0x1f, 0x8b]);
    let is_zstd = magic == [0x28, 0xb5, 0x2f, 0xfd];
    let whole = Cursor::new(magic).chain(file);
    Ok(if is_gzip {
        Box::new(flate2::read::MultiGzDecoder::new(io::BufReader::with_capacity(
            PIECE, whole,
        )))
    } else if is_zstd {
        Box::new(zstd::stream::read::Decoder::new(whole)?)
    } else {
        Box::new(whole)
    })
}

/// Size and time of the last change.
fn stamp(metadata: &Metadata) -> (u64, i64) {
    let changed = metadata
        .modified()
        .ok()
        .map_or(0, |time| match time.duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_nanos() as i64,
            Err(before) => -(before.duration().as_nanos() as i64),
        });
    (metadata.len(), changed)
}

fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// What a file says before its first key.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Beginning {
    /// Its RDB version.
    pub version: u16,
    /// Fields about the server that wrote it, in order.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// The code of its libraries of functions.
    pub libraries: Vec<Vec<u8>>,
    /// The first database that has keys, and how many it has, as far as the file tells.
    pub first_database: Option<(u64, Option<u64>)>,
    /// Size and time of the last change.
    pub stamp: (u64, i64),
}

/// Look at a file's beginning. Fails with `SourceRefused` where it is no RDB that can be read.
pub fn look(path: &Path, name: &str) -> Result<Beginning> {
    let refused = |text: String| {
        Error::new(
            ErrorKind::SourceRefused,
            format!("the file {name} can't be read: {text}"),
        )
    };
    let metadata = std::fs::metadata(path).map_err(|error| refused(plain(&error)))?;
    if metadata.is_dir() {
        return Err(refused("it is a directory; name the RDB file in it".to_owned()));
    }
    // It is opened more than once, which a pipe does not bear.
    if !metadata.is_file() {
        return Err(refused(
            "it is a pipe or a device; give - and send it to stdin".to_owned(),
        ));
    }
    let mut file = File::open(path).map_err(|error| refused(plain(&error)))?;
    let mut beginning = Beginning {
        stamp: stamp(&metadata),
        ..Beginning::default()
    };
    let mut input = decompressed(&mut file).map_err(|error| refused(plain(&error)))?;
    let mut reader = FileReader::new(MOST_LOOKED_AT);
    let mut data = Vec::new();
    loop {
        let before = data.len();
        input
            .by_ref()
            .take(PIECE as u64)
            .read_to_end(&mut data)
            .map_err(|error| refused(plain(&error)))?;
        let mut at = 0;
        loop {
            match reader
                .next(&data[at..])
                .map_err(|error| refused(error.to_string()))?
            {
                Step::More(0) => break,
                Step::More(used) => at += used,
                Step::Item(used, item) => {
                    at += used;
                    if !beginning.take(item) {
                        return Ok(beginning);
                    }
                }
            }
        }
        if data.len() == before {
            let left = data.len() - at;
            reader.finish(left).map_err(|error| refused(error.to_string()))?;
            return Ok(beginning);
        }
        data.drain(..at);
        if reader.offset() > MOST_LOOKED_AT as u64 {
            return Err(refused(format!(
                "more than {} MB stand before its first key",
                MOST_LOOKED_AT >> 20
            )));
        }
        // A first key is not waited for: what is told stands before it.
        if data.len() > PIECE && beginning.first_database.is_some() || data.len() > MOST_LOOKED_AT {
            return Ok(beginning);
        }
    }
}

impl Beginning {
    /// Take note of an item; false with the first that is a key, or none any more.
    fn take(&mut self, item: Item<'_>) -> bool {
        match item {
            Item::Header(version) => self.version = version,
            Item::Field(name, value) => self.fields.push((name.into_owned(), value.into_owned())),
            Item::Library(code) => self.libraries.push(code.into_owned()),
            Item::Database(number) => self.first_database = Some((number, None)),
            Item::Size(keys) => {
                if let Some((_, told)) = &mut self.first_database {
                    *told = Some(keys);
                }
            }
            Item::Hint | Item::ModuleData => {}
            Item::Key(_) | Item::Large(_) | Item::Part(_) | Item::LargeEnd(_) | Item::End(_) => return false,
        }
        true
    }
}
