//! [`GET /v1/query/profile`](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1queryprofile), and
//! [queries](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1queryquerytype) that are not known.

use std::sync::Arc;

use hearth_edge::{Call, Error, Reply, Route};
use hearth_users::ProfileError;
use http::Method;
use ruma::OwnedUserId;
use serde::Deserialize;

use super::{Inbound, route};

pub(super) fn routes() -> Vec<Route<Inbound>> {
    vec![
        route(Method::GET, "v1/query/profile", profile),
        route(Method::GET, "v1/query/{query_type}", |_, _| async {
            Err(Error::not_found("this server does not know such queries"))
        }),
    ]
}

#[derive(Deserialize)]
struct Query {
    user_id: OwnedUserId,
    field: Option<String>,
}

/// The profile of a user of ours, or one field of it; a field that is not set is not there.
async fn profile(state: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    let Query { user_id, field } = call.query()?;
    if !state.users.is_local(&user_id) {
        return Err(Error::invalid_param("the user is not of this server"));
    }
    let mut profile = state.users.profile(&user_id).await.map_err(|error| match error {
        ProfileError::NotFound => Error::not_found("there is no such user"),
        ProfileError::Fault(fault) => Error::from(fault),
        // What changes of profiles run into.
        ProfileError::KeyTooLarge | ProfileError::BadKey | ProfileError::BadValue | ProfileError::TooLarge => {
            Error::internal()
        }
    })?;
    if let Some(field) = field {
        profile.retain(|name, _| *name == field);
    }
    Ok(Reply::json(&profile))
}
