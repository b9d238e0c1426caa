//! `POST /user/{userId}/filter`, `GET /user/{userId}/filter/{filterId}`.

use std::sync::Arc;

use bytes::Bytes;
use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_users::FilterError;
use hearth_view::Filter;
use serde_json::json;

use super::{
    answers::{object, own},
    paths,
};
use crate::ClientState;

pub(super) fn routes() -> Vec<Route<ClientState>> {
    vec![
        Route::post(paths!("user/{user_id}/filter"), Access::UserOrGuest, Limit::Default, create).suspended_ok(),
        Route::get(paths!("user/{user_id}/filter/{filter_id}"), Access::UserOrGuest, Limit::Default, get),
    ]
}

async fn create(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let user_id = own(&call)?;
    let (definition, _) = object(&call)?;
    // What a client meant and we would not understand is refused now, not passed over at every sync.
    Filter::parse(call.body()).map_err(|error| Error::bad_json(error.to_string()))?;
    let filter_id = state.users.put_filter(&user_id, definition).await.map_err(|error| match error {
        FilterError::NotFound => Error::not_found(error.to_string()),
        FilterError::TooLarge => Error::too_large(error.to_string()),
        FilterError::Fault(ours) => ours.into(),
    })?;
    Ok(Reply::json(&json!({ "filter_id": filter_id })))
}

async fn get(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let user_id = own(&call)?;
    let definition = state.users.filter(&user_id, call.path_str("filter_id")).await?;
    let definition = definition.ok_or_else(|| Error::not_found("there is no such filter"))?;
    Ok(Reply::bytes(Bytes::copy_from_slice(definition.as_bytes())))
}
