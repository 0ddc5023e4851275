//! The variables and the secret of the deployment (`design.md` 9).

use crate::edge::auth::Policy;
use worker::Env;

/// What the deployment says. Read anew for each request: it costs nothing and cannot go stale.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `GASTOWN_JWT_SECRET`.
    pub secret: Option<String>,
    /// `INTERNAL_SECRET`: what another service shows at the internal routes; without it they are closed.
    pub internal_secret: Option<String>,
    /// `ENVIRONMENT`.
    pub environment: String,
    /// `AUTH`.
    pub auth: String,
    /// `ALLOWED_ORIGINS`: pages that may call the API, separated by commas.
    pub allowed_origins: String,
    /// `CONTAINER_URL`: base of a control server, used instead of a container object.
    pub container_url: Option<String>,
    /// `GASTOWN_API_URL`: what the container calls back.
    pub api_url: String,
    /// `GITHUB_API_URL`: instead of `https://api.github.com`; every GitHub token of a town is sent there.
    pub github_api_url: Option<String>,
    /// `GITLAB_API_URL`: instead of `https://<host>/api/v4`; every GitLab token of a town is sent there.
    pub gitlab_api_url: Option<String>,
}

impl Settings {
    /// Reads them.
    #[must_use]
    pub fn read(env: &Env) -> Self {
        // A secret and a variable are the same to the runtime: text under a name.
        let var = |name: &str| env.var(name).ok().map(|v| v.to_string()).filter(|v| !v.trim().is_empty());
        let base = |url: String| url.trim().trim_end_matches('/').to_owned();
        Self {
            secret: var("GASTOWN_JWT_SECRET"),
            internal_secret: var("INTERNAL_SECRET"),
            environment: var("ENVIRONMENT").unwrap_or_default(),
            auth: var("AUTH").unwrap_or_default(),
            allowed_origins: var("ALLOWED_ORIGINS").unwrap_or_default(),
            container_url: var("CONTAINER_URL").map(base),
            api_url: var("GASTOWN_API_URL").map(base).unwrap_or_default(),
            github_api_url: var("GITHUB_API_URL").map(base),
            gitlab_api_url: var("GITLAB_API_URL").map(base),
        }
    }
    /// What decides who gets in.
    #[must_use]
    pub fn policy(&self) -> Policy<'_> {
        Policy {
            secret: self.secret.as_deref(),
            environment: &self.environment,
            auth: &self.auth,
            internal_secret: self.internal_secret.as_deref(),
        }
    }
}
