//! JSON web tokens.
//!
//! The algorithm is fixed by the issuer's configured key, never by the token:
//! `none`, or a public key used as an HMAC secret, cannot get through. The issuer
//! is found by the token's `iss`, which is then verified with the signature.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

use super::{Caller, Scopes, Secret, is_user_id};
use crate::error::Refusal;
use crate::settings::{IssuerKey, IssuerSettings};

/// How far clocks may be apart, in seconds.
const LEEWAY_SECONDS: u64 = 60;
/// Longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// A shorter HS256 secret weakens the hash it is used with (RFC 7518, 3.2).
const SECRET_BYTES_ADVISED: usize = 32;
/// What a token may do that does not say.
const DEFAULT_SCOPE: &str = "ingest read";
/// Length of an uncompressed point on P-256, the curve of ES256.
const P256_POINT_BYTES: usize = 65;

/// Why a token is not accepted; the text is shown to the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenFault {
    #[error("it is not a JSON web token")]
    Shape,
    #[error("no issuer is configured that signs such tokens")]
    NoIssuer,
    #[error("its issuer (iss) is not configured here")]
    UnknownIssuer,
    #[error("its algorithm is not the one its issuer is configured with")]
    Algorithm,
    #[error("its signature is wrong")]
    Signature,
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet (nbf)")]
    TooEarly,
    #[error("its audience (aud) is another")]
    Audience,
    #[error("its claim {0} is missing")]
    Missing(String),
    #[error("its claim {0} is malformed")]
    Claim(String),
}

/// All issuers of one running server.
pub(crate) struct Issuers(Vec<Issuer>);

struct Issuer {
    name: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
    validation: Validation,
    organisations: Vec<Arc<str>>,
    scopes_max: Scopes,
}

#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    org: Option<String>,
    scope: Option<String>,
}

/// What is read of a token before its signature is known.
struct Glance {
    algorithm: String,
    issuer: Option<String>,
}

impl Issuers {
    pub(crate) fn new(settings: &[IssuerSettings]) -> Result<Issuers, String> {
        settings.iter().map(Issuer::new).collect::<Result<_, _>>().map(Issuers)
    }

    /// Verifies a token.
    pub(crate) fn verify(&self, token: &str) -> Result<Caller, Refusal> {
        let (issuer, claims) = self.claims(token).map_err(Refusal::BadToken)?;
        issuer.caller(claims)
    }

    fn claims(&self, token: &str) -> Result<(&Issuer, Claims), TokenFault> {
        let glance = Glance::at(token)?;
        let mut fault = TokenFault::Algorithm;
        for issuer in self.candidates(&glance)? {
            if format!("{:?}", issuer.algorithm) != glance.algorithm {
                continue;
            }
            match issuer.decode(token) {
                Ok(claims) => return Ok((issuer, claims)),
                Err(found) => fault = found,
            }
        }
        Err(fault)
    }

    /// The issuers of this name; without any, those that take every name.
    fn candidates(&self, glance: &Glance) -> Result<Vec<&Issuer>, TokenFault> {
        let by_name = |name: Option<&str>| -> Vec<&Issuer> {
            self.0.iter().filter(|issuer| issuer.name.as_deref() == name).collect()
        };
        let named = glance.issuer.as_deref().map(|name| by_name(Some(name))).unwrap_or_default();
        let found = if named.is_empty() { by_name(None) } else { named };
        match (found.is_empty(), self.0.is_empty()) {
            (false, _) => Ok(found),
            (true, true) => Err(TokenFault::NoIssuer),
            (true, false) => Err(TokenFault::UnknownIssuer),
        }
    }
}

impl Glance {
    fn at(token: &str) -> Result<Glance, TokenFault> {
        #[derive(Deserialize)]
        struct Head {
            alg: String,
        }
        #[derive(Deserialize)]
        struct Issued {
            iss: Option<String>,
        }
        let mut parts = token.split('.');
        let (Some(head), Some(claims), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenFault::Shape);
        };
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenFault::Shape);
        }
        let head: Head = part(head)?;
        let issued: Issued = part(claims)?;
        Ok(Glance { algorithm: head.alg, issuer: issued.iss })
    }
}

fn part<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, TokenFault> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenFault::Shape)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenFault::Shape)
}

impl Issuer {
    fn new(settings: &IssuerSettings) -> Result<Issuer, String> {
        let (algorithm, key) = match &settings.key {
            IssuerKey::Hs256(secret) => {
                warn_of_short(secret, settings.issuer.as_deref());
                (Algorithm::HS256, DecodingKey::from_secret(secret.expose().as_bytes()))
            }
            IssuerKey::Public { pem, .. } => public_key(pem)?,
        };
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.validate_aud = settings.audience.is_some();
        let mut required = vec!["exp", "sub"];
        if let Some(issuer) = &settings.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        if let Some(audience) = &settings.audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        Ok(Issuer {
            name: settings.issuer.clone(),
            algorithm,
            key,
            validation,
            organisations: settings.organisations.iter().map(|org| Arc::from(org.as_str())).collect(),
            scopes_max: settings.scopes_max,
        })
    }

    fn decode(&self, token: &str) -> Result<Claims, TokenFault> {
        jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation)
            .map(|token| token.claims)
            .map_err(|fault| token_fault(fault.into_kind()))
    }

    fn caller(&self, claims: Claims) -> Result<Caller, Refusal> {
        let fault = |claim: &str| Refusal::BadToken(TokenFault::Claim(claim.to_owned()));
        let user = claims.sub.filter(|sub| is_user_id(sub)).ok_or_else(|| fault("sub"))?;
        let org = match &claims.org {
            None => self.organisations.first().ok_or_else(|| fault("org"))?,
            Some(org) => {
                let configured = self.organisations.iter().find(|configured| ***configured == **org);
                configured.ok_or(Refusal::OtherOrg)?
            }
        };
        let asked = Scopes::parse_known(claims.scope.as_deref().unwrap_or(DEFAULT_SCOPE));
        let scopes = asked.within(self.scopes_max);
        Ok(Caller { org: Arc::clone(org), user: Some(Arc::from(user)), scopes })
    }
}

fn warn_of_short(secret: &Secret, issuer: Option<&str>) {
    if secret.expose().len() < SECRET_BYTES_ADVISED {
        let issuer = issuer.unwrap_or("any");
        tracing::warn!(
            issuer,
            "the jwt secret is shorter than {SECRET_BYTES_ADVISED} bytes and may be guessed"
        );
    }
}

fn token_fault(kind: ErrorKind) -> TokenFault {
    match kind {
        ErrorKind::ExpiredSignature => TokenFault::Expired,
        ErrorKind::ImmatureSignature => TokenFault::TooEarly,
        ErrorKind::InvalidAudience => TokenFault::Audience,
        ErrorKind::InvalidIssuer => TokenFault::UnknownIssuer,
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => TokenFault::Algorithm,
        ErrorKind::MissingRequiredClaim(claim) => TokenFault::Missing(claim),
        ErrorKind::InvalidClaimFormat(claim) => TokenFault::Claim(claim),
        ErrorKind::InvalidToken | ErrorKind::Base64(_) | ErrorKind::Json(_) | ErrorKind::Utf8(_) => {
            TokenFault::Shape
        }
        _ => TokenFault::Signature,
    }
}

/// Whether a PEM text holds a public key that tokens can be verified with.
pub(crate) fn check_public_key(pem: &str) -> Result<(), String> {
    public_key(pem).map(|_| ())
}

fn public_key(pem: &str) -> Result<(Algorithm, DecodingKey), String> {
    if pem.contains("PRIVATE KEY") {
        return Err("holds a private key; the public one belongs here".to_owned());
    }
    let pem = pem.as_bytes();
    if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
        return Ok((Algorithm::RS256, key));
    }
    if let Ok(key) = DecodingKey::from_ed_pem(pem) {
        return Ok((Algorithm::EdDSA, key));
    }
    let key = DecodingKey::from_ec_pem(pem)
        .map_err(|_| "holds no RSA, P-256 or Ed25519 public key in PEM".to_owned())?;
    match key.try_get_as_bytes() {
        Ok(point) if point.len() == P256_POINT_BYTES => Ok((Algorithm::ES256, key)),
        _ => Err("holds a key on another curve than P-256".to_owned()),
    }
}
