-- The container of a town as its object knows it: one row. Times are integer milliseconds.

CREATE TABLE container (
  id        INTEGER PRIMARY KEY CHECK (id = 1),
  town_id   TEXT NOT NULL,
  -- Stopped, Starting, Ready, Stopping, Down
  phase     TEXT NOT NULL,
  since     INTEGER NOT NULL,
  -- who answers; NULL until it has
  instance  TEXT,
  check_at  INTEGER NOT NULL,
  misses    INTEGER NOT NULL,
  ask_at    INTEGER NOT NULL,
  needed_at INTEGER NOT NULL,
  -- falls of the window, oldest first, separated by commas
  falls     TEXT NOT NULL,
  -- how it ended last
  ended     TEXT NOT NULL
) STRICT;
