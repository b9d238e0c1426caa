//! From the configuration's words to the services' settings.

use hearth_client::{ClientSettings, SupportContact, WellKnown};
use hearth_core::RoomVersion;
use hearth_edge::{EdgeSettings, LimitRate, LimitSettings};
use hearth_rooms::RoomsSettings;
use hearth_server::ServerSettings;
use hearth_store::StoreSettings;
use hearth_sync::SyncSettings;
use hearth_users::{PasswordSettings, Registration, Secret, UserSettings};
use ruma::ServerName;

use crate::{Failure, config::Config, memory};

/// Everything that the server is told.
pub(crate) fn server(config: &Config) -> Result<ServerSettings, Failure> {
    let server_name = ServerName::parse(config.server_name.as_str()).map_err(Failure::new)?;
    Ok(ServerSettings {
        store: StoreSettings { cache_bytes_max: memory::budget(config).rows },
        users: users(config, UserSettings::new(server_name.clone())),
        rooms: RoomsSettings { default_version: room_version(config)?, ..RoomsSettings::default() },
        syncs: SyncSettings::default(),
        client: ClientSettings {
            server_name: server_name.clone(),
            default_room_version: room_version(config)?,
            public_rooms_without_auth: config.room_directory.public_without_auth,
            well_known: well_known(config),
        },
        edge: edge(config)?,
        registration_tokens: config.registration.tokens.iter().map(|token| Secret(token.0.clone())).collect(),
        server_name,
    })
}

fn users(config: &Config, defaults: UserSettings) -> UserSettings {
    let (registration, passwords) = (&config.registration, &config.passwords);
    let hashes_at_once = match passwords.hashes_at_once {
        0 => std::thread::available_parallelism().map_or(1, |count| (count.get() / 2).max(1)),
        count => count,
    };
    UserSettings {
        registration: match (registration.open, registration.tokens.is_empty()) {
            (true, _) if !registration.require_token => Registration::Open,
            (_, false) => Registration::Token,
            (_, true) => Registration::Closed,
        },
        guests: registration.guests,
        shared_secret: registration.shared_secret.as_ref().map(|secret| Secret(secret.0.clone())),
        passwords: PasswordSettings {
            argon2_memory_kib: passwords.argon2_memory_kib,
            argon2_iterations: passwords.argon2_iterations,
            concurrent_max: hashes_at_once,
        },
        presence: config.presence.enabled,
        ..defaults
    }
}

fn room_version(config: &Config) -> Result<RoomVersion, Failure> {
    let version = config.default_room_version.as_str();
    RoomVersion::parse(version).ok_or_else(|| Failure::new(format!("no room version {version}")))
}

fn well_known(config: &Config) -> WellKnown {
    let documents = &config.well_known;
    let contact = |contact: &crate::config::types::SupportContact| SupportContact {
        role: contact.role.clone(),
        matrix_id: contact.matrix_id.clone(),
        email_address: contact.email_address.clone(),
    };
    WellKnown {
        client_base_url: config.public_base_url.clone().filter(|_| documents.client),
        server: documents.server.clone(),
        support_contacts: documents.support_contacts.iter().map(contact).collect(),
        support_page: documents.support_page.clone(),
    }
}

fn edge(config: &Config) -> Result<EdgeSettings, Failure> {
    let rates = config.rate_limits.rates();
    let rates = rates.map(|(limit, rate)| (limit, LimitRate { per_second: rate.per_second, burst: rate.burst }));
    let trusted = config.trusted_proxies.iter().map(|range| range.parse()).collect::<Result<Vec<_>, _>>();
    Ok(EdgeSettings {
        limits: LimitSettings { enabled: config.rate_limits.enabled, rates: rates.to_vec() },
        trusted_proxies: trusted.map_err(Failure::new)?,
        requests_max: config.http.requests_max,
    })
}
