//! `GET /thirdparty/protocols`: none, since no bridge can register yet.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};

use crate::ClientState;

pub(super) fn route() -> Route<ClientState> {
    let paths = ["/_matrix/client/v3/thirdparty/protocols", "/_matrix/client/r0/thirdparty/protocols"];
    Route::get(&paths, Access::User, Limit::Default, protocols)
}

async fn protocols(_: Arc<ClientState>, _: Call) -> Result<Reply, Error> {
    Ok(Reply::empty())
}
