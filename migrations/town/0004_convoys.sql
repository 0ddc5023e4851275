-- Convoys: the satellite of a convoy bead. Its tasks are the beads with a `tracks` edge to it.
CREATE TABLE convoys (
  bead_id          TEXT PRIMARY KEY,
  seq              INTEGER NOT NULL,
  -- the rig of the feature branch; NULL = there is none, and its tasks may be of any rig
  rig_id           TEXT,
  merge_mode       TEXT NOT NULL,
  feature_branch   TEXT,
  staged           INTEGER NOT NULL DEFAULT 0,
  -- progress, counted on write; closed_beads counts failed ones, too
  total_beads      INTEGER NOT NULL DEFAULT 0,
  closed_beads     INTEGER NOT NULL DEFAULT 0,
  failed_beads     INTEGER NOT NULL DEFAULT 0,
  -- a task was merged into the feature branch: there is something to land
  has_work         INTEGER NOT NULL DEFAULT 0,
  -- the undecided merge request that lands it, landings that failed so far, and when the next one is due
  landing_mr       TEXT,
  landing_failures INTEGER NOT NULL DEFAULT 0,
  land_at          INTEGER,
  -- its bead is closed: lists leave it out
  landed           INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID, STRICT;
CREATE INDEX convoys_listed ON convoys (seq) WHERE landed = 0;
CREATE INDEX convoys_due ON convoys (land_at) WHERE land_at IS NOT NULL;
CREATE UNIQUE INDEX convoys_landing ON convoys (landing_mr) WHERE landing_mr IS NOT NULL;
CREATE INDEX convoys_by_rig ON convoys (rig_id) WHERE rig_id IS NOT NULL;
