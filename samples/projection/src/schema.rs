//! Tables of every projection, beside those of the chassis.

/// Script that creates the tables, and migrates those of earlier versions: version 0.1.0's events have no source.
///
/// `events` retains every event for a rebuild, `streams` each stream's progress, `view_generation` the number of the
/// last rebuild. Positions compare byte by byte.
pub const TABLES: &str = "
CREATE TABLE IF NOT EXISTS public.events (
  seq        bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  source     text NOT NULL DEFAULT '',
  message_id text NOT NULL,
  event_type text NOT NULL,
  body       bytea NOT NULL
);
ALTER TABLE public.events ADD COLUMN IF NOT EXISTS source text NOT NULL DEFAULT '', DROP CONSTRAINT IF EXISTS events_message_id_key;
CREATE UNIQUE INDEX IF NOT EXISTS events_message ON public.events (source, message_id);
CREATE TABLE IF NOT EXISTS public.streams (
  stream       text PRIMARY KEY,
  source       text NOT NULL,
  position     text COLLATE \"C\" NOT NULL,
  committed_at bigint
);
CREATE TABLE IF NOT EXISTS public.view_generation (generation bigint NOT NULL);
INSERT INTO public.view_generation SELECT 0 WHERE NOT EXISTS (SELECT FROM public.view_generation);
";

/// Tables of [`TABLES`]. All derive from the two streams, so all may be dropped.
pub const DERIVED: [&str; 3] = ["events", "streams", "view_generation"];
