//! What a configuration accepts, shows and decides.

use super::super::sql::{Arg, Row, SqlError, Undo, Usage, Value};
use super::*;
use crate::town::error::Cause;
use proptest::prelude::*;
use std::cell::RefCell;

/// A database that has only the table `config`.
#[derive(Default)]
struct ConfigTable(RefCell<Option<String>>);

impl Sql for ConfigTable {
    fn query(&self, sql: &'static str, args: &[Arg<'_>]) -> Result<Vec<Row>, SqlError> {
        assert!(sql.starts_with("SELECT json FROM config WHERE id = 1") && args.is_empty());
        Ok(self.0.borrow().iter().map(|json| Row(vec![Value::Text(json.clone())])).collect())
    }
    fn execute(&self, sql: &'static str, args: &[Arg<'_>]) -> Result<u64, SqlError> {
        assert!(sql.starts_with("INSERT INTO config") && sql.contains("ON CONFLICT (id) DO UPDATE"));
        let [Arg::Text(json)] = args else { panic!("{args:?}") };
        *self.0.borrow_mut() = Some((*json).to_owned());
        Ok(1)
    }
    fn savepoint(&self, _: &mut dyn FnMut() -> Result<(), Undo>) -> Result<(), SqlError> {
        Ok(())
    }
    fn script(&self, _: &'static str) -> Result<(), SqlError> {
        Ok(())
    }
    fn usage(&self) -> Usage {
        Usage::default()
    }
}

#[allow(clippy::needless_pass_by_value, reason = "so that tests can write json!(…)")]
fn patched(patch: Json) -> Result<Config, TownError> {
    Config::defaults().patched(&patch)
}

fn refused(patch: Json) -> (u16, String) {
    match patched(patch).unwrap_err().into_cause() {
        Cause::Invalid { field, message } => {
            assert!(message.starts_with(&field) || field == "config", "{message}");
            (422, field)
        }
        Cause::Malformed(message) => (400, message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_town_has_the_seeded_settings_and_the_defaults_of_the_policy_table() {
    let c = Config::defaults();
    assert_eq!(c.dispatch, DispatchPolicy::default());
    assert_eq!(c.breaker, BreakerPolicy::default());
    assert_eq!(c.notify, NotifyPolicy::default());
    assert_eq!(c.merge_strategy, MergeStrategy::Direct);
    assert_eq!(c.refinery.review_mode, "comments");
    assert!(c.refinery.code_review && c.refinery.auto_resolve_pr_feedback && c.staged_convoys_default);
    assert_eq!(c.refinery.auto_merge_delay_minutes, Some(5));
    assert_eq!(c.convoy_merge_mode, "review-then-land");
    assert_eq!(c, Config::default());
    assert_eq!(c, Config::from_json("{}").unwrap());
}

#[test]
fn the_defaults_are_those_of_the_design() {
    let shown = Config::defaults().masked();
    assert_eq!(
        shown["dispatch"],
        json!({"max_attempts": 5, "backoff_ms": [120_000, 300_000, 600_000, 1_800_000], "jitter": 0.1,
            "start_timeout_ms": 60_000, "heartbeat_timeout_ms": 90_000, "boot_timeout_ms": 120_000, "max_agents": 20,
            "max_polecats_per_rig": 10, "max_starts_in_flight": 6, "max_review_rounds": 5})
    );
    assert_eq!(
        shown["breaker"],
        json!({"failures": 20, "window_ms": 1_800_000, "consecutive": 5, "rig_consecutive": 3,
            "probe_ms": [120_000, 300_000, 600_000, 1_200_000, 1_800_000], "probe_jitter": 0.2})
    );
    assert_eq!(
        shown["notify"],
        json!({"webhook_url": null, "webhook_secret": null, "still_open_ms": 3_600_000, "rollup_ms": 600_000})
    );
    assert_eq!(shown["max_polecats_per_rig"], 10);
}

#[test]
fn settings_survive_the_database_and_none_stored_means_defaults() {
    let sql = ConfigTable::default();
    assert_eq!(Config::load(&sql).unwrap(), Config::defaults());
    let c = patched(json!({"env_vars": {"A_TOKEN": "abcdefgh"}, "dispatch": {"jitter": 0}})).unwrap();
    c.store(&sql).unwrap();
    assert_eq!(Config::load(&sql).unwrap(), c);
}

#[test]
fn a_stored_value_that_this_version_refuses_counts_as_absent() {
    let c = Config::from_json(
        r#"{"dispatch": {"max_attempts": 0, "max_agents": 7, "gone": 1}, "breaker": 5, "merge_strategy": "squash"}"#,
    )
    .unwrap();
    assert_eq!((c.dispatch.max_attempts, c.dispatch.max_agents), (5, 7));
    assert_eq!(c.breaker, BreakerPolicy::default());
    assert_eq!(c.merge_strategy, MergeStrategy::Direct);
    for broken in ["", "[]", "null", "{"] {
        assert_eq!(Config::from_json(broken).unwrap_err().status(), 500);
        assert_eq!(RigConfig::from_json(broken).unwrap_err().status(), 500);
    }
}

#[test]
fn a_patch_merges_the_grouped_keys_and_replaces_other_objects() {
    let c = patched(json!({
        "env_vars": {"A": "1", "B": "2"}, "role_models": {"mayor": "m", "polecat": "p"},
        "refinery": {"gates": ["make test"]}, "custom_instructions": {"mayor": "be brief\nand kind"},
        "dispatch": {"max_agents": 3}, "git_auth": {"github_token": "ghp_abcdef"},
    }))
    .unwrap();
    let c = c
        .patched(&json!({
            "env_vars": {"B": "3"}, "role_models": {"polecat": "q"}, "refinery": {"code_review": false},
            "custom_instructions": {"polecat": "x"}, "dispatch": {"max_attempts": 2},
            "git_auth": {"gitlab_token": "glpat-x"}, "no_such_key": {"a": 1}, "container": {},
        }))
        .unwrap();
    assert_eq!(c.env_vars, BTreeMap::from([("B".to_owned(), "3".to_owned())]));
    assert_eq!(c.role_models, PerRole { polecat: Some("q".to_owned()), ..PerRole::default() });
    assert_eq!((c.refinery.gates.len(), c.refinery.code_review), (1, false));
    assert_eq!(c.custom_instructions.of("mayor"), Some("be brief\nand kind"));
    assert_eq!(c.custom_instructions.of("polecat"), Some("x"));
    assert_eq!((c.dispatch.max_agents, c.dispatch.max_attempts), (3, 2));
    assert_eq!(c.git_auth.github_token.as_deref(), Some("ghp_abcdef"));
    assert!(c.masked().get("no_such_key").is_none());
}

#[test]
fn null_resets_a_key_or_a_whole_group_and_an_empty_model_clears_it() {
    let c = patched(json!({
        "dispatch": {"max_agents": 3, "backoff_ms": [100]}, "breaker": {"failures": 1}, "default_model": "m",
        "notify": {"webhook_url": "https://h/x"}, "refinery": {"auto_merge_delay_minutes": null, "gates": ["x"]},
    }))
    .unwrap();
    assert_eq!(c.refinery.auto_merge_delay_minutes, None);
    assert_eq!(c.default_model.as_deref(), Some("m"));
    let c = c
        .patched(&json!({
            "dispatch": {"max_agents": null}, "breaker": null, "default_model": "", "notify": {"webhook_url": null},
            "refinery": {"gates": null},
        }))
        .unwrap();
    assert_eq!((c.dispatch.max_agents, c.dispatch.backoff_ms.as_slice()), (20, &[100][..]));
    assert_eq!(c.breaker, BreakerPolicy::default());
    assert_eq!((c.default_model, c.notify.webhook_url), (None, None));
    assert!(c.refinery.gates.is_empty());
}

#[test]
fn what_is_out_of_range_is_refused_with_the_path_of_its_field() {
    for (patch, field) in [
        (json!({"dispatch": {"max_attempts": 0}}), "dispatch.max_attempts"),
        (json!({"dispatch": {"max_attempts": 501}}), "dispatch.max_attempts"),
        (json!({"dispatch": {"max_attempts": 1.5}}), "dispatch.max_attempts"),
        (json!({"dispatch": {"max_attempts": "5"}}), "dispatch.max_attempts"),
        (json!({"dispatch": {"backoff_ms": [100, 99]}}), "dispatch.backoff_ms[1]"),
        (json!({"dispatch": {"backoff_ms": [100, null]}}), "dispatch.backoff_ms[1]"),
        (json!({"dispatch": {"backoff_ms": []}}), "dispatch.backoff_ms"),
        (json!({"dispatch": {"backoff_ms": vec![100; 21]}}), "dispatch.backoff_ms"),
        (json!({"dispatch": {"jitter": 1.01}}), "dispatch.jitter"),
        (json!({"dispatch": {"jitter": -0.1}}), "dispatch.jitter"),
        (json!({"dispatch": {"start_timeout_ms": 86_400_001}}), "dispatch.start_timeout_ms"),
        (json!({"dispatch": []}), "dispatch"),
        (json!({"max_polecats_per_rig": 0}), "max_polecats_per_rig"),
        (json!({"breaker": {"probe_ms": [86_400_001]}}), "breaker.probe_ms[0]"),
        (json!({"breaker": {"rig_consecutive": 0}}), "breaker.rig_consecutive"),
        (json!({"notify": {"rollup_ms": 99}}), "notify.rollup_ms"),
        (json!({"notify": {"webhook_url": "ftp://h/x"}}), "notify.webhook_url"),
        (json!({"notify": {"webhook_url": "https://"}}), "notify.webhook_url"),
        (json!({"notify": {"webhook_url": "https://u:p@h/"}}), "notify.webhook_url"),
        (json!({"notify": {"webhook_url": "https://h/a b"}}), "notify.webhook_url"),
        (json!({"notify": {"webhook_url": "https://:80/"}}), "notify.webhook_url"),
        (json!({"notify": {"webhook_url": format!("https://h/{}", "x".repeat(2_048))}}), "notify.webhook_url"),
        (json!({"notify": {"webhook_secret": 5}}), "notify.webhook_secret"),
        (json!({"notify": {"webhook_secret": "****abcd"}}), "notify.webhook_secret"),
        (json!({"merge_strategy": "squash"}), "merge_strategy"),
        (json!({"convoy_merge_mode": true}), "convoy_merge_mode"),
        (json!({"custom_instructions": {"mayor": "ü".repeat(2_001)}}), "custom_instructions.mayor"),
        (json!({"refinery": {"gates": ["ok", " "]}}), "refinery.gates[1]"),
        (json!({"refinery": {"auto_merge_delay_minutes": -1}}), "refinery.auto_merge_delay_minutes"),
        (json!({"container": {"sleep_after_minutes": 4}}), "container.sleep_after_minutes"),
        (json!({"alarm_interval_active": 601}), "alarm_interval_active"),
        (json!({"default_model": "a\nb"}), "default_model"),
        (json!({"env_vars": {"A": 1}}), "env_vars.A"),
        (json!({"env_vars": {"API_KEY": "****abcd"}}), "env_vars.API_KEY"),
        (json!({"env_vars": []}), "env_vars"),
        (json!({"env_vars": {"A": "x".repeat(65_536)}}), "config"),
    ] {
        assert_eq!(refused(patch.clone()), (422, field.to_owned()), "{patch}");
    }
}

#[test]
fn the_ends_of_every_range_are_accepted() {
    let c = patched(json!({
        "dispatch": {"max_attempts": 500, "backoff_ms": vec![100; 20], "jitter": 1, "start_timeout_ms": 100,
            "heartbeat_timeout_ms": 86_400_000, "max_starts_in_flight": 1},
        "breaker": {"probe_jitter": 0, "probe_ms": [86_400_000]},
        "notify": {"webhook_url": "HTTP://127.0.0.1:8099/hook?x=1", "webhook_secret": "s"},
        "custom_instructions": {"mayor": "ü".repeat(2_000)},
        "git_auth": {"gitlab_instance_url": "https://[::1]/"},
    }))
    .unwrap();
    assert_eq!((c.dispatch.max_attempts, c.dispatch.backoff_ms.len()), (500, 20));
    assert!((c.dispatch.jitter - 1.0).abs() < f64::EPSILON);
    assert_eq!(c.breaker.probe_ms, [86_400_000]);
    assert_eq!(c.notify.webhook_secret.as_deref(), Some("s"));
}

#[test]
fn pull_requests_are_a_town_s_choice_and_a_rig_s_and_new_towns_merge_directly() {
    let (town, none) = (patched(json!({"merge_strategy": "pr"})).unwrap(), RigConfig::defaults());
    let own = none.patched(&json!({"merge_strategy": "direct", "auto_merge_delay_minutes": 0})).unwrap();
    assert_eq!(Config::defaults().merge_strategy, MergeStrategy::Direct);
    assert_eq!((merge_strategy(&town, &none), merge_strategy(&town, &own)), (MergeStrategy::Pr, MergeStrategy::Direct));
    assert_eq!((own.auto_merge_delay_minutes, none.auto_merge_delay_minutes), (Some(0), None));
}

#[test]
fn a_poisoned_name_of_a_variable_is_told_briefly_and_without_control_characters() {
    let long = "token".repeat(12_000);
    for (name, value) in [(long.as_str(), json!(1)), (long.as_str(), json!("****")), ("a\0\u{1b}[31m", json!("x"))] {
        let said = format!("{:?}", Config::defaults().patched(&json!({ "env_vars": { name: value } })).unwrap_err());
        assert!(said.len() < 500, "{} bytes", said.len());
        let text = Config::defaults().patched(&json!({ "env_vars": { name: value } })).unwrap_err().to_string();
        assert!(!text.contains(char::is_control), "{text:?}");
    }
}

#[test]
fn names_of_environment_variables_are_checked_in_the_predecessors_words() {
    for key in ["1A", "A-B", "", "Ä"] {
        let message = format!("Invalid env var key \"{key}\": must be alphanumeric with underscores");
        assert_eq!(refused(json!({"env_vars": {key: "x"}})), (400, message));
    }
    let message = "Env var key \"GASTOWN_X\" uses reserved GASTOWN_ prefix".to_owned();
    assert_eq!(refused(json!({"env_vars": {"GASTOWN_X": "x"}})), (400, message));
    assert_eq!(refused(json!([])), (400, "Invalid request body".to_owned()));
    assert_eq!(refused(Json::Null), (400, "Invalid request body".to_owned()));
}

#[test]
fn the_alias_and_its_original_are_both_shown_and_the_last_one_written_wins() {
    let shown = |c: &Config| (c.masked()["max_polecats_per_rig"].clone(), c.dispatch.max_polecats_per_rig);
    let c = patched(json!({"max_polecats_per_rig": 3})).unwrap();
    assert_eq!(shown(&c), (json!(3), 3));
    let c = c.patched(&json!({"dispatch": {"max_polecats_per_rig": 4}})).unwrap();
    assert_eq!(shown(&c), (json!(4), 4));
    for key in ["/max_polecats_per_rig", "/dispatch/max_polecats_per_rig"] {
        let mut whole = c.masked();
        *whole.pointer_mut(key).unwrap() = json!(9);
        assert_eq!(shown(&c.patched(&whole).unwrap()), (json!(9), 9), "{key}");
    }
    let c = c.patched(&json!({"dispatch": null, "max_polecats_per_rig": 6})).unwrap();
    assert_eq!(shown(&c), (json!(6), 6));
    assert_eq!(shown(&c.patched(&json!({"max_polecats_per_rig": null})).unwrap()), (json!(10), 10));
}

fn with_secrets() -> Config {
    patched(json!({
        "env_vars": {"DB_PASSWORD": "hunter2hunter2", "PIN_KEY": "1234", "PLAIN": "visible"},
        "git_auth": {"github_token": "ghp_0123456789", "gitlab_token": "glpat-9876543210"},
        "github_cli_pat": "github_pat_zyxwvu9", "kilocode_token": "kilo-token-value",
        "notify": {"webhook_secret": "whsec-abcdefgh", "webhook_url": "https://hooks.example/T/B"},
    }))
    .unwrap()
}

#[test]
fn secrets_are_masked_when_read_the_cli_token_too() {
    let shown = with_secrets().masked();
    for (pointer, value) in [
        ("/env_vars/DB_PASSWORD", "****ter2"),
        ("/env_vars/PIN_KEY", "****"),
        ("/env_vars/PLAIN", "visible"),
        ("/git_auth/github_token", "****6789"),
        ("/git_auth/gitlab_token", "****3210"),
        ("/github_cli_pat", "****wvu9"),
        ("/kilocode_token", "****alue"),
        ("/notify/webhook_secret", "****efgh"),
        ("/notify/webhook_url", "https://hooks.example/T/B"),
    ] {
        assert_eq!(shown.pointer(pointer), Some(&json!(value)), "{pointer}");
    }
}

#[test]
fn settings_that_were_read_can_be_sent_back_whole_and_change_nothing() {
    for c in [Config::defaults(), with_secrets(), with_secrets().owned_by("user-1")] {
        assert_eq!(c.patched(&c.masked()).unwrap(), c);
        assert_eq!(c.patched(&json!({})).unwrap(), c);
    }
}

#[test]
fn every_key_is_always_there_when_settings_are_read() {
    let shown = Config::defaults().masked();
    for group in TOWN {
        let object = if group.name.is_empty() { &shown } else { &shown[group.name] };
        for (key, _, _) in group.fields {
            assert!(object.get(key).is_some(), "{}.{key}", group.name);
        }
    }
    assert_eq!(shown["role_models"], json!({"mayor": null, "refinery": null, "polecat": null}));
    assert!(RigConfig::defaults().shown()["max_dispatch_attempts"].is_null());
}

#[test]
fn who_owns_a_town_is_shown_but_cannot_be_set() {
    let c = Config::defaults().owned_by("u1");
    assert_eq!(c.masked()["owner_user_id"], "u1");
    assert_eq!(c.patched(&json!({"owner_user_id": "u2", "owner_type": "org"})).unwrap(), c);
    let sql = ConfigTable::default();
    c.store(&sql).unwrap();
    assert_eq!(Config::load(&sql).unwrap(), c);
}

#[test]
fn what_is_printed_for_debugging_holds_no_secret() {
    let c = with_secrets();
    let printed = format!("{c:?} {:?} {:?}", c.notify, c.git_auth);
    for secret in ["hunter2", "ghp_0123", "glpat-98", "github_pat_z", "kilo-token", "whsec", "1234\""] {
        assert!(!printed.contains(secret), "{secret} in {printed}");
    }
}

#[test]
fn a_rig_overrides_its_town_and_null_inherits_again() {
    let town = patched(json!({
        "role_models": {"polecat": "town-polecat", "mayor": "town-mayor"}, "default_model": "town-default",
        "refinery": {"gates": ["town"]}, "custom_instructions": {"polecat": "town", "mayor": "mayor"},
    }))
    .unwrap();
    let none = RigConfig::defaults();
    assert_eq!((effective_max_attempts(&town, &none), effective_max_polecats(&town, &none)), (5, 10));
    assert!(code_review(&town, &none));
    assert_eq!(merge_strategy(&town, &none), MergeStrategy::Direct);
    assert_eq!(gates(&town, &none), ["town"]);
    assert_eq!(custom_instructions("polecat", &town, &none).as_deref(), Some("town"));

    let rig = none
        .patched(&json!({
            "max_dispatch_attempts": 2, "max_concurrent_polecats": 1, "code_review": false, "gates": [],
            "role_models": {"polecat": "rig-polecat"}, "default_model": "rig-default",
            "custom_instructions": {"polecat": "rig"}, "unknown": 1, "merge_strategy": "direct",
        }))
        .unwrap();
    assert_eq!((effective_max_attempts(&town, &rig), effective_max_polecats(&town, &rig)), (2, 1));
    assert!(!code_review(&town, &rig));
    assert!(gates(&town, &rig).is_empty());
    assert_eq!(custom_instructions("polecat", &town, &rig).as_deref(), Some("rig"));
    assert_eq!(custom_instructions("mayor", &town, &rig).as_deref(), Some("mayor"));
    assert_eq!(custom_instructions("refinery", &town, &rig), None);
    assert_eq!(RigConfig::from_json(&rig.to_json()).unwrap(), rig);
    assert_eq!(rig.patched(&rig.shown()).unwrap(), rig);
    let again = rig.patched(&json!({"gates": null, "max_dispatch_attempts": null})).unwrap();
    assert_eq!((gates(&town, &again).len(), effective_max_attempts(&town, &again)), (1, 5));
    assert_eq!(RigConfig::from_json("{}").unwrap(), RigConfig::default());
    let refused = rig.patched(&json!({"max_concurrent_polecats": 0})).unwrap_err();
    assert!(matches!(refused.cause(), Cause::Invalid { field, .. } if field == "max_concurrent_polecats"));
}

#[test]
fn models_are_resolved_from_rig_role_to_town_role_to_rig_to_town_to_ours() {
    let nothing = (Config::defaults(), RigConfig::defaults());
    assert_eq!(resolve_model("polecat", &nothing.0, &nothing.1), "anthropic/claude-sonnet-4.6");
    assert_eq!(small_model(&nothing.0), "anthropic/claude-haiku-4.5");
    let town = patched(json!({"default_model": "t", "role_models": {"refinery": "tr"}, "small_model": "s"})).unwrap();
    let rig = RigConfig::defaults().patched(&json!({"default_model": "r", "role_models": {"polecat": "rp"}})).unwrap();
    assert_eq!(resolve_model("polecat", &town, &rig), "rp");
    assert_eq!(resolve_model("refinery", &town, &rig), "tr");
    assert_eq!(resolve_model("mayor", &town, &rig), "t");
    assert_eq!(
        resolve_model("polecat", &Config::defaults(), &nothing.1.patched(&json!({"default_model": "r"})).unwrap()),
        "r"
    );
    assert_eq!(small_model(&town), "s");
}

#[test]
fn agents_get_the_towns_credentials_and_users_cannot_shadow_them() {
    let c = with_secrets().patched(&json!({"disable_ai_coauthor": true, "git_author_name": "Jo"})).unwrap();
    let env = system_env(&c);
    assert_eq!(env.get("GIT_TOKEN").map(String::as_str), Some("ghp_0123456789"));
    assert_eq!(env.get("GASTOWN_DISABLE_AI_COAUTHOR").map(String::as_str), Some("1"));
    assert_eq!(env.get("GASTOWN_GIT_AUTHOR_NAME").map(String::as_str), Some("Jo"));
    assert!(!env.contains_key("GASTOWN_GIT_AUTHOR_EMAIL"));
    assert!(system_env(&Config::defaults()).is_empty());
    let c = patched(json!({"env_vars": {"GH_TOKEN": "x", "MINE": "y"}})).unwrap();
    assert_eq!(c.user_env().into_keys().collect::<Vec<_>>(), ["MINE"]);
}

proptest! {
    #[test]
    fn any_patch_is_applied_or_refused_and_leaves_settings_that_read_back(
        group in proptest::sample::select(vec!["dispatch", "breaker", "notify", "refinery", "env_vars", "git_auth", "role_models"]),
        key in proptest::sample::select(vec!["max_attempts", "backoff_ms", "jitter", "failures", "probe_ms", "gates", "webhook_url", "A", "github_token"]),
        value in proptest::sample::select(vec![
            json!(null), json!(0), json!(1), json!(500), json!(1e300), json!(-1), json!("x"), json!(""), json!("****abcd"),
            json!([100]), json!([]), json!({}), json!(true), json!("https://h/"), json!(u64::MAX),
        ]),
    ) {
        for patch in [json!({group: {key: value.clone()}}), json!({group: value.clone()}), json!({key: value.clone()})] {
            if let Ok(c) = patched(patch.clone()) {
                prop_assert_eq!(&Config::from_json(&c.raw.to_string()).unwrap(), &c);
                prop_assert_eq!(&c.patched(&c.masked()).unwrap(), &c);
            }
            if let Ok(c) = RigConfig::defaults().patched(&patch) {
                prop_assert_eq!(&RigConfig::from_json(&c.to_json()).unwrap(), &c);
            }
        }
    }
}
