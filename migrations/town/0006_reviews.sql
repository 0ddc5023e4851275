-- A merge request whose fate is a forge's to decide: its pull request is to be opened, or is open and watched. The row
-- exists while the merge request is `in_progress` without a refinery; its url is in `merge_requests.pr_url`.
CREATE TABLE pull_requests (
  bead_id      TEXT PRIMARY KEY,
  -- `open` = it is to be opened, `poll` = it is watched
  step         TEXT NOT NULL,
  -- when the forge is asked next; while a call is in the air, the end of its lease
  due_at       INTEGER NOT NULL,
  sent_until   INTEGER,
  -- calls booked so far: only the outcome of the last one counts
  calls        INTEGER NOT NULL DEFAULT 0,
  -- the newest commit that was seen, since when nothing stands against merging it, and one that the forge refused to merge
  head         TEXT,
  green_since  INTEGER,
  refused_head TEXT,
  -- failed calls in a row, by kind, and what was said last
  transient    INTEGER NOT NULL DEFAULT 0,
  malformed    INTEGER NOT NULL DEFAULT 0,
  last_error   TEXT,
  -- the newest bead that was made to repair it
  fixup_bead_id TEXT
) WITHOUT ROWID, STRICT;
CREATE INDEX pull_requests_due ON pull_requests (due_at);
CREATE INDEX pull_requests_sent ON pull_requests (sent_until) WHERE sent_until IS NOT NULL;
