//! What lies in `data_dir`: the database, the signing keys, the server's name, the socket for commands.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use hearth_core::SigningKey;
use hearth_ports::Entropy;

use crate::Failure;

/// Characters of a signing key's version: enough that a lost and remade key does not get the old one's name.
const KEY_VERSION_LENGTH: usize = 6;

/// The folder of one server.
#[derive(Clone, Debug)]
pub(crate) struct DataDir(PathBuf);

impl DataDir {
    /// Names the folder; touches nothing.
    pub(crate) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The database's folder.
    pub(crate) fn database(&self) -> PathBuf {
        self.0.join("db")
    }

    /// The socket for commands.
    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("admin.sock")
    }

    /// The file of the signing key.
    pub(crate) fn signing_key(&self) -> PathBuf {
        self.0.join("signing.key")
    }

    /// The file that says whose data this is.
    fn server_name(&self) -> PathBuf {
        self.0.join("server_name")
    }

    /// Copies the files beside the database that belong into a backup, durably.
    pub(crate) fn copy_files(&self, to: &Self) -> io::Result<()> {
        let files = |data: &Self| [data.signing_key(), data.server_name(), data.old_signing_keys()];
        for (from, to) in files(self).iter().zip(files(to)) {
            // Most servers have had one key only.
            if *from == self.old_signing_keys() && !from.exists() {
                continue;
            }
            fs::copy(from, &to)?;
            File::open(to)?.sync_all()?;
        }
        Ok(())
    }

    /// Refuses to put another signing key in the place of the one that lies in `data`: what is lost there cannot be had again,
    /// and others take the backup's for retired.
    pub(crate) fn check_key_beside(&self, data: &Self) -> Result<(), Failure> {
        let (ours, theirs) = (read(&self.signing_key())?, read(&data.signing_key())?);
        if theirs.is_none() || theirs == ours {
            return Ok(());
        }
        Err(Failure::new(format!(
            "{} is not the backup's key, so the server's key was changed since: copy it and {} into the backup to keep it, or \
             move it away to go back to the backup's",
            data.signing_key().display(),
            data.old_signing_keys().display(),
        )))
    }

    /// Makes the folder, for the server's own user only, unless it is there.
    pub(crate) fn create(&self) -> Result<(), Failure> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)
            .map_err(|error| Failure::new(format!("data_dir {} cannot be made: {error}", self.0.display())))
    }

    /// Refuses a folder that holds another server's data: its users and rooms bear that server's name.
    pub(crate) fn check_name(&self, name: &str) -> Result<(), Failure> {
        let file = self.server_name();
        match read(&file)? {
            Some(found) if found.trim() == name => Ok(()),
            Some(found) => Err(Failure::new(format!(
                "{} holds the data of {}, but server_name is {name}; a server's name cannot be changed: \
                 set it back, or choose another data_dir",
                self.0.display(),
                found.trim(),
            ))),
            None => write_new(&file, format!("{name}\n").as_bytes()),
        }
    }

    /// Reads the signing key, or makes one where nothing is yet.
    pub(crate) fn load_signing_key(&self, entropy: &(dyn Entropy + 'static)) -> Result<SigningKey, Failure> {
        let file = self.signing_key();
        if let Some(text) = read(&file)? {
            return parse_key(&text).ok_or_else(|| {
                Failure::new(format!("{} is no signing key: restore it from a backup", file.display()))
            });
        }
        if self.database().exists() {
            return Err(Failure::new(format!(
                "{} is missing, but there is a database beside it: restore the key from a backup",
                file.display()
            )));
        }
        let (key, text) = new_signing_key(entropy);
        write_new(&file, text.as_bytes())?;
        Ok(key)
    }
}

/// A signing key, and the text of its file.
pub(crate) fn new_signing_key(entropy: &(dyn Entropy + 'static)) -> (SigningKey, String) {
    let mut seed = [0; 32];
    entropy.fill(&mut seed);
    let version = format!("a_{}", entropy.alphanumeric(KEY_VERSION_LENGTH));
    let text = format!("ed25519 {version} {}\n", STANDARD_NO_PAD.encode(seed));
    (SigningKey::from_seed(&seed, &version), text)
}

/// `ed25519 VERSION SEED`, the seed as unpadded base64.
fn parse_key(text: &str) -> Option<SigningKey> {
    let mut parts = text.split_whitespace();
    let (algorithm, version, seed) = (parts.next()?, parts.next()?, parts.next()?);
    let seed: [u8; 32] = STANDARD_NO_PAD.decode(seed).ok()?.try_into().ok()?;
    let named =
        !version.is_empty() && version.chars().all(|character| character.is_ascii_alphanumeric() || character == '_');
    (algorithm == "ed25519" && named && parts.next().is_none()).then(|| SigningKey::from_seed(&seed, version))
}

pub(crate) fn read(file: &Path) -> Result<Option<String>, Failure> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::new(format!("{} cannot be read: {error}", file.display()))),
    }
}

/// Writes a file that appears whole or not at all, readable by us only, and is on disk when this returns.
pub(crate) fn write_new(file: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let write = || -> io::Result<()> {
        let new = file.with_extension("new");
        let mut handle = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        handle.write_all(bytes)?;
        handle.sync_all()?;
        fs::rename(&new, file)?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    };
    write().map_err(|error| Failure::new(format!("{} cannot be written: {error}", file.display())))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use hearth_ports::SeededEntropy;

    use super::DataDir;

    #[test]
    fn the_signing_key_is_made_once_for_us_only() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::new(&folder.path().join("a/b"));
        data.create().unwrap();
        let made = data.load_signing_key(&SeededEntropy::new(1)).unwrap();
        let read = data.load_signing_key(&SeededEntropy::new(2)).unwrap();
        assert_eq!((made.id(), made.public_key()), (read.id(), read.public_key()));
        assert_eq!(fs::metadata(data.signing_key()).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_lost_or_broken_key_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::new(folder.path());
        fs::create_dir(data.database()).unwrap();
        let error = data.load_signing_key(&SeededEntropy::new(1)).unwrap_err();
        assert!(error.to_string().contains("missing"), "{error}");
        for text in ["", "ed25519 a_1 AAAA", "ed25519 a:1 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "rsa a AAAA"] {
            fs::write(data.signing_key(), text).unwrap();
            let error = data.load_signing_key(&SeededEntropy::new(1)).unwrap_err();
            assert!(error.to_string().contains("no signing key"), "{text}: {error}");
        }
    }

    #[test]
    fn a_folder_belongs_to_one_server() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::new(folder.path());
        data.check_name("a.example").unwrap();
        data.check_name("a.example").unwrap();
        assert!(data.check_name("b.example").is_err());
    }
}
