//! Keys of devices: they live and end with their device.

use std::collections::BTreeSet;

use hearth_ports::{Entry, Key, KeyRange, Table, Unavailable};

use super::{Pages, Report, read};
use crate::{
    Store, UserNumber, key,
    tables::users::{CLAIMABLE_KEYS_BYTES_MAX, ClaimableKeysRow, DeviceKeysRow, device_key},
};

/// Every row of keys is of a device that exists, no key may be claimed under one name with two values.
pub(super) async fn check_keys(
    store: &Store,
    report: &mut Report,
    counted: &mut dyn FnMut(&mut Report, usize),
) -> Result<(), Unavailable> {
    for kind in [b'k', b'o'] {
        let mut pages = Pages::new(Table::Us, KeyRange::prefix(key(kind).build()));
        while let Some(page) = pages.next(store).await? {
            for row in &page {
                check_row(store, row, report).await?;
            }
            counted(report, page.len());
        }
    }
    Ok(())
}

async fn check_row(store: &Store, row: &Entry, report: &mut Report) -> Result<(), Unavailable> {
    let Some((user, device_id)) = owner(&row.key) else {
        report.add("a key of a device's keys does not read".to_owned());
        return Ok(());
    };
    let name = format!("keys of device {device_id:?} of user number {:016x}", user.0);
    let found = match row.key.first() {
        Some(b'k') => read::<DeviceKeysRow>(&row.value).map(drop),
        _ => read(&row.value).and_then(|row| check_claimable(&row)),
    };
    if let Err(problem) = found {
        report.add(format!("{name}: {problem}"));
    }
    let device = device_key(user, device_id);
    // A device that ended meanwhile took its keys along.
    if store.engine().get(Table::Us, &device).await?.is_none()
        && store.engine().get(Table::Us, &row.key).await?.is_some()
        && store.engine().get(Table::Us, &device).await?.is_none()
    {
        report.add(format!("{name}: there is no such device"));
    }
    Ok(())
}

fn check_claimable(row: &ClaimableKeysRow) -> Result<(), String> {
    let mut names = BTreeSet::new();
    if !row.one_time.iter().all(|key| names.insert((&key.algorithm, &key.id))) {
        return Err("two one-time keys have one name".to_owned());
    }
    let mut algorithms = BTreeSet::new();
    if !row.fallback.iter().all(|fallback| algorithms.insert(&fallback.key.algorithm)) {
        return Err("two fallback keys are of one algorithm".to_owned());
    }
    if row.size_bytes() > CLAIMABLE_KEYS_BYTES_MAX {
        return Err("there are more keys than a device may have".to_owned());
    }
    Ok(())
}

/// User and device of a key.
fn owner(key: &Key) -> Option<(UserNumber, &str)> {
    let user = UserNumber(u64::from_be_bytes(key.get(1..9)?.try_into().ok()?));
    Some((user, std::str::from_utf8(key.get(9..)?).ok()?))
}
