-- The rows of one agent: what its runtime said, and its session as it was saved last. Times are integer milliseconds.

-- `id` ascends by one from 1, so that the newest n are those above max(id) - n.
CREATE TABLE events (
  id         INTEGER PRIMARY KEY,
  event_type TEXT NOT NULL,
  -- a JSON object, as it goes out
  data       TEXT NOT NULL,
  -- of the last event of a request: which request it was; the runtime may repeat one
  request    TEXT,
  created_at INTEGER NOT NULL
) STRICT;

-- The snapshot that counts. Its bytes are the `parts` rows of `snapshot_parts` from place 64 × upload on; whatever else
-- stands there is an upload on its way, or one that ended half-way.
CREATE TABLE snapshot (
  id        INTEGER PRIMARY KEY CHECK (id = 1),
  upload    INTEGER NOT NULL,
  parts     INTEGER NOT NULL,
  stored_at INTEGER NOT NULL
) STRICT;

CREATE TABLE snapshot_parts (
  place INTEGER PRIMARY KEY,
  bytes BLOB NOT NULL
) STRICT;
