-- The registry: which towns and rigs exist, whose they are, and how each town last said it stands.
-- `seq` is the order of arrival; ids are random and order nothing.

CREATE TABLE towns (
  seq           INTEGER PRIMARY KEY,
  id            TEXT    NOT NULL UNIQUE,
  name          TEXT    NOT NULL,
  owner_user_id TEXT    NOT NULL,
  created_at    INTEGER NOT NULL,
  updated_at    INTEGER NOT NULL
) STRICT;

CREATE INDEX towns_by_owner ON towns (owner_user_id, seq);

CREATE TABLE rigs (
  seq                     INTEGER PRIMARY KEY,
  id                      TEXT    NOT NULL UNIQUE,
  town_id                 TEXT    NOT NULL REFERENCES towns (id) ON DELETE CASCADE,
  name                    TEXT    NOT NULL,
  git_url                 TEXT    NOT NULL,
  default_branch          TEXT    NOT NULL,
  platform_integration_id TEXT,
  created_at              INTEGER NOT NULL,
  updated_at              INTEGER NOT NULL
) STRICT;

CREATE INDEX rigs_by_town ON rigs (town_id, seq);

-- One row per town that has ever reported: what the search for silent towns will read (design.md 6).
CREATE TABLE reports (
  town_id     TEXT    PRIMARY KEY REFERENCES towns (id) ON DELETE CASCADE,
  breaker     TEXT    NOT NULL,
  next_wake   INTEGER,
  open_work   INTEGER NOT NULL,
  reported_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
