//! The route table: every method and path the worker knows, and who may come in there. Nothing else is routed.

use percent_encoding::percent_decode_str;

/// Who may come in at a route (`protocol.md` 1.3, `api.md`). What each kind checks is in [`super::auth`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Anybody.
    Public,
    /// A person; `:user` must be the token's subject (K).
    User,
    /// The town's owner or an operator (K, and our own routes).
    Town,
    /// The town's owner, an operator, or the town's container.
    TownOrContainer,
    /// The town's container; people, too (A).
    Rig,
    /// The same, and the agent named by the header must be the route's (A+).
    Agent,
    /// The town's container; people, too; in the mayor's words (M).
    Mayor,
    /// The town's container and nobody else (C).
    Container,
    /// A container token that may have expired (C-exp).
    Refresh,
    /// A socket: whoever has a ticket for it, or may come in as `Town`.
    Socket,
    /// Another service, by a secret of its own (I).
    Internal,
}

macro_rules! routes {
    ($($kind:ident $method:literal $pattern:literal => $route:ident,)*) => {
        /// What is asked, one variant per line of the table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "the table says method and path of each")]
        pub enum Route { $($route,)* }

        /// The table: kind, method, path pattern, route.
        pub const TABLE: &[(Kind, &str, &str, Route)] = &[$((Kind::$kind, $method, $pattern, Route::$route),)*];

        /// The names of the routes, in the table's order.
        const NAMES: &[&str] = &[$(stringify!($route),)*];
    };
}

routes! {
    Public "GET" "/" => Root,
    Public "GET" "/health" => Health,

    // Users, their towns and rigs (`protocol.md` 3.5).
    User "POST" "/api/users/:user/towns" => CreateTown,
    User "GET" "/api/users/:user/towns" => ListTowns,
    User "GET" "/api/users/:user/towns/:town" => GetTown,
    User "DELETE" "/api/users/:user/towns/:town" => DeleteTown,
    User "GET" "/api/users/:user/towns/:town/rigs" => ListUserRigs,
    User "GET" "/api/users/:user/towns/:town/events" => TownEvents,
    User "POST" "/api/users/:user/rigs" => CreateRig,
    User "GET" "/api/users/:user/rigs/:rig" => GetRig,
    User "DELETE" "/api/users/:user/rigs/:rig" => DeleteRig,

    // Configuration (`api.md`).
    Town "GET" "/api/towns/:town/config" => GetConfig,
    Town "PATCH" "/api/towns/:town/config" => PatchConfig,
    Town "GET" "/api/towns/:town/rigs/:rig/config" => GetRigConfig,
    Town "PATCH" "/api/towns/:town/rigs/:rig/config" => PatchRigConfig,

    // Dispatch (`api.md`).
    TownOrContainer "GET" "/api/towns/:town/dispatch" => GetDispatch,
    TownOrContainer "GET" "/api/towns/:town/beads/:bead/explain" => Explain,
    TownOrContainer "GET" "/api/towns/:town/beads/:bead/attempts" => BeadAttempts,
    TownOrContainer "GET" "/api/towns/:town/attempts" => ListAttempts,
    TownOrContainer "POST" "/api/towns/:town/beads/:bead/redrive" => RedriveBead,
    Town "POST" "/api/towns/:town/redrive" => Redrive,
    Town "POST" "/api/towns/:town/beads/:bead/cancel" => CancelBead,
    Town "GET" "/api/towns/:town/breakers" => ListBreakers,
    Town "GET" "/api/towns/:town/breakers/:scope" => GetBreaker,
    Town "PUT" "/api/towns/:town/breakers/:scope" => OverrideBreaker,
    Town "POST" "/api/towns/:town/breakers/:scope/probe" => ProbeBreaker,
    Town "GET" "/api/towns/:town/notifications" => ListNotifications,
    Town "POST" "/api/towns/:town/notifications/test" => TestNotification,
    Town "GET" "/api/towns/:town/mail" => ListMail,
    Town "GET" "/api/towns/:town/escalations" => ListEscalations,
    Town "POST" "/api/towns/:town/escalations/:escalation/acknowledge" => AcknowledgeEscalation,
    Town "POST" "/api/towns/:town/convoys" => CreateConvoy,
    Town "POST" "/api/towns/:town/convoys/bead-closed" => ConvoyBeadClosed,
    Town "GET" "/api/towns/:town/audit" => ListAudit,
    // For scripts, in bare JSON (`protocol.md` 3.6).
    Town "GET" "/debug/towns/:town/status" => DebugStatus,
    Town "GET" "/debug/towns/:town/drain-status" => DebugDrain,
    Town "GET" "/debug/towns/:town/nudges" => DebugNudges,
    Town "GET" "/debug/towns/:town/beads/:bead" => DebugBead,
    Town "GET" "/debug/towns/:town/config" => DebugConfig,
    Town "GET" "/debug/towns/:town/rigs" => DebugRigs,
    Town "GET" "/debug/towns/:town/convoys" => DebugConvoys,

    // Sockets, and tickets for them.
    Town "POST" "/api/towns/:town/status/ticket" => StatusTicket,
    Socket "GET" "/api/towns/:town/status/ws" => StatusSocket,
    Town "POST" "/api/towns/:town/container/agents/:agent/stream-ticket" => StreamTicket,
    Socket "GET" "/api/towns/:town/container/agents/:agent/stream" => StreamSocket,

    // The mayor (`protocol.md` 3.5).
    Town "POST" "/api/towns/:town/mayor/message" => MessageMayor,
    Internal "POST" "/api/internal/towns/:town/mayor/message" => InternalMessage,
    Town "GET" "/api/towns/:town/mayor/status" => MayorStatus,
    Town "POST" "/api/towns/:town/mayor/ensure" => EnsureMayor,
    Town "POST" "/api/towns/:town/mayor/configure" => ConfigureMayor,
    Town "POST" "/api/towns/:town/mayor/completed" => MayorCompleted,
    Town "POST" "/api/towns/:town/mayor/destroy" => DestroyMayor,
    Town "POST" "/api/towns/:town/mayor/dashboard-context" => DashboardContext,
    Town "POST" "/api/towns/:town/mayor/ui-action" => UiAction,
    TownOrContainer "GET" "/api/towns/:town/mayor-id" => MayorId,

    // The container (`protocol.md` 3.2).
    Refresh "POST" "/api/towns/:town/refresh-container-token" => RefreshContainerToken,
    Container "POST" "/api/towns/:town/container-eviction" => ContainerEviction,
    Container "POST" "/api/towns/:town/container-ready" => ContainerReady,
    Container "GET" "/api/towns/:town/drain-status" => DrainStatus,
    Container "GET" "/api/towns/:town/container-registry" => ReadRegistry,
    Container "POST" "/api/towns/:town/container-registry" => WriteRegistry,
    Container "POST" "/api/towns/:town/heartbeats" => Heartbeats,

    TownOrContainer "POST" "/api/towns/:town/container-events" => ContainerEvents,
    Container "POST" "/api/towns/:town/rigs/:rig/refresh-git-token" => RefreshGitToken,

    // The control server in the container, passed through (`protocol.md` 3.5).
    Town "POST" "/api/towns/:town/container/agents/start" => StartInContainer,
    Town "POST" "/api/towns/:town/container/agents/:agent/stop" => StopInContainer,
    Town "POST" "/api/towns/:town/container/agents/:agent/message" => MessageInContainer,
    Town "GET" "/api/towns/:town/container/agents/:agent/status" => StatusInContainer,
    Town "GET" "/api/towns/:town/container/health" => ContainerHealth,
    Town "POST" "/api/towns/:town/container/agents/:agent/pty" => OpenPty,
    Town "GET" "/api/towns/:town/container/agents/:agent/pty" => ListPtys,
    Town "GET" "/api/towns/:town/container/agents/:agent/pty/:pty" => GetPty,
    Town "PUT" "/api/towns/:town/container/agents/:agent/pty/:pty" => ResizePty,
    Town "DELETE" "/api/towns/:town/container/agents/:agent/pty/:pty" => ClosePty,
    Town "GET" "/api/towns/:town/container/agents/:agent/pty/:pty/connect" => ConnectPty,

    // Agents (`protocol.md` 3.1, 3.2).
    Agent "GET" "/api/towns/:town/rigs/:rig/agents/:agent/prime" => Prime,
    Agent "POST" "/api/towns/:town/rigs/:rig/agents/:agent/done" => Done,
    Agent "POST" "/api/towns/:town/rigs/:rig/agents/:agent/request-changes" => RequestChanges,
    Agent "POST" "/api/towns/:town/rigs/:rig/agents/:agent/checkpoint" => Checkpoint,
    Agent "POST" "/api/towns/:town/rigs/:rig/agents/:agent/status" => StatusMessage,
    Agent "GET" "/api/towns/:town/rigs/:rig/agents/:agent/mail" => ReadMail,
    Agent "POST" "/api/towns/:town/rigs/:rig/agents/:agent/heartbeat" => Heartbeat,
    Agent "POST" "/api/towns/:town/rigs/:rig/agents/:agent/completed" => Completed,
    Agent "POST" "/api/towns/:town/rigs/:rig/agents/:agent/waiting" => Waiting,
    Agent "GET" "/api/towns/:town/rigs/:rig/agents/:agent/pending-nudges" => PendingNudges,
    Agent "POST" "/api/towns/:town/rigs/:rig/agents/:agent/nudge-delivered" => NudgeDelivered,
    Agent "POST" "/api/towns/:town/rigs/:rig/agents/:agent/eviction-context" => EvictionContext,
    Agent "GET" "/api/towns/:town/rigs/:rig/agents/:agent/molecule/current" => CurrentStep,
    Agent "POST" "/api/towns/:town/rigs/:rig/agents/:agent/molecule/advance" => AdvanceStep,
    Rig "POST" "/api/towns/:town/rigs/:rig/agent-events" => AppendEvents,
    Rig "GET" "/api/towns/:town/rigs/:rig/agents/:agent/events" => AgentEvents,
    Agent "GET" "/api/towns/:town/rigs/:rig/agents/:agent/db-snapshot" => GetSnapshot,
    Agent "POST" "/api/towns/:town/rigs/:rig/agents/:agent/db-snapshot" => PutSnapshot,
    Agent "DELETE" "/api/towns/:town/rigs/:rig/agents/:agent/db-snapshot" => DeleteSnapshot,
    Agent "POST" "/api/towns/:town/rigs/:rig/agents/:agent/hook" => Hook,
    Agent "DELETE" "/api/towns/:town/rigs/:rig/agents/:agent/hook" => Unhook,
    Rig "POST" "/api/towns/:town/rigs/:rig/mail" => SendMail,
    Rig "POST" "/api/towns/:town/rigs/:rig/nudge" => Nudge,
    Rig "GET" "/api/towns/:town/rigs/:rig/beads/:bead" => GetBead,
    Rig "POST" "/api/towns/:town/rigs/:rig/beads/:bead/close" => CloseBead,
    Rig "POST" "/api/towns/:town/rigs/:rig/escalations" => Escalate,
    Rig "POST" "/api/towns/:town/rigs/:rig/triage/resolve" => ResolveTriage,
    Rig "POST" "/api/towns/:town/rigs/:rig/review-queue/:entry/complete" => CompleteReview,

    // Administration of a rig (`protocol.md` 3.3).
    Rig "POST" "/api/towns/:town/rigs/:rig/beads" => CreateBead,
    Rig "GET" "/api/towns/:town/rigs/:rig/beads" => ListBeads,
    Rig "PATCH" "/api/towns/:town/rigs/:rig/beads/:bead/status" => SetBeadStatus,
    Rig "DELETE" "/api/towns/:town/rigs/:rig/beads/:bead" => DeleteBead,
    Rig "POST" "/api/towns/:town/rigs/:rig/sling" => Sling,
    Rig "POST" "/api/towns/:town/rigs/:rig/agents" => CreateAgent,
    Rig "GET" "/api/towns/:town/rigs/:rig/agents" => ListAgents,
    Rig "POST" "/api/towns/:town/rigs/:rig/agents/get-or-create" => GetOrCreateAgent,
    Rig "GET" "/api/towns/:town/rigs/:rig/agents/:agent" => GetAgent,
    Rig "DELETE" "/api/towns/:town/rigs/:rig/agents/:agent" => DeleteAgent,
    Rig "POST" "/api/towns/:town/rigs/:rig/review-queue" => SubmitReview,
    Rig "GET" "/api/towns/:town/rigs/:rig/events" => RigEvents,
    Rig "POST" "/api/towns/:town/rigs/:rig/molecules" => AttachMolecule,

    // The mayor's tools (`protocol.md` 3.4).
    Mayor "POST" "/api/mayor/:town/tools/sling" => MayorSling,
    Mayor "GET" "/api/mayor/:town/tools/rigs" => MayorRigs,
    Mayor "POST" "/api/mayor/:town/tools/mail" => MayorMail,
    Mayor "POST" "/api/mayor/:town/tools/ui-action" => MayorUiAction,
    Mayor "GET" "/api/mayor/:town/tools/rigs/:rig/agents/:agent/pending-nudges" => MayorNudges,
    Mayor "POST" "/api/mayor/:town/tools/escalations/:escalation/acknowledge" => MayorAcknowledge,
    Mayor "PATCH" "/api/mayor/:town/tools/rigs/:rig/beads/:bead" => UpdateBead,
    Mayor "GET" "/api/mayor/:town/tools/rigs/:rig/beads" => MayorListBeads,
    Mayor "POST" "/api/mayor/:town/tools/rigs/:rig/beads/:bead/reassign" => Reassign,
    Mayor "DELETE" "/api/mayor/:town/tools/rigs/:rig/beads/:bead" => MayorDeleteBead,
    Mayor "POST" "/api/mayor/:town/tools/rigs/:rig/beads/bulk-delete" => DeleteBeads,
    Mayor "POST" "/api/mayor/:town/tools/rigs/:rig/beads/delete-by-status" => DeleteByStatus,
    Mayor "GET" "/api/mayor/:town/tools/rigs/:rig/agents" => MayorListAgents,
    Mayor "POST" "/api/mayor/:town/tools/rigs/:rig/agents/:agent/reset" => ResetAgent,
    Mayor "POST" "/api/mayor/:town/tools/sling-batch" => SlingBatch,
    Mayor "GET" "/api/mayor/:town/tools/convoys" => ListConvoys,
    Mayor "GET" "/api/mayor/:town/tools/convoys/:convoy" => GetConvoy,
    Mayor "PATCH" "/api/mayor/:town/tools/convoys/:convoy" => PatchConvoy,
    Mayor "POST" "/api/mayor/:town/tools/convoys/:convoy/start" => StartConvoy,
    Mayor "POST" "/api/mayor/:town/tools/convoys/:convoy/close" => CloseConvoy,
    Mayor "POST" "/api/mayor/:town/tools/convoys/:convoy/add-bead" => AddToConvoy,
    Mayor "POST" "/api/mayor/:town/tools/convoys/:convoy/remove-bead" => RemoveFromConvoy,
}

/// A route that was found, with what its path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matched {
    /// The route.
    pub route: Route,
    /// Who may come in.
    pub kind: Kind,
    /// The pattern, for logs and analytics: it holds no ids.
    pub pattern: &'static str,
    /// The route's name, for the ledger.
    pub name: &'static str,
    params: Vec<(&'static str, String)>,
}

impl Matched {
    /// What the path has for `:name`; empty if the pattern has no such part, which the table's test rules out for
    /// every name that the code asks for.
    #[must_use]
    pub fn param(&self, name: &str) -> &str {
        self.params.iter().find(|(n, _)| *n == name).map_or("", |(_, v)| v.as_str())
    }
}

/// Finds the route of a request. Literal parts win over parameters (`agents/get-or-create` is no agent).
#[must_use]
pub fn find(method: &str, path: &str) -> Option<Matched> {
    TABLE
        .iter()
        .zip(NAMES)
        .filter(|((_, m, _, _), _)| *m == method)
        .filter_map(|((kind, _, pattern, route), name)| {
            let params = capture(pattern, path)?;
            Some(Matched { route: *route, kind: *kind, pattern, name, params })
        })
        .min_by_key(|m| m.params.len())
}

/// The parameters of `path` if it fits `pattern`.
fn capture(pattern: &'static str, path: &str) -> Option<Vec<(&'static str, String)>> {
    let mut params = Vec::new();
    let mut have = path.split('/');
    for want in pattern.split('/') {
        let part = have.next()?;
        match want.strip_prefix(':') {
            None if want == part => {}
            None => return None,
            Some(name) => params.push((name, identifier(part)?)),
        }
    }
    have.next().is_none().then_some(params)
}

/// A path part that may name something: what our ids and user names are made of, so that nothing odd travels on into
/// object names, logs or urls. Anything else is no route of ours.
fn identifier(part: &str) -> Option<String> {
    let text = percent_decode_str(part).decode_utf8().ok()?;
    is_identifier(&text).then(|| text.into_owned())
}

/// True for a text that may name something.
#[must_use]
pub fn is_identifier(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '@' | '|' | '+');
    (1..=128).contains(&text.len()) && text.chars().all(fits) && text != "." && text != ".."
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_lines_of_the_table_are_the_same_request() {
        // Parameters are renamed away, so that `:a` and `:b` at the same place count as the same.
        let shape =
            |p: &str| p.split('/').map(|s| if s.starts_with(':') { ":" } else { s }).collect::<Vec<_>>().join("/");
        let mut seen = HashSet::new();
        let mut routes = HashSet::new();
        for (_, method, pattern, route) in TABLE {
            assert!(seen.insert((*method, shape(pattern))), "{method} {pattern} stands twice");
            assert!(routes.insert(*route), "{route:?} stands twice");
        }
    }

    #[test]
    fn every_line_of_the_table_is_found_by_its_own_path() {
        for (kind, method, pattern, route) in TABLE {
            let path: Vec<String> =
                pattern.split('/').map(|s| s.strip_prefix(':').map_or(s.to_owned(), |n| format!("the-{n}"))).collect();
            let found = find(method, &path.join("/")).unwrap_or_else(|| panic!("{method} {pattern}"));
            assert_eq!((found.route, found.kind), (*route, *kind));
            for name in pattern.split('/').filter_map(|s| s.strip_prefix(':')) {
                assert_eq!(found.param(name), format!("the-{name}"));
            }
        }
    }

    #[test]
    fn every_kind_finds_in_its_path_what_it_checks() {
        for (kind, _, pattern, _) in TABLE {
            let needs: &[&str] = match kind {
                Kind::Public => &[],
                Kind::User => &[":user"],
                Kind::Agent => &[":town", ":rig", ":agent"],
                Kind::Rig => &[":town", ":rig"],
                Kind::Town
                | Kind::TownOrContainer
                | Kind::Mayor
                | Kind::Container
                | Kind::Refresh
                | Kind::Socket
                | Kind::Internal => &[":town"],
            };
            for part in needs {
                assert!(pattern.split('/').any(|s| s == *part), "{kind:?} {pattern} lacks {part}");
            }
        }
    }

    #[test]
    fn only_health_is_open_to_everybody() {
        let public: Vec<_> = TABLE.iter().filter(|(k, ..)| *k == Kind::Public).map(|(.., p, _)| *p).collect();
        assert_eq!(public, ["/", "/health"]);
    }

    #[test]
    fn a_literal_part_wins_over_a_parameter() {
        let found = find("POST", "/api/towns/t/rigs/r/agents/get-or-create").unwrap();
        assert_eq!(found.route, Route::GetOrCreateAgent);
    }

    #[test]
    fn the_mayors_pseudo_rig_is_a_rig_like_any_other() {
        let found = find("POST", "/api/towns/t/rigs/mayor-t/agents/a/heartbeat").unwrap();
        assert_eq!((found.route, found.param("rig")), (Route::Heartbeat, "mayor-t"));
    }

    #[test]
    fn a_scope_may_be_escaped_or_not() {
        for path in ["/api/towns/t/breakers/rig:r1", "/api/towns/t/breakers/rig%3Ar1"] {
            assert_eq!(find("GET", path).unwrap().param("scope"), "rig:r1");
        }
    }

    #[test]
    fn anything_else_is_no_route() {
        for (method, path) in [
            ("GET", "/health/"),
            ("POST", "/health"),
            ("GET", "/api/towns//config"),
            ("GET", "/api/towns/t/config/x"),
            ("GET", "/api/towns/a%2Fb/config"),
            ("GET", "/api/towns/%ff/config"),
            ("GET", "/api/towns/../config"),
            ("GET", ""),
            ("get", "/health"),
        ] {
            assert_eq!(find(method, path), None, "{method} {path}");
        }
        assert_eq!(find("GET", &format!("/api/towns/{}/config", "x".repeat(129))), None);
    }
}
