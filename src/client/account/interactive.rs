//! User-interactive authentication, the part that speaks HTTP: one helper for every endpoint that needs it.

use hearth_edge::{Call, Error, Limit};
use hearth_users::{
    Challenge, InteractError, Interaction, Operation, Passed, PasswordError, Proof, ProofOf, Refusal, Remembered,
    Stage, Users,
};
use ruma::UserId;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{answers::password_error, login::Identifier};

/// The account's password is enough.
pub(super) const PASSWORD: &[&[Stage]] = &[&[Stage::Password]];

/// The `auth` of a request, whatever its type.
#[derive(Deserialize)]
struct Auth {
    session: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    identifier: Option<Identifier>,
    /// Deprecated for `identifier`.
    user: Option<String>,
    password: Option<String>,
    token: Option<String>,
}

/// Lets a request of this user pass, or answers what authentication it needs. The session is bound to method, path and
/// body.
pub(super) async fn authenticate(users: &Users, call: &Call, body: &Map<String, Value>) -> Result<(), Error> {
    let user_id = call.requester().user_id();
    let mut rest = body.clone();
    rest.remove("auth");
    let operation = Operation::new(call.method().as_str(), call.uri().path(), &Value::Object(rest).to_string());
    let interaction = Interaction {
        user: Some(user_id),
        operation,
        flows: PASSWORD,
        proof: proof(call, body, Some(user_id))?,
        remember: None,
    };
    interact(users, interaction).await.map(drop)
}

/// Lets a registration pass. The session is bound to the endpoint only: names and passwords may be mended on the way.
pub(super) async fn authenticate_registration(
    users: &Users,
    call: &Call,
    body: &Map<String, Value>,
    flows: &[&[Stage]],
    remember: Option<Remembered>,
) -> Result<Passed, Error> {
    let operation = Operation::new(call.method().as_str(), "register", "");
    let interaction = Interaction { user: None, operation, flows, proof: proof(call, body, None)?, remember };
    interact(users, interaction).await
}

/// Whether the body brings a session's id.
pub(super) fn session_of(body: &Map<String, Value>) -> Option<&str> {
    body.get("auth")?.get("session")?.as_str()
}

async fn interact(users: &Users, interaction: Interaction<'_>) -> Result<Passed, Error> {
    let flows = interaction.flows;
    users.interact(interaction).await.map_err(|error| match error {
        InteractError::Challenge(challenge) => Error::interactive(challenge_json(flows, &challenge)),
        InteractError::OperationChanged | InteractError::OtherUser => Error::forbidden(error.to_string()),
        InteractError::Password(error @ (PasswordError::TooLong | PasswordError::Empty | PasswordError::Busy)) => {
            password_error(error)
        }
        InteractError::Fault(ours) => ours.into(),
    })
}

fn proof(call: &Call, body: &Map<String, Value>, user_id: Option<&UserId>) -> Result<Option<Proof>, Error> {
    let Some(auth) = body.get("auth").filter(|auth| !auth.is_null()) else { return Ok(None) };
    let auth = Auth::deserialize(auth).map_err(|error| Error::bad_json(format!("auth: {error}")))?;
    let of = match auth.kind.as_deref() {
        None => None,
        Some("m.login.dummy") => Some(ProofOf::Dummy),
        Some("m.login.registration_token") => {
            Some(ProofOf::RegistrationToken(auth.token.ok_or_else(|| Error::missing_param("auth.token is missing"))?))
        }
        Some("m.login.password") => {
            let user = match (auth.identifier, auth.user) {
                (Some(identifier), _) => identifier.user()?,
                (None, Some(user)) => user,
                (None, None) => return Err(Error::missing_param("auth.identifier is missing")),
            };
            let password = auth.password.ok_or_else(|| Error::missing_param("auth.password is missing"))?;
            if let Some(user_id) = user_id {
                call.limit(Limit::LoginAccount, user_id.as_str())?;
            }
            Some(ProofOf::Password { user, password })
        }
        Some(_) => Some(ProofOf::Other),
    };
    Ok(Some(Proof { session: auth.session, of }))
}

fn challenge_json(flows: &[&[Stage]], challenge: &Challenge) -> Map<String, Value> {
    let names = |stages: &[Stage]| stages.iter().map(|stage| stage.name()).collect::<Vec<_>>();
    let flows: Vec<Value> = flows.iter().map(|stages| json!({ "stages": names(stages) })).collect();
    let mut body = Map::new();
    body.insert("flows".to_owned(), flows.into());
    body.insert("params".to_owned(), json!({}));
    body.insert("session".to_owned(), challenge.session.clone().into());
    body.insert("completed".to_owned(), names(&challenge.completed).into());
    let refusal = challenge.refusal.map(|refusal| match refusal {
        Refusal::WrongPassword => ("M_FORBIDDEN", "wrong password"),
        Refusal::BadToken => ("M_UNAUTHORIZED", "the registration token is not valid"),
        Refusal::NotOffered => ("M_UNKNOWN", "this stage is not offered"),
        Refusal::UnknownSession => ("M_UNKNOWN", "the session is over or never was"),
    });
    if let Some((errcode, error)) = refusal {
        body.insert("errcode".to_owned(), errcode.into());
        body.insert("error".to_owned(), error.into());
    }
    body
}
