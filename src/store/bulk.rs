//! Numbers for many users at once.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures_util::future::try_join_all;
use hearth_ports::{CommitError, Key, Partition, Table, Unavailable};
use ruma::OwnedUserId;

use crate::{
    LoadError, Store, UserNumber, Write,
    codec::read_u64,
    tables::{UserIdRow, user_index_key, user_name_key},
};

/// Users that are looked up, or given their numbers, at once: some 200 kB of rows.
const USERS_AT_ONCE: usize = 1_000;

impl Store {
    /// The numbers of users, in the order of `user_ids`, as [`Store::ensure_user_number`] gives them, with one commit
    /// for all of a partition instead of one for each.
    pub async fn ensure_user_numbers(&self, user_ids: &[OwnedUserId]) -> Result<Vec<UserNumber>, LoadError> {
        let mut known: HashMap<&OwnedUserId, UserNumber> = HashMap::with_capacity(user_ids.len());
        let mut missing: BTreeMap<Partition, Vec<&OwnedUserId>> = BTreeMap::new();
        for some in user_ids.chunks(USERS_AT_ONCE) {
            let keys: Vec<Key> = some.iter().map(|user_id| user_index_key(user_id)).collect();
            let rows = self.engine().multi_get(Table::Ix, &keys).await?;
            for (user_id, row) in some.iter().zip(rows) {
                match row {
                    Some(bytes) => drop(known.insert(user_id, UserNumber(read_u64("user number", &bytes)?))),
                    None => {
                        let partition = UserNumber::first_candidate(user_id.as_str()).partition();
                        missing.entry(partition).or_default().push(user_id);
                    }
                }
            }
        }
        // Commits of many partitions that wait together are made durable together.
        let commits = missing.into_iter().map(|(partition, mut users)| async move {
            users.sort_unstable();
            users.dedup();
            let mut given = Vec::with_capacity(users.len());
            for some in users.chunks(USERS_AT_ONCE) {
                given.extend(self.give_numbers(partition, some).await?);
            }
            Ok::<_, LoadError>(given)
        });
        for given in try_join_all(commits).await? {
            known.extend(given);
        }
        let mut numbers = Vec::with_capacity(user_ids.len());
        for user_id in user_ids {
            numbers.push(match known.get(user_id) {
                Some(number) => *number,
                // The number that it asks for is taken, or somebody else was faster.
                None => self.ensure_user_number(user_id).await?,
            });
        }
        Ok(numbers)
    }

    /// Gives these users of one partition, who have none, the numbers that they ask for; leaves out whom that is denied.
    async fn give_numbers<'a>(
        &self,
        partition: Partition,
        users: &[&'a OwnedUserId],
    ) -> Result<Vec<(&'a OwnedUserId, UserNumber)>, LoadError> {
        let numbers: Vec<UserNumber> =
            users.iter().map(|user_id| UserNumber::first_candidate(user_id.as_str())).collect();
        let keys: Vec<Key> = numbers.iter().map(|number| user_name_key(*number)).collect();
        let taken = self.engine().multi_get(Table::Ix, &keys).await?;
        let mut given = Vec::with_capacity(users.len());
        let mut used = HashSet::with_capacity(users.len());
        let mut write = Write::new(partition);
        for ((user_id, number), taken) in users.iter().zip(numbers).zip(taken) {
            if taken.is_some() || !used.insert(number) {
                continue;
            }
            write.require_absent(Table::Ix, user_index_key(user_id));
            write.require_absent(Table::Ix, user_name_key(number));
            write.put(Table::Ix, user_name_key(number), &UserIdRow { user_id: user_id.as_str().to_owned() });
            write.put_bytes(Table::Ix, user_index_key(user_id), number.0.to_be_bytes().to_vec());
            given.push((*user_id, number));
        }
        if given.is_empty() {
            return Ok(given);
        }
        match self.commit(write).await {
            Ok(_) => Ok(given),
            // One of them was given a number meanwhile: each by itself then.
            Err(CommitError::Conflict) => Ok(Vec::new()),
            Err(CommitError::Unavailable(error)) => Err(error.into()),
            Err(CommitError::Malformed(error)) => Err(Unavailable(error.to_string()).into()),
        }
    }
}
