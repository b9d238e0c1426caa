//! `GET /.well-known/matrix/client`, `/server` and `/support`, out of the configuration.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use serde_json::{Value, json};

use crate::ClientState;

/// What the well-known documents say. What is not set is not served.
#[derive(Clone, Debug, Default)]
pub struct WellKnown {
    /// The base URL of the client-server API, as clients reach it.
    pub client_base_url: Option<String>,
    /// Host and port to which other servers connect.
    pub server: Option<String>,
    /// Whom people can ask for help.
    pub support_contacts: Vec<SupportContact>,
    /// A page that helps people.
    pub support_page: Option<String>,
}

/// Somebody who answers for this server.
#[derive(Clone, Debug, Default)]
pub struct SupportContact {
    /// For what: `m.role.admin`, `m.role.security` or another.
    pub role: String,
    /// Their user id, here or elsewhere.
    pub matrix_id: Option<String>,
    /// Their address.
    pub email_address: Option<String>,
}

pub(super) fn routes() -> Vec<Route<ClientState>> {
    vec![
        Route::get(&["/.well-known/matrix/client"], Access::Public, Limit::None, client),
        Route::get(&["/.well-known/matrix/server"], Access::Public, Limit::None, server),
        Route::get(&["/.well-known/matrix/support"], Access::Public, Limit::None, support),
    ]
}

async fn client(state: Arc<ClientState>, _: Call) -> Result<Reply, Error> {
    let base_url = state.settings.well_known.client_base_url.as_deref().ok_or_else(not_set)?;
    Ok(Reply::json(&json!({ "m.homeserver": { "base_url": base_url } })))
}

async fn server(state: Arc<ClientState>, _: Call) -> Result<Reply, Error> {
    let server = state.settings.well_known.server.as_deref().ok_or_else(not_set)?;
    Ok(Reply::json(&json!({ "m.server": server })))
}

async fn support(state: Arc<ClientState>, _: Call) -> Result<Reply, Error> {
    let WellKnown { support_contacts, support_page, .. } = &state.settings.well_known;
    if support_contacts.is_empty() && support_page.is_none() {
        return Err(not_set());
    }
    let mut answer = json!({});
    if !support_contacts.is_empty() {
        answer["contacts"] = support_contacts.iter().map(contact_json).collect();
    }
    if let Some(page) = support_page {
        answer["support_page"] = page.as_str().into();
    }
    Ok(Reply::json(&answer))
}

fn contact_json(contact: &SupportContact) -> Value {
    let mut answer = json!({ "role": contact.role });
    if let Some(matrix_id) = &contact.matrix_id {
        answer["matrix_id"] = matrix_id.as_str().into();
    }
    if let Some(address) = &contact.email_address {
        answer["email_address"] = address.as_str().into();
    }
    answer
}

fn not_set() -> Error {
    Error::not_found("this document is not served here")
}
