//! `GET /devices`, `GET`, `PUT` and `DELETE /devices/{deviceId}`, `POST /delete_devices`.

use std::sync::Arc;

use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use hearth_users::{Device, DeviceError};
use ruma::OwnedDeviceId;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{answers::object, interactive, paths};
use crate::ClientState;

pub(super) fn routes() -> Vec<Route<ClientState>> {
    vec![
        Route::get(paths!("devices"), Access::UserOrGuest, Limit::Default, list),
        Route::get(paths!("devices/{device_id}"), Access::UserOrGuest, Limit::Default, get),
        Route::put(paths!("devices/{device_id}"), Access::UserOrGuest, Limit::Default, rename).suspended_ok(),
        Route::delete(paths!("devices/{device_id}"), Access::User, Limit::Default, delete).suspended_ok(),
        Route::post(paths!("delete_devices"), Access::User, Limit::Default, delete_many).suspended_ok(),
    ]
}

#[derive(Deserialize)]
struct Rename {
    display_name: Option<String>,
}

#[derive(Deserialize)]
struct DeleteMany {
    devices: Vec<OwnedDeviceId>,
}

async fn list(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let devices = state.users.devices(call.requester().user_id()).await?;
    let devices: Vec<Value> = devices.iter().map(device_json).collect();
    Ok(Reply::json(&json!({ "devices": devices })))
}

async fn get(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let device = state.users.device(call.requester().user_id(), call.path_str("device_id")).await;
    Ok(Reply::json(&device_json(&device.map_err(device_error)?)))
}

async fn rename(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let body: Rename = call.json()?;
    let (user_id, device_id) = (call.requester().user_id(), call.path_str("device_id"));
    state.users.rename_device(user_id, device_id, body.display_name.as_deref()).await.map_err(device_error)?;
    Ok(Reply::empty())
}

async fn delete(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let fields: Map<String, Value> = call.json_or_empty()?;
    interactive::authenticate(&state.users, &call, &fields).await?;
    let devices = [OwnedDeviceId::from(call.path_str("device_id"))];
    state.users.delete_devices(call.requester().user_id(), &devices).await?;
    Ok(Reply::empty())
}

async fn delete_many(state: Arc<ClientState>, call: Call) -> Result<Reply, Error> {
    let (_, fields) = object(&call)?;
    let body: DeleteMany = call.json()?;
    interactive::authenticate(&state.users, &call, &fields).await?;
    state.users.delete_devices(call.requester().user_id(), &body.devices).await?;
    Ok(Reply::empty())
}

fn device_json(device: &Device) -> Value {
    let mut body = json!({ "device_id": device.device_id, "last_seen_ts": device.last_seen_ts_ms });
    if let Some(display_name) = &device.display_name {
        body["display_name"] = display_name.as_str().into();
    }
    if let Some(ip) = &device.last_seen_ip {
        body["last_seen_ip"] = ip.as_str().into();
    }
    body
}

fn device_error(error: DeviceError) -> Error {
    match error {
        DeviceError::NotFound => Error::not_found(error.to_string()),
        DeviceError::NameTooLong => Error::invalid_param(error.to_string()),
        DeviceError::Fault(ours) => ours.into(),
    }
}
