//! The side of the server.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
};

use super::{Answer, LINE_BYTES_MAX, Operator};

/// A command writes its one line at once.
const READ_TIME_MAX: Duration = Duration::from_secs(10);

/// After an error of `accept`, mostly no more descriptors, the next attempt waits so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The system's bound on a socket's path, with its final zero.
const PATH_BYTES_MAX: usize = 107;

/// Serves commands until the process ends. A socket that cannot be made is a warning: the server works without.
pub(crate) fn listen(path: &Path, operator: Arc<Operator>) {
    let (listener, owner) = match bind(path) {
        Ok(bound) => bound,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "commands cannot reach this server while it runs");
            return;
        }
    };
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) if may_command(&stream, owner) => {
                    let operator = Arc::clone(&operator);
                    tokio::spawn(async move {
                        if let Err(error) = answer(stream, &operator).await {
                            tracing::warn!(%error, "a command was not answered");
                        }
                    });
                }
                Ok(_) => tracing::warn!("a command of another user was refused"),
                Err(error) => {
                    tracing::warn!(%error, "a command was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
}

/// The socket, and whom it belongs to. The database's lock is ours, so what lies here is a dead server's.
fn bind(path: &Path) -> io::Result<(UnixListener, u32)> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = reachable(path, |path| UnixListener::bind(path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok((listener, fs::metadata(path)?.uid()))
}

/// Calls `act` with a path to the socket that is short enough for the system: through an open folder, if need be.
pub(super) fn reachable<T>(path: &Path, act: impl FnOnce(PathBuf) -> io::Result<T>) -> io::Result<T> {
    if path.as_os_str().len() <= PATH_BYTES_MAX {
        return act(path.to_owned());
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return act(path.to_owned()) };
    let folder = File::open(folder)?;
    act(Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name))
}

fn may_command(stream: &UnixStream, owner: u32) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == owner || peer.uid() == 0)
}

async fn answer(stream: UnixStream, operator: &Operator) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(read.take(LINE_BYTES_MAX));
    tokio::time::timeout(READ_TIME_MAX, reader.read_line(&mut line)).await??;
    let answer: Answer = match serde_json::from_str(&line) {
        Ok(request) => operator.act(request).await,
        Err(error) => Err(format!("this server does not know the command; is it of another version? {error}")),
    };
    let mut text = serde_json::to_string(&answer)?;
    text.push('\n');
    write.write_all(text.as_bytes()).await
}
