//! From the configuration's words to the services' settings.

use hearth_client::{ClientSettings, SupportContact, WellKnown};
use hearth_core::{PublicKey, RoomVersion};
use hearth_edge::{EdgeSettings, LimitRate, LimitSettings};
use hearth_federation::{
    keys::{KeyRingSettings, OldKey},
    outbound::OutboundSettings,
    peers::PeersSettings,
    policy::{ServerPattern, ServerPolicy},
};
use hearth_net::{AddressPolicy, DENIED_BY_DEFAULT, DnsSettings, HttpsSettings};
use hearth_rooms::RoomsSettings;
use hearth_search::PeopleSettings;
use hearth_server::{FederationSettings, ServerSettings};
use hearth_store::StoreSettings;
use hearth_sync::SyncSettings;
use hearth_users::{PasswordSettings, Registration, Secret, UserSettings};
use ruma::{OwnedServerName, ServerName};

use crate::{Failure, config::Config, descriptors, memory};

/// Everything that the server is told.
pub(crate) fn server(config: &Config) -> Result<ServerSettings, Failure> {
    let server_name = ServerName::parse(config.server_name.as_str()).map_err(Failure::new)?;
    Ok(ServerSettings {
        store: StoreSettings { cache_bytes_max: memory::budget(config).rows },
        users: users(config, UserSettings::new(server_name.clone())),
        rooms: RoomsSettings { default_version: room_version(config)?, ..RoomsSettings::default() },
        syncs: SyncSettings::default(),
        people: PeopleSettings {
            enabled: config.user_directory.enabled,
            all_accounts: config.user_directory.all_local_accounts,
        },
        client: ClientSettings {
            server_name: server_name.clone(),
            default_room_version: room_version(config)?,
            public_rooms_without_auth: config.room_directory.public_without_auth,
            well_known: well_known(config),
        },
        edge: edge(config)?,
        federation: config.federation.enabled.then(|| federation(config, server_name.clone())).transpose()?,
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

fn federation(config: &Config, own: OwnedServerName) -> Result<FederationSettings, Failure> {
    let federation = &config.federation;
    let patterns = |texts: &[String]| -> Result<Vec<_>, Failure> {
        texts.iter().map(|text| ServerPattern::parse(text).map_err(Failure::new)).collect()
    };
    let old = federation.old_signing_keys.iter().map(|old| {
        let key = PublicKey::from_base64(&old.key, 0);
        let key = key.ok_or_else(|| Failure::new(format!("{} is no ed25519 key", old.id)))?;
        Ok(OldKey { id: old.id.clone(), bytes: key.bytes, expired_ms: old.expired_ts })
    });
    let notaries = federation.trusted_key_servers.iter().map(|name| ServerName::parse(name).map_err(Failure::new));
    Ok(FederationSettings {
        policy: ServerPolicy {
            own,
            allowed: federation.allowed_servers.as_deref().map(patterns).transpose()?,
            denied: patterns(&federation.denied_servers)?,
        },
        old_keys: old.collect::<Result<_, Failure>>()?,
        keys: KeyRingSettings { notaries: notaries.collect::<Result<_, _>>()? },
        peers: PeersSettings { state_bytes_max: (federation.room_answer_mib_max as usize) << 20 },
        outbound: OutboundSettings {
            presence: config.presence.enabled && federation.presence,
            typing: federation.typing,
            receipts: federation.receipts,
        },
        public_rooms: config.room_directory.public_over_federation,
    })
}

/// How we connect to other machines.
pub(crate) fn https(config: &Config) -> Result<HttpsSettings, Failure> {
    let outbound = &config.outbound;
    let ranges = |texts: &[String]| -> Result<Vec<_>, Failure> {
        texts.iter().map(|text| text.parse().map_err(Failure::new)).collect()
    };
    let allowed = ranges(&outbound.allowed_ip_ranges)?;
    let policy = match &outbound.denied_ip_ranges {
        Some(denied) => AddressPolicy::new(ranges(denied)?, allowed),
        None => {
            let usual = DENIED_BY_DEFAULT.iter().map(|range| range.parse().map_err(Failure::new));
            AddressPolicy::new(usual.collect::<Result<_, Failure>>()?, allowed)
        }
    };
    let defaults = HttpsSettings::default();
    // Half for busy connections, half for idle ones.
    let share = descriptors::budget(config.listeners.len()).outbound / 2;
    Ok(HttpsSettings {
        requests_max: defaults.requests_max.min(share),
        targets_max: defaults.targets_max.min(share / defaults.idle_connections_per_target_max),
        policy,
        extra_ca_files: outbound.extra_ca_files.clone(),
        trust_all_elsewhere: outbound.insecure_skip_verify_except_federation,
        connect_timeout_ms: u64::from(outbound.connect_timeout_s) * 1_000,
        ..defaults
    })
}

/// Whom we ask for addresses.
pub(crate) fn dns(config: &Config) -> DnsSettings {
    DnsSettings { name_servers: config.outbound.name_servers.clone(), ..DnsSettings::default() }
}
