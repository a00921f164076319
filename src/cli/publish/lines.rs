//! The lines of the files, read by a thread of its own: standard input can block for ever, and Ctrl-C must not wait for it.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::mpsc;

use crate::shown::safe;

/// Lines that may be read ahead.
const LINES_AHEAD_MAX: usize = 256;
/// Longest line; more than any callback may have. Of a longer one nothing is kept.
const LINE_BYTES_MAX: usize = 1_048_576;

/// A line that is not empty.
pub(super) struct Line {
    pub(super) file: Arc<str>,
    pub(super) number: u64,
    /// With its end.
    pub(super) bytes_read: usize,
    /// Without blanks around it; words where it is too long.
    pub(super) body: Result<Vec<u8>, String>,
}

/// Every line of these files, in order; `-` is standard input. Ends with the words for a file that cannot be read.
pub(super) fn read(files: Vec<PathBuf>) -> mpsc::Receiver<Result<Line, String>> {
    let (send, receive) = mpsc::channel(LINES_AHEAD_MAX);
    // Ends when all is read, or when nobody listens any more; else with the process.
    std::thread::spawn(move || {
        for path in &files {
            if let Err(problem) = read_file(path, &send) {
                drop(send.blocking_send(Err(problem)));
                return;
            }
        }
    });
    receive
}

fn read_file(path: &Path, send: &mpsc::Sender<Result<Line, String>>) -> Result<(), String> {
    let file: Arc<str> = path.display().to_string().into();
    let unreadable = |error: std::io::Error| format!("cannot read {}: {error}", safe(&file));
    let mut reader: Box<dyn BufRead> = if &*file == "-" {
        Box::new(BufReader::new(std::io::stdin()))
    } else {
        Box::new(BufReader::new(File::open(path).map_err(unreadable)?))
    };
    for number in 1.. {
        let mut bytes = Vec::new();
        let mut bytes_read = read_part(&mut reader, &mut bytes).map_err(unreadable)?;
        if bytes_read == 0 {
            break;
        }
        let is_too_long = bytes.len() > LINE_BYTES_MAX;
        while is_too_long && bytes.last() != Some(&b'\n') {
            bytes.clear();
            match read_part(&mut reader, &mut bytes).map_err(unreadable)? {
                0 => break,
                more => bytes_read += more,
            }
        }
        let body = if is_too_long {
            Err(format!("the line is longer than {LINE_BYTES_MAX} bytes"))
        } else {
            Ok(bytes.trim_ascii().to_vec())
        };
        if body.as_ref().is_ok_and(Vec::is_empty) {
            continue;
        }
        let line = Line { file: Arc::clone(&file), number, bytes_read, body };
        if send.blocking_send(Ok(line)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// To the end of the line, or one byte more than a line may have.
fn read_part(reader: &mut impl BufRead, bytes: &mut Vec<u8>) -> std::io::Result<usize> {
    reader.take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', bytes)
}
