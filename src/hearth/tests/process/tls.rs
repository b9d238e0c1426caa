//! The listener that speaks TLS.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName},
};

use crate::Home;

/// The name that certificates are made for.
const NAME: &str = "matrix.example.org";

/// Whoever signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Puts a new certificate and its key where the server looks for them.
    fn certify(&self, home: &Home) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        fs::write(home.folder.path().join("tls.crt"), pem("CERTIFICATE", certificate.der())).unwrap();
        fs::write(home.folder.path().join("tls.key"), pem("PRIVATE KEY", &key.serialize_der())).unwrap();
    }

    /// The answer to a GET, asked by somebody who trusts this authority alone, and the certificate that was shown.
    fn get(&self, home: &Home, path: &str) -> io::Result<(String, CertificateDer<'static>)> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let connection = ClientConnection::new(Arc::new(config), ServerName::try_from(NAME).unwrap()).unwrap();
        let mut stream = StreamOwned::new(connection, TcpStream::connect(home.address).unwrap());
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let shown = stream.conn.peer_certificates().unwrap()[0].clone().into_owned();
        Ok((answer, shown))
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

fn secure(home: &Home) {
    let file = |name: &str| home.folder.path().join(name);
    let (certificate, key) = (file("tls.crt"), file("tls.key"));
    home.configure_listener(&format!(", tls_certificate = {certificate:?}, tls_private_key = {key:?}"), "");
}

#[test]
fn a_listener_with_a_certificate_speaks_tls_and_nothing_else() {
    let (home, authority) = (Home::new(), Authority::new());
    secure(&home);
    authority.certify(&home);
    let running = home.start();
    let (answer, _) = authority.get(&home, "/health").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(r#"{"status":"alive"}"#), "{answer}");
    assert!(Authority::new().get(&home, "/health").is_err(), "the certificate is this authority's");

    let mut plain = TcpStream::connect(home.address).unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // It ends with an alert or, where the rest of the request was unread, with a reset.
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");

    assert!(authority.get(&home, "/health").is_ok(), "others are served as before");
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn a_new_certificate_is_served_after_a_signal() {
    let (home, authority) = (Home::new(), Authority::new());
    secure(&home);
    authority.certify(&home);
    let mut running = home.start();
    let first = authority.get(&home, "/health").unwrap().1;
    authority.certify(&home);
    assert_eq!(authority.get(&home, "/health").unwrap().1, first, "files are read when told to");
    running.signal("HUP");
    running.wait_for("certificate read again");
    let second = authority.get(&home, "/health").unwrap().1;
    assert_ne!(second, first);

    fs::write(home.folder.path().join("tls.crt"), "half a certif").unwrap();
    running.signal("HUP");
    running.wait_for("the old certificate stays");
    assert_eq!(authority.get(&home, "/health").unwrap().1, second);
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn a_listener_without_its_certificate_does_not_start() {
    let home = Home::new();
    secure(&home);
    let output = home.run(&[], "");
    assert!(!output.status.success());
    assert!(crate::text(&output).contains("tls.crt"), "{}", crate::text(&output));
}
