//! Whose JSON web tokens are accepted: `[[jwt.issuers]]` of the file, and the
//! shortcut `SYSTOLE_JWT_SECRET`.

use std::path::PathBuf;

use toml::{Table, Value};

use super::DEFAULT_ORG;
use super::reader::{Reader, SettingFault, string};
use crate::auth::{Scope, Scopes, Secret, is_org_id};

/// Somebody who signs tokens.
#[derive(Clone, Debug)]
pub struct IssuerSettings {
    /// The `iss` its tokens carry. Without it the tokens may carry any or none.
    pub issuer: Option<String>,
    /// The `aud` its tokens must carry. Without it `aud` is not looked at.
    pub audience: Option<String>,
    /// What its signatures are verified with.
    pub key: IssuerKey,
    /// The organisations its tokens may name; the first is meant when `org` is absent.
    pub organisations: Vec<String>,
    /// The most its tokens can be allowed, whatever their `scope` says.
    pub scopes_max: Scopes,
}

/// What signatures are verified with. It also fixes the algorithm.
#[derive(Clone, Debug)]
pub enum IssuerKey {
    /// HS256 with this secret.
    Hs256(Secret),
    /// RS256, ES256 or EdDSA, by the kind of the public key.
    Public {
        /// The file it came from.
        path: PathBuf,
        /// Its text.
        pem: String,
    },
}

impl IssuerSettings {
    /// An issuer of `organisation` that signs with HS256.
    #[must_use]
    pub fn hs256(secret: &str, organisation: &str) -> IssuerSettings {
        IssuerSettings {
            issuer: None,
            audience: None,
            key: IssuerKey::Hs256(Secret::new(secret.to_owned())),
            organisations: vec![organisation.to_owned()],
            scopes_max: Scopes::of(&[Scope::Ingest, Scope::Read, Scope::Webhooks]),
        }
    }
}

pub(super) fn read(reader: &mut Reader<'_>) -> Result<Vec<IssuerSettings>, SettingFault> {
    let mut issuers = Vec::new();
    for (index, table) in reader.tables("jwt.issuers")?.into_iter().enumerate() {
        issuers.push(Entry { name: format!("jwt.issuers[{index}]"), table }.read()?);
    }
    if let Some(secret) = reader.secret("jwt.secret")? {
        issuers.push(IssuerSettings::hs256(secret.expose(), DEFAULT_ORG));
    }
    Ok(issuers)
}

struct Entry {
    name: String,
    table: Table,
}

impl Entry {
    fn read(mut self) -> Result<IssuerSettings, SettingFault> {
        let settings = IssuerSettings {
            issuer: self.text("issuer")?,
            audience: self.text("audience")?,
            key: self.key()?,
            organisations: self.organisations()?,
            scopes_max: self.scopes_max()?,
        };
        match self.table.keys().next() {
            None => Ok(settings),
            Some(key) => Err(self.wrong(key, "is not a setting of an issuer".to_owned())),
        }
    }

    fn wrong(&self, key: &str, reason: String) -> SettingFault {
        SettingFault::Wrong { name: format!("{}.{key}", self.name), reason }
    }

    fn text(&mut self, key: &str) -> Result<Option<String>, SettingFault> {
        let value = self.table.remove(key);
        value.map(|value| string(&value).map_err(|reason| self.wrong(key, reason))).transpose()
    }

    fn list(&mut self, key: &str) -> Result<Option<Vec<String>>, SettingFault> {
        match self.table.remove(key) {
            None => Ok(None),
            Some(Value::Array(values)) if !values.is_empty() => {
                let texts = values.iter().map(string).collect::<Result<_, _>>();
                texts.map(Some).map_err(|reason| self.wrong(key, reason))
            }
            Some(_) => Err(self.wrong(key, "must be a list of texts that is not empty".to_owned())),
        }
    }

    fn key(&mut self) -> Result<IssuerKey, SettingFault> {
        let secret = match self.table.remove("hs256_secret") {
            None => None,
            Some(Value::String(text)) if !text.is_empty() => Some(Secret::new(text)),
            Some(_) => {
                return Err(self.wrong("hs256_secret", "must be a text that is not empty".to_owned()));
            }
        };
        match (secret, self.text("public_key")?) {
            (Some(secret), None) => Ok(IssuerKey::Hs256(secret)),
            (None, Some(path)) => self.public_key(path.into()),
            _ => Err(SettingFault::Wrong {
                name: self.name.clone(),
                reason: "needs either hs256_secret or public_key".to_owned(),
            }),
        }
    }

    fn public_key(&self, path: PathBuf) -> Result<IssuerKey, SettingFault> {
        let pem = std::fs::read_to_string(&path)
            .map_err(|fault| self.wrong("public_key", format!("cannot read {}: {fault}", path.display())))?;
        crate::auth::check_public_key(&pem)
            .map_err(|reason| self.wrong("public_key", format!("{} {reason}", path.display())))?;
        Ok(IssuerKey::Public { path, pem })
    }

    fn organisations(&mut self) -> Result<Vec<String>, SettingFault> {
        let names = self.list("organisations")?.unwrap_or_else(|| vec![DEFAULT_ORG.to_owned()]);
        match names.iter().find(|name| !is_org_id(name)) {
            None => Ok(names),
            Some(name) => Err(self.wrong("organisations", format!("\"{name}\" is no organisation id"))),
        }
    }

    fn scopes_max(&mut self) -> Result<Scopes, SettingFault> {
        let Some(names) = self.list("scopes_max")? else {
            return Ok(Scopes::of(&[Scope::Ingest, Scope::Read, Scope::Webhooks]));
        };
        let mut scopes = Scopes::default();
        for name in names {
            let scope = Scope::parse(&name);
            scopes.insert(scope.ok_or_else(|| self.wrong("scopes_max", format!("\"{name}\" is no scope")))?);
        }
        Ok(scopes)
    }
}
