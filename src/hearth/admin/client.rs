//! The side of the command.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
};

use super::{Answer, LINE_BYTES_MAX, Request, socket};
use crate::Failure;

/// Asks the running server. `None`: no server listens at this socket.
pub(crate) fn ask(path: &Path, request: &Request) -> Result<Option<Answer>, Failure> {
    let stream = match socket::reachable(path, UnixStream::connect) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(Failure::new(format!("{}: {error}", path.display()))),
    };
    let failed = |error: &dyn std::fmt::Display| Failure::new(format!("the running server does not answer: {error}"));
    let mut line = serde_json::to_string(request).map_err(|error| failed(&error))?;
    line.push('\n');
    (&stream).write_all(line.as_bytes()).map_err(|error| failed(&error))?;
    let mut answer = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut answer).map_err(|error| failed(&error))?;
    serde_json::from_str(&answer).map(Some).map_err(|error| failed(&error))
}
