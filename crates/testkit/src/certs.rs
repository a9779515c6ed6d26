//! Certificates for nodes that speak TLS, made on the spot.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// A certificate authority of a test.
#[derive(Debug)]
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one, with that common name.
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key pair");
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// Its certificate in PEM: what `sslrootcert` names.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate for that common name and those host names and addresses, and its private key, both PEM.
    pub fn issue(&self, name: &str, hosts: &[&str]) -> (String, String) {
        let key = KeyPair::generate().expect("a key pair");
        let certificate = params(name, hosts).signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }
}

fn params(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).expect("host names are plain");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
