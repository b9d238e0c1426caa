//! Large answers: counted for as long as they lie in memory, given away piece by piece, and dropped if nobody takes them.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, header::CONTENT_LENGTH};
use parking_lot::Mutex;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use crate::{Error, Reply, budget::Share};

/// Memory for the answers to clients, all together, and as much for those to other servers: twice the state of one
/// of the largest rooms. Beside what is being made at that time it fits into a machine of 2 GiB.
pub(crate) const ALL_BYTES_MAX: usize = 256 << 20;

/// Answers up to this size are not counted: a request takes as much by itself.
const SMALL_BYTES: usize = 4 << 10;

/// What a connection gets at once of an answer. It lies there for as long as an HTTP/2 peer grants no more.
const PIECE_BYTES: usize = 64 << 10;

/// Who takes not even a piece in this time does not get the rest. The slowest line carries a kilobyte a second.
const TAKE_TIME_MAX: Duration = Duration::from_secs(60);

/// A finished answer, for which there is memory if it is not small.
pub(crate) struct Answer {
    reply: Reply,
    share: Option<Share>,
}

impl Answer {
    /// 503 if too much lies in memory already, of this one or of all.
    pub(crate) fn new(reply: Reply, mut share: Share) -> Result<Self, Error> {
        if reply.body.len() <= SMALL_BYTES {
            return Ok(reply.into());
        }
        share.hold(reply.body.len())?;
        Ok(Self { reply, share: Some(share) })
    }

    pub(crate) fn reply_mut(&mut self) -> &mut Reply {
        &mut self.reply
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        let Self { reply, share } = self;
        let mut headers = reply.headers;
        let body = match share {
            Some(share) if reply.body.len() <= PIECE_BYTES => Body::from(Piece::whole(reply.body, share)),
            Some(share) => {
                // A stream does not tell.
                headers.insert(CONTENT_LENGTH, HeaderValue::from(reply.body.len()));
                Body::from_stream(stream::iter(Pieces::new(reply.body, share)))
            }
            None => Body::from(reply.body),
        };
        let mut response = Response::new(body);
        *response.status_mut() = reply.status;
        *response.headers_mut() = headers;
        response
    }
}

/// A small one.
impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self { reply, share: None }
    }
}

/// Gives an answer away.
struct Pieces {
    left_bytes: usize,
    rest: Arc<Mutex<Option<Rest>>>,
    watch: JoinHandle<()>,
}

/// What was not taken yet.
struct Rest {
    bytes: Bytes,
    /// Of the whole answer: it is freed at once.
    share: Share,
    taken: Instant,
}

/// It took too long to take the rest.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the answer was not taken in time")]
struct NotTaken;

impl Pieces {
    fn new(bytes: Bytes, share: Share) -> Self {
        let left_bytes = bytes.len();
        let rest = Arc::new(Mutex::new(Some(Rest { bytes, share, taken: Instant::now() })));
        let watch = tokio::spawn(watch(Arc::clone(&rest)));
        Self { left_bytes, rest, watch }
    }
}

impl Iterator for Pieces {
    type Item = Result<Bytes, NotTaken>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left_bytes == 0 {
            return None;
        }
        let mut place = self.rest.lock();
        let Some(rest) = place.as_mut() else {
            self.left_bytes = 0;
            return Some(Err(NotTaken));
        };
        rest.taken = Instant::now();
        let bytes = rest.bytes.split_to(rest.bytes.len().min(PIECE_BYTES));
        let piece = Piece::copy(&bytes, &rest.share);
        self.left_bytes = rest.bytes.len();
        if self.left_bytes == 0 {
            *place = None;
        }
        Some(Ok(piece))
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        // The watch ends a little later.
        *self.rest.lock() = None;
        self.watch.abort();
    }
}

/// Drops the rest when nobody takes it: a connection that waits for its peer does not ask for more, and so cannot be told.
async fn watch(rest: Arc<Mutex<Option<Rest>>>) {
    let look = || {
        let mut place = rest.lock();
        let until = place.as_ref()?.taken + TAKE_TIME_MAX;
        if until <= Instant::now() {
            *place = None;
            tracing::debug!("a large answer was dropped: its reader takes nothing");
            return None;
        }
        Some(until)
    };
    while let Some(until) = look() {
        sleep_until(until).await;
    }
}

/// What a connection has, which counts until it was written.
struct Piece<B> {
    bytes: B,
    _share: Share,
}

impl Piece<Bytes> {
    fn whole(bytes: Bytes, share: Share) -> Bytes {
        Bytes::from_owner(Self { bytes, _share: share })
    }
}

impl Piece<Box<[u8]>> {
    /// A part that does not keep the whole in memory.
    fn copy(bytes: &[u8], whole: &Share) -> Bytes {
        Bytes::from_owner(Self { bytes: bytes.into(), _share: whole.beside(bytes.len()) })
    }
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Piece<B> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}
