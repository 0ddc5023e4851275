use super::*;
use gastown::town::sql::{Arg, atomically};

fn db() -> Sqlite {
    let db = Sqlite::memory();
    db.script(
        "CREATE TABLE parents (id TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
         CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER, parent TEXT REFERENCES parents (id)) STRICT, WITHOUT ROWID;
         CREATE INDEX t_n ON t (n);
         CREATE INDEX t_due ON t (n) WHERE n > 100;
         CREATE INDEX t_parent ON t (parent);",
    )
    .unwrap();
    db
}

fn ids(db: &Sqlite) -> Vec<String> {
    db.peek("SELECT id FROM t ORDER BY id", &[]).iter().map(|r| r.text(0).unwrap()).collect()
}

fn put(db: &Sqlite, id: &str) -> Result<u64, SqlError> {
    db.execute("INSERT INTO t (id, n) VALUES (?1, 1)", &[id.into()])
}

#[test]
fn savepoints_nest_and_each_undoes_exactly_what_it_wrote() {
    let db = db();
    let outer: Result<(), SqlError> = atomically(&db, || {
        put(&db, "a")?;
        let inner: Result<(), SqlError> = atomically(&db, || {
            put(&db, "b")?;
            let _: () = atomically(&db, || put(&db, "c").map(|_| ()))?;
            Err(SqlError::new("no"))
        });
        assert_eq!(inner, Err(SqlError::new("no")));
        put(&db, "d")?;
        Ok(())
    });
    assert_eq!(outer, Ok(()));
    assert_eq!(ids(&db), ["a", "d"]);
    assert_eq!(db.depth.get(), 0);
}

#[test]
fn a_panic_in_a_savepoint_leaves_neither_rows_nor_an_open_transaction() {
    let db = db();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _: Result<(), SqlError> = atomically(&db, || {
            put(&db, "a")?;
            panic!("on purpose")
        });
    }));
    assert!(caught.is_err());
    assert!(ids(&db).is_empty() && db.depth.get() == 0);
    put(&db, "b").unwrap();
    assert_eq!(ids(&db), ["b"]);
}

#[test]
fn what_workerd_refuses_is_refused_here() {
    let db = db();
    for sql in [
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT x",
        "RELEASE x",
        "ATTACH 'x' AS y",
        "PRAGMA user_version",
        "PRAGMA user_version = 3",
        "PRAGMA journal_mode",
        "PRAGMA page_size = 512",
        "CREATE TEMP TABLE x (a)",
        "CREATE TABLE _cf_x (a)",
        "CREATE TABLE _CF_x (a)",
        "CREATE INDEX _cf_i ON t (n)",
        "SELECT sqlite_version()",
        "SELECT json_pretty('{}')",
        "SELECT load_extension('x')",
    ] {
        let error = db.query(sql, &[]).expect_err(sql);
        assert!(error.message.contains("not authorized") || sql.contains("load_extension"), "{sql}: {error}");
    }
    for sql in [
        "PRAGMA page_size",
        "PRAGMA table_info(t)",
        "PRAGMA defer_foreign_keys = ON",
        "SELECT unixepoch(), json_extract('{}', '$.a'), json('{}') ->> 'a', '{}' -> 'a', 'x' LIKE 'X', 'a' || 'b'",
        "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 3) SELECT n FROM c",
        "SELECT value FROM json_each('[1,2]')",
        "SELECT count(*) OVER (), max(n), sum(n), group_concat(id) FROM t",
        "ALTER TABLE t ADD COLUMN more TEXT",
        "ALTER TABLE t RENAME COLUMN more TO less",
        "ALTER TABLE t DROP COLUMN less",
        "ANALYZE",
    ] {
        db.query(sql, &[]).unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
}

#[test]
fn the_platforms_limits_hold() {
    let db = db();
    let refused = |sql: String, args: &[Arg<'_>], word: &str| {
        let e = db.query(sql.leak(), args).expect_err("over a limit");
        assert!(e.message.contains(word), "{e}");
    };
    let list = |n: usize, item: &str| vec![item; n].join(", ");
    refused(format!("SELECT '{}'", "x".repeat(100_000)), &[], "too long");
    refused("SELECT ?1".to_owned(), &[Arg::Text(&"x".repeat(2_200_001))], "SQLITE_TOOBIG");
    refused(format!("SELECT max({})", list(101, "?")), &[], "too many SQL variables");
    refused(format!("SELECT {}", list(101, "1")), &[], "too many columns");
    refused("SELECT 'a' LIKE ?1".to_owned(), &[Arg::Text(&"x".repeat(51))], "pattern too complex");
    refused(format!("SELECT max({})", list(128, "1")), &[], "too many arguments");
    refused(["SELECT 1"; 6].join(" UNION ALL "), &[], "too many terms in compound SELECT");
    refused(format!("SELECT {}1{}", "abs(".repeat(101), ")".repeat(101)), &[], "too large");
    db.query(format!("VALUES {}", list(500, "(1)")).leak(), &[]).expect("rows of VALUES are not compound terms");
    let hundred: Vec<Arg<'_>> = (0..100_i64).map(Arg::Int).collect();
    let there: Vec<Value> = (0..100_i64).map(Value::Int).collect();
    assert_eq!(db.query(format!("SELECT {}", list(100, "?")).leak(), &hundred).unwrap()[0].0, there);
}

#[test]
fn only_values_that_survive_javascript_pass() {
    let db = db();
    assert!(db.query("SELECT ?1", &[Arg::Int(SAFE + 1)]).is_err());
    assert!(db.query("SELECT 9007199254740992", &[]).is_err());
    assert!(db.query("SELECT 0.5", &[]).is_err());
    let row = db.query("SELECT 3.0, -9007199254740991, NULL, 'é', x'00'", &[]).unwrap().remove(0);
    assert_eq!(row.0, [Value::Int(3), Value::Int(-SAFE), Value::Null, "é".into(), Value::Blob(vec![0])]);
}

#[test]
fn errors_read_as_in_workerd() {
    let db = db();
    put(&db, "a").unwrap();
    let message = |e: SqlError| *e.message;
    assert_eq!(
        message(put(&db, "a").unwrap_err()),
        "UNIQUE constraint failed: t.id: SQLITE_CONSTRAINT (extended: SQLITE_CONSTRAINT_PRIMARYKEY)"
    );
    assert_eq!(message(db.query("SELEC", &[]).unwrap_err()), "near \"SELEC\": syntax error at offset 0: SQLITE_ERROR");
    assert_eq!(message(db.query("SELECT ?1", &[]).unwrap_err()), "Wrong number of parameter bindings for SQL query.");
    assert!(message(db.execute("INSERT INTO t VALUES ('b', 1, 'none')", &[]).unwrap_err()).contains("FOREIGNKEY"));
    assert!(message(db.execute("INSERT INTO t VALUES ('b', 'x', NULL)", &[]).unwrap_err()).contains("DATATYPE"));
    assert!(message(db.query("SELECT 1; SELECT 2", &[]).unwrap_err()).contains("one statement"));
}

#[test]
fn statements_and_changes_are_counted_and_a_miss_answers_zero() {
    let db = db();
    let before = db.usage();
    put(&db, "a").unwrap();
    assert_eq!(db.execute("UPDATE t SET n = 2 WHERE id = 'none'", &[]).unwrap(), 0);
    assert_eq!(db.execute("SELECT 1", &[]).unwrap(), 0);
    let made = db.query("INSERT INTO t (id) VALUES ('b'), ('c') RETURNING id", &[]).unwrap();
    assert_eq!(made.len(), 2);
    let after = db.usage();
    assert_eq!(after.statements - before.statements, 4);
    assert_eq!(after.rows_written - before.rows_written, 3);
    let _ = db.peek("SELECT 1", &[]);
    assert_eq!(db.usage(), after);
}

#[test]
fn an_injected_failure_strikes_once_or_breaks_the_object() {
    let db = db();
    db.fail_statement(2, SqlFault::Once);
    let ran: Result<(), SqlError> = atomically(&db, || {
        put(&db, "a")?;
        put(&db, "b")?;
        Ok(())
    });
    assert!(ran.is_err() && ids(&db).is_empty() && !db.fault_is_armed());
    db.fail_statement(2, SqlFault::Broken);
    let ran: Result<(), SqlError> = atomically(&db, || {
        put(&db, "a")?;
        let _ = put(&db, "b"); // swallowed; the object is dead all the same
        Ok(())
    });
    assert!(ran.is_err() && ids(&db).is_empty());
    assert!(put(&db, "c").is_err());
    db.heal();
    put(&db, "c").unwrap();
    assert_eq!(ids(&db), ["c"]);
}

#[test]
fn scans_of_growing_tables_are_found_under_any_name_and_partial_indexes_are_not() {
    let db = db();
    let good = [
        "SELECT n FROM t WHERE id = 'a'",
        "SELECT id FROM t WHERE n > 100 ORDER BY n",
        "SELECT id FROM t ORDER BY n DESC LIMIT 5",
        "SELECT value FROM json_each('[]')",
        "SELECT id FROM parents",
        "UPDATE t SET n = 'SCAN t' IS NULL WHERE id = 'a' -- FROM t",
        "DELETE FROM parents WHERE id = 'a'",
    ];
    let bad = [
        "SELECT id FROM t WHERE id || '' = 'a'",
        "SELECT x.id FROM t AS x WHERE x.id || '' = 'a'",
        "SELECT x.id FROM parents p JOIN t x ON x.id || '' = p.id",
        "UPDATE t SET n = 1 WHERE id || '' = 'b'",
        "DELETE FROM t WHERE id || '' = 'b'",
        "SELECT count(*) FROM t",
    ];
    for sql in good.into_iter().chain(bad) {
        db.query(sql, &[]).unwrap();
    }
    let found: BTreeSet<&str> = db.scans(&["t"]).into_iter().map(|(sql, _)| sql).collect();
    assert_eq!(found, BTreeSet::from(bad));
    assert_eq!(db.plan("SELECT id FROM t WHERE id = 'a'"), ["SEARCH t USING PRIMARY KEY (id=?)"]);
}

#[test]
fn a_file_keeps_its_rows_and_equal_databases_have_equal_dumps() {
    let path = std::env::temp_dir().join(format!("gastown-host-{}.sqlite", std::process::id()));
    let _ = std::fs::remove_file(&path);
    {
        let db = Sqlite::open(&path);
        db.script("CREATE TABLE k (id TEXT PRIMARY KEY) STRICT, WITHOUT ROWID").unwrap();
        db.execute("INSERT INTO k VALUES ('a')", &[]).unwrap();
    }
    let db = Sqlite::open(&path);
    let kept = db.dump();
    assert!(kept.contains("Text(\"a\")"), "{kept}");
    db.execute("INSERT INTO k VALUES ('b')", &[]).unwrap();
    assert_ne!(db.dump(), kept);
    drop(db);
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", path.display()));
    }
}
