//! A database that other code wrote is refused and not touched.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

use gastown::town::migrate::{MIGRATIONS, MigrateError, migrate};
use gastown::town::sql::Sql;
use gastown::town::time::Timestamp;
use gastown_host::sqlite::Sqlite;
use gastown_host::world::World;

const NOW: Timestamp = Timestamp(1_795_168_800_000);

fn migrated() -> Sqlite {
    let db = Sqlite::memory();
    migrate(&db, NOW).unwrap();
    db
}

/// Refused, nothing touched, and again so the next time.
fn refused(db: &Sqlite) -> MigrateError {
    let before = db.dump();
    let error = migrate(db, NOW.plus(1)).unwrap_err();
    assert_eq!(db.dump(), before, "a refusal touches nothing");
    assert_eq!(migrate(db, NOW.plus(2)).unwrap_err(), error);
    error
}

#[test]
fn every_migration_is_applied_once_and_recorded_with_its_checksum() {
    let db = migrated();
    let rows = db.peek("SELECT id, name, checksum, applied_at FROM migrations ORDER BY id", &[]);
    assert_eq!(rows.len(), MIGRATIONS.len());
    for (row, migration) in rows.iter().zip(MIGRATIONS) {
        assert_eq!((row.int(0).unwrap(), row.text(1).unwrap()), (migration.id, migration.name.to_owned()));
        let checksum = row.text(2).unwrap();
        assert!(checksum.len() == 64 && checksum.bytes().all(|b| b.is_ascii_hexdigit()), "{checksum}");
        assert_eq!(row.int(3).unwrap(), NOW.0);
    }
    let before = db.dump();
    migrate(&db, NOW.plus(1_000)).unwrap();
    assert_eq!(db.dump(), before, "the second time there is nothing to do");
}

#[test]
fn a_migration_that_was_changed_after_it_was_applied_is_refused_by_name() {
    let db = migrated();
    db.execute("UPDATE migrations SET checksum = 'of another text' WHERE id = 1", &[]).unwrap();
    let error = refused(&db);
    assert!(matches!(&error, MigrateError::Changed { name, .. } if name == MIGRATIONS[0].name), "{error:?}");
    let words = error.to_string();
    assert!(words.contains(MIGRATIONS[0].name) && words.contains("of another text"), "{words}");
}

#[test]
fn a_migration_that_only_a_newer_build_knows_is_refused_by_name() {
    let db = migrated();
    db.execute("INSERT INTO migrations (id, name, checksum, applied_at) VALUES (9999, '9999_future', 'x', 0)", &[])
        .unwrap();
    let error = refused(&db);
    assert!(matches!(&error, MigrateError::Unknown { name } if name == "9999_future"), "{error:?}");
    assert!(error.to_string().contains("9999_future"));
}

#[test]
fn a_town_with_work_in_it_survives_a_refusal_and_goes_on_when_the_right_build_is_back() {
    let dir = std::env::temp_dir().join(format!("gastown-migrations-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("town.sqlite");
    {
        let mut w = World::on_file(&path, 1);
        w.found_town();
        let rig = w.add_rig("main");
        w.sling(&rig, "waits for the right build");
    }
    let db = Sqlite::open(&path);
    let checksum = db.peek("SELECT checksum FROM migrations WHERE id = 1", &[])[0].text(0).unwrap();
    db.execute("UPDATE migrations SET checksum = 'x' WHERE id = 1", &[]).unwrap();
    refused(&db);
    db.execute("UPDATE migrations SET checksum = ?1 WHERE id = 1", &[(&checksum).into()]).unwrap();
    drop(db);
    let mut w = World::on_file(&path, 2);
    w.run_for(600_000);
    let left = w.sql.peek("SELECT count(*) FROM beads WHERE status <> 'closed'", &[])[0].int(0).unwrap();
    assert_eq!(left, 0);
    drop(w);
    std::fs::remove_dir_all(&dir).unwrap();
}
