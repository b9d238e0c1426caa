//! Whose certificates are believed.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::SettingsError;

/// Reads the system's certificate authorities and the operator's. Blocks on files.
pub(crate) fn client_config(system: bool, extra_files: &[PathBuf]) -> Result<ClientConfig, SettingsError> {
    let mut roots = RootCertStore::empty();
    if system {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "some of the system's certificate authorities are not readable");
        }
        // Systems carry certificates from before today's rules; one that is not understood is one that is not trusted.
        let (_, ignored) = roots.add_parsable_certificates(found.certs);
        tracing::debug!(trusted = roots.len(), ignored, "the system's certificate authorities");
    }
    for file in extra_files {
        let wrong = |reason: String| SettingsError::AuthorityFile { path: file.display().to_string(), reason };
        let certificates = CertificateDer::pem_file_iter(file)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| wrong(error.to_string()))?;
        if certificates.is_empty() {
            return Err(wrong("there is no certificate in it (PEM)".to_owned()));
        }
        for certificate in certificates {
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
    }
    if roots.is_empty() {
        return Err(SettingsError::NoAuthorities);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| SettingsError::System(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
