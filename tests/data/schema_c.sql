-- enum types
CREATE TYPE agent_status AS ENUM ('active', 'inactive', 'paused', 'archived');
CREATE TYPE session_mode AS ENUM ('conversation', 'guidelines', 'workflow', 'api');
CREATE TYPE session_status AS ENUM ('active', 'completed', 'failed', 'cancelled', 'paused');
CREATE TYPE event_type AS ENUM ('message', 'action', 'system', 'error', 'workflow');
CREATE TYPE journey_state_type AS ENUM ('start', 'intermediate', 'end', 'condition');
CREATE TYPE composition_mode AS ENUM ('append', 'replace', 'merge');

-- trigger function
CREATE FUNCTION update_updated_at_column() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.updated_at = now();
  RETURN NEW;
END
$$;

-- agent
CREATE TABLE parlant_agent (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  workspace_id varchar(255) NOT NULL,
  name varchar(255) NOT NULL,
  description text,
  model_provider varchar(100) DEFAULT 'openai',
  model_name varchar(100) DEFAULT 'gpt-4',
  temperature integer DEFAULT 70,
  max_tokens integer DEFAULT 4000,
  composition_mode composition_mode DEFAULT 'append',
  system_prompt text,
  status agent_status DEFAULT 'active',
  metadata jsonb DEFAULT '{}',
  created_at timestamptz DEFAULT now(),
  updated_at timestamptz DEFAULT now(),
  CONSTRAINT idx_parlant_agent_workspace UNIQUE (workspace_id, name),
  CONSTRAINT parlant_agent_temperature_check CHECK (temperature >= 0 AND temperature <= 100)
);
CREATE INDEX parlant_agent_created_at_idx ON parlant_agent (created_at);
CREATE INDEX parlant_agent_status_idx ON parlant_agent (status);
CREATE INDEX parlant_agent_workspace_id_idx ON parlant_agent (workspace_id);
CREATE TRIGGER update_parlant_agent_updated_at
  BEFORE UPDATE ON parlant_agent
  FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

-- session
CREATE TABLE parlant_session (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  workspace_id varchar(255) NOT NULL,
  agent_id uuid REFERENCES parlant_agent (id) ON DELETE CASCADE,
  user_id varchar(255) NOT NULL,
  session_name varchar(255),
  mode session_mode DEFAULT 'conversation',
  status session_status DEFAULT 'active',
  context_data jsonb DEFAULT '{}',
  metadata jsonb DEFAULT '{}',
  started_at timestamptz DEFAULT now(),
  ended_at timestamptz,
  last_activity_at timestamptz DEFAULT now(),
  message_count integer DEFAULT 0,
  created_at timestamptz DEFAULT now(),
  updated_at timestamptz DEFAULT now()
);
CREATE INDEX parlant_session_last_activity_at_idx ON parlant_session (last_activity_at);
CREATE INDEX parlant_session_agent_id_idx ON parlant_session (agent_id);
CREATE INDEX parlant_session_status_idx ON parlant_session (status);
CREATE INDEX parlant_session_user_id_idx ON parlant_session (user_id);
CREATE INDEX parlant_session_workspace_id_idx ON parlant_session (workspace_id);
CREATE TRIGGER update_parlant_session_updated_at
  BEFORE UPDATE ON parlant_session
  FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

-- event
CREATE TABLE parlant_event (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  workspace_id varchar(255) NOT NULL,
  session_id uuid REFERENCES parlant_session (id) ON DELETE CASCADE,
  agent_id uuid REFERENCES parlant_agent (id) ON DELETE SET NULL,
  user_id varchar(255),
  event_type event_type NOT NULL,
  event_data jsonb DEFAULT '{}',
  message_content text,
  metadata jsonb DEFAULT '{}',
  correlation_id varchar(255),
  created_at timestamptz DEFAULT now(),
  processed_at timestamptz
);
CREATE INDEX parlant_event_agent_id_idx ON parlant_event (agent_id);
CREATE INDEX parlant_event_correlation_id_idx ON parlant_event (correlation_id);
CREATE INDEX parlant_event_created_at_idx ON parlant_event (created_at);
CREATE INDEX parlant_event_session_id_idx ON parlant_event (session_id);
CREATE INDEX parlant_event_event_type_idx ON parlant_event (event_type);
CREATE INDEX parlant_event_workspace_id_idx ON parlant_event (workspace_id);

-- guideline
CREATE TABLE parlant_guideline (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  workspace_id varchar(255) NOT NULL,
  agent_id uuid REFERENCES parlant_agent (id) ON DELETE CASCADE,
  title varchar(255) NOT NULL,
  description text,
  condition_text text NOT NULL,
  action_text text NOT NULL,
  priority integer DEFAULT 100,
  is_enabled boolean DEFAULT true,
  metadata jsonb DEFAULT '{}',
  created_at timestamptz DEFAULT now(),
  updated_at timestamptz DEFAULT now()
);
CREATE INDEX parlant_guideline_agent_id_idx ON parlant_guideline (agent_id);
CREATE INDEX parlant_guideline_is_enabled_idx ON parlant_guideline (is_enabled);
CREATE INDEX parlant_guideline_priority_idx ON parlant_guideline (priority);
CREATE INDEX parlant_guideline_workspace_id_idx ON parlant_guideline (workspace_id);
CREATE TRIGGER update_parlant_guideline_updated_at
  BEFORE UPDATE ON parlant_guideline
  FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

-- journey
CREATE TABLE parlant_journey (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  workspace_id varchar(255) NOT NULL,
  agent_id uuid REFERENCES parlant_agent (id) ON DELETE CASCADE,
  title varchar(255) NOT NULL,
  description text,
  start_state_id uuid,
  is_active boolean DEFAULT true,
  metadata jsonb DEFAULT '{}',
  created_at timestamptz DEFAULT now(),
  updated_at timestamptz DEFAULT now()
);
CREATE INDEX parlant_journey_is_active_idx ON parlant_journey (is_active);
CREATE INDEX parlant_journey_agent_id_idx ON parlant_journey (agent_id);
CREATE INDEX parlant_journey_workspace_id_idx ON parlant_journey (workspace_id);
CREATE TRIGGER update_parlant_journey_updated_at
  BEFORE UPDATE ON parlant_journey
  FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

-- journey state
CREATE TABLE parlant_journey_state (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  journey_id uuid REFERENCES parlant_journey (id) ON DELETE CASCADE,
  state_name varchar(255) NOT NULL,
  state_type journey_state_type NOT NULL,
  description text,
  action_data jsonb DEFAULT '{}',
  conditions jsonb DEFAULT '{}',
  metadata jsonb DEFAULT '{}',
  created_at timestamptz DEFAULT now(),
  updated_at timestamptz DEFAULT now(),
  CONSTRAINT idx_journey_state_unique UNIQUE (journey_id, state_name)
);
CREATE INDEX parlant_journey_state_journey_id_idx ON parlant_journey_state (journey_id);
CREATE INDEX parlant_journey_state_state_type_idx ON parlant_journey_state (state_type);
CREATE TRIGGER update_parlant_journey_state_updated_at
  BEFORE UPDATE ON parlant_journey_state
  FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();
ALTER TABLE parlant_journey ADD CONSTRAINT parlant_journey_start_state_id_fkey
  FOREIGN KEY (start_state_id) REFERENCES parlant_journey_state (id) ON DELETE SET NULL;

-- journey transition
CREATE TABLE parlant_journey_transition (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  journey_id uuid REFERENCES parlant_journey (id) ON DELETE CASCADE,
  from_state_id uuid REFERENCES parlant_journey_state (id) ON DELETE CASCADE,
  to_state_id uuid REFERENCES parlant_journey_state (id) ON DELETE CASCADE,
  condition_text text,
  condition_data jsonb DEFAULT '{}',
  metadata jsonb DEFAULT '{}',
  created_at timestamptz DEFAULT now(),
  updated_at timestamptz DEFAULT now()
);
CREATE INDEX parlant_journey_transition_from_state_id_idx
  ON parlant_journey_transition (from_state_id);
CREATE INDEX parlant_journey_transition_journey_id_idx ON parlant_journey_transition (journey_id);
CREATE INDEX parlant_journey_transition_to_state_id_idx ON parlant_journey_transition (to_state_id);
CREATE TRIGGER update_parlant_journey_transition_updated_at
  BEFORE UPDATE ON parlant_journey_transition
  FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

-- variable
CREATE TABLE parlant_variable (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  workspace_id varchar(255) NOT NULL,
  agent_id uuid REFERENCES parlant_agent (id) ON DELETE CASCADE,
  session_id uuid REFERENCES parlant_session (id) ON DELETE CASCADE,
  variable_name varchar(255) NOT NULL,
  variable_value text,
  variable_type varchar(50) DEFAULT 'string',
  is_persistent boolean DEFAULT false,
  metadata jsonb DEFAULT '{}',
  created_at timestamptz DEFAULT now(),
  updated_at timestamptz DEFAULT now(),
  CONSTRAINT idx_variable_unique UNIQUE (workspace_id, agent_id, session_id, variable_name)
);
CREATE INDEX parlant_variable_agent_id_idx ON parlant_variable (agent_id);
CREATE INDEX parlant_variable_variable_name_idx ON parlant_variable (variable_name);
CREATE INDEX parlant_variable_session_id_idx ON parlant_variable (session_id);
CREATE INDEX parlant_variable_workspace_id_idx ON parlant_variable (workspace_id);
CREATE TRIGGER update_parlant_variable_updated_at
  BEFORE UPDATE ON parlant_variable
  FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

-- tool
CREATE TABLE parlant_tool (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  workspace_id varchar(255) NOT NULL,
  tool_name varchar(255) NOT NULL,
  tool_type varchar(100) NOT NULL,
  description text,
  configuration jsonb DEFAULT '{}',
  is_enabled boolean DEFAULT true,
  metadata jsonb DEFAULT '{}',
  created_at timestamptz DEFAULT now(),
  updated_at timestamptz DEFAULT now(),
  CONSTRAINT idx_tool_unique UNIQUE (workspace_id, tool_name)
);
CREATE INDEX parlant_tool_is_enabled_idx ON parlant_tool (is_enabled);
CREATE INDEX parlant_tool_tool_type_idx ON parlant_tool (tool_type);
CREATE INDEX parlant_tool_workspace_id_idx ON parlant_tool (workspace_id);
CREATE TRIGGER update_parlant_tool_updated_at
  BEFORE UPDATE ON parlant_tool
  FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

-- term
CREATE TABLE parlant_term (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  workspace_id varchar(255) NOT NULL,
  term_name varchar(255) NOT NULL,
  definition text NOT NULL,
  synonyms text[],
  category varchar(100),
  is_active boolean DEFAULT true,
  metadata jsonb DEFAULT '{}',
  created_at timestamptz DEFAULT now(),
  updated_at timestamptz DEFAULT now(),
  CONSTRAINT idx_term_unique UNIQUE (workspace_id, term_name)
);
CREATE INDEX parlant_term_is_active_idx ON parlant_term (is_active);
CREATE INDEX parlant_term_category_idx ON parlant_term (category);
CREATE INDEX parlant_term_workspace_id_idx ON parlant_term (workspace_id);
CREATE TRIGGER update_parlant_term_updated_at
  BEFORE UPDATE ON parlant_term
  FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

-- canned response
CREATE TABLE parlant_canned_response (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  workspace_id varchar(255) NOT NULL,
  agent_id uuid REFERENCES parlant_agent (id) ON DELETE CASCADE,
  response_name varchar(255) NOT NULL,
  response_text text NOT NULL,
  triggers text[],
  category varchar(100),
  is_enabled boolean DEFAULT true,
  usage_count integer DEFAULT 0,
  metadata jsonb DEFAULT '{}',
  created_at timestamptz DEFAULT now(),
  updated_at timestamptz DEFAULT now(),
  CONSTRAINT idx_canned_response_unique UNIQUE (workspace_id, agent_id, response_name)
);
CREATE INDEX parlant_canned_response_agent_id_idx ON parlant_canned_response (agent_id);
CREATE INDEX parlant_canned_response_category_idx ON parlant_canned_response (category);
CREATE INDEX parlant_canned_response_is_enabled_idx ON parlant_canned_response (is_enabled);
CREATE INDEX parlant_canned_response_workspace_id_idx ON parlant_canned_response (workspace_id);
CREATE TRIGGER update_parlant_canned_response_updated_at
  BEFORE UPDATE ON parlant_canned_response
  FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();
