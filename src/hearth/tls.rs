//! Certificates: read at the start, and again on SIGHUP.

use std::sync::Arc;

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::sync::watch;

use crate::{Failure, config::Listener};

/// The present configuration of a TLS listener; new connections take it from here.
pub(crate) struct Tls {
    listener: Listener,
    current: watch::Sender<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the certificate, if the listener has one.
    pub(crate) fn load(listener: &Listener) -> Result<Option<Self>, Failure> {
        let Some(config) = read(listener)? else { return Ok(None) };
        Ok(Some(Self { listener: listener.clone(), current: watch::Sender::new(config) }))
    }

    /// Reads the files again. What is wrong then is logged, and the old certificate stays.
    pub(crate) fn reload(&self) {
        match read(&self.listener) {
            Ok(Some(config)) => {
                self.current.send_replace(config);
                tracing::info!(bind = %self.listener.bind, "certificate read again");
            }
            Ok(None) => {}
            Err(error) => tracing::error!(bind = %self.listener.bind, %error, "the old certificate stays"),
        }
    }

    /// For the next connection.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.borrow())
    }
}

fn read(listener: &Listener) -> Result<Option<Arc<ServerConfig>>, Failure> {
    let (Some(certificate), Some(key)) = (&listener.tls_certificate, &listener.tls_private_key) else {
        return Ok(None);
    };
    let wrong = |file: &std::path::Path, error: &dyn std::fmt::Display| {
        Failure::new(format!("listener {}: {}: {error}", listener.bind, file.display()))
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(certificate, &error))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| wrong(certificate, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(Arc::new(config)))
}
