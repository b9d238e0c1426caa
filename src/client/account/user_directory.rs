//! `POST /user_directory/search`.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_search::{Found, TERM_BYTES_MAX};
use serde::Deserialize;
use serde_json::{Value, json};

use super::paths;
use crate::ClientState;

/// "The maximum number of results to return. Defaults to 10."
const LIMIT: u64 = 10;

/// More nobody reads; the term is to be made longer.
const LIMIT_MAX: u64 = 50;

pub(super) fn route() -> Route<ClientState> {
    Route::post(paths!("user_directory/search"), Access::User, Limit::Search, search).suspended_ok()
}

#[derive(Deserialize)]
struct Body {
    search_term: String,
    limit: Option<u64>,
}

async fn search(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let body: Body = call.json()?;
    if body.search_term.len() > TERM_BYTES_MAX {
        return Err(Error::invalid_param("the search term is too long"));
    }
    let limit = body.limit.unwrap_or(LIMIT).clamp(1, LIMIT_MAX) as usize;
    let own = call.requester().user_id();
    let found = state.people.search(own, &body.search_term, limit).await.map_err(|error| {
        tracing::error!(%error, "a search for people failed");
        Error::unavailable()
    })?;
    let results: Vec<Value> = found.results.iter().map(result).collect();
    Ok(Reply::json(&json!({ "limited": found.limited, "results": results })))
}

fn result(found: &Found) -> Value {
    let mut result = json!({ "user_id": found.user_id });
    if let Some(display_name) = &found.display_name {
        result["display_name"] = display_name.as_str().into();
    }
    if let Some(avatar_url) = &found.avatar_url {
        result["avatar_url"] = avatar_url.as_str().into();
    }
    result
}
