CREATE TYPE mood AS ENUM ('calm', 'it''s "odd"');
CREATE TABLE account (id text PRIMARY KEY, name text NOT NULL, created_at timestamptz NOT NULL);
CREATE TABLE workspace (
  id text PRIMARY KEY,
  owner_id text NOT NULL REFERENCES account (id),
  name text NOT NULL
);
CREATE TABLE agent (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  workspace_id text NOT NULL REFERENCES workspace (id),
  name varchar(40) NOT NULL CHECK (length(name) > 1),
  note text,
  UNIQUE (workspace_id, name)
);
CREATE TABLE session (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  agent_id uuid NOT NULL REFERENCES agent (id) ON DELETE CASCADE,
  title text,
  mood mood NOT NULL DEFAULT 'calm',
  words integer GENERATED ALWAYS AS (length(title)) STORED,
  started_at timestamptz NOT NULL
);
CREATE INDEX session_agent_idx ON session (agent_id, started_at DESC);
CREATE TABLE event (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  session_id uuid NOT NULL REFERENCES session (id) ON DELETE CASCADE,
  "offset" integer NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  body jsonb
);
CREATE INDEX event_session_idx ON event (session_id, created_at);
COMMENT ON TABLE event IS 'What was said.';
