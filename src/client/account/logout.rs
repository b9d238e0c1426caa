//! `POST /logout`, `POST /logout/all`.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};

use super::paths;
use crate::ClientState;

pub(super) fn routes() -> Vec<Route<ClientState>> {
    let one = Route::post(paths!("logout"), Access::UserOrGuest, Limit::Default, logout);
    let all = Route::post(paths!("logout/all"), Access::UserOrGuest, Limit::Default, logout_all);
    [one, all].map(|route| route.suspended_ok().locked_ok()).into()
}

async fn logout(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let requester = call.requester();
    let device = [requester.device_id.clone()];
    state.users.delete_devices(requester.user_id(), &device).await?;
    Ok(Reply::empty())
}

async fn logout_all(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    state.users.log_out_all(call.requester().user_id()).await?;
    Ok(Reply::empty())
}
