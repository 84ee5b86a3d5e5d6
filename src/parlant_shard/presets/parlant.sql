-- enum types
CREATE TYPE agent_status AS ENUM ('active', 'inactive', 'archived');
CREATE TYPE session_mode AS ENUM ('auto', 'manual', 'paused');
CREATE TYPE session_status AS ENUM ('active', 'completed', 'abandoned');
CREATE TYPE event_type AS ENUM (
  'customer_message', 'agent_message', 'tool_call', 'tool_result',
  'status_update', 'journey_transition', 'variable_update'
);
CREATE TYPE journey_state_type AS ENUM ('chat', 'tool', 'decision', 'final');
CREATE TYPE composition_mode AS ENUM ('fluid', 'strict');

-- trigger function
CREATE FUNCTION update_updated_at_column() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.updated_at = now();
  RETURN NEW;
END
$$;

-- reference tables: rows of the host application
CREATE TABLE "user" (
  id text PRIMARY KEY,
  name text,
  email text CONSTRAINT user_email_unique UNIQUE,
  created_at timestamp NOT NULL DEFAULT now(),
  updated_at timestamp NOT NULL DEFAULT now()
);
CREATE TABLE workspace (
  id text PRIMARY KEY,
  name text NOT NULL,
  owner_id text REFERENCES "user" (id) ON DELETE CASCADE,
  created_at timestamp NOT NULL DEFAULT now(),
  updated_at timestamp NOT NULL DEFAULT now()
);
CREATE TABLE knowledge_base (
  id text PRIMARY KEY,
  name text,
  workspace_id text REFERENCES workspace (id) ON DELETE CASCADE,
  created_at timestamp NOT NULL DEFAULT now()
);
CREATE TABLE workflow (
  id text PRIMARY KEY,
  name text,
  workspace_id text REFERENCES workspace (id) ON DELETE CASCADE,
  created_at timestamp NOT NULL DEFAULT now()
);
CREATE TABLE api_key (
  id text PRIMARY KEY,
  name text,
  workspace_id text REFERENCES workspace (id) ON DELETE CASCADE,
  created_at timestamp NOT NULL DEFAULT now()
);

-- agents and tools
CREATE TABLE parlant_agent (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  workspace_id text NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
  created_by text NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
  name text NOT NULL,
  description text,
  status agent_status NOT NULL DEFAULT 'active',
  composition_mode composition_mode NOT NULL DEFAULT 'fluid',
  system_prompt text,
  model_provider text NOT NULL DEFAULT 'openai',
  model_name text NOT NULL DEFAULT 'gpt-4',
  temperature integer DEFAULT 70,
  max_tokens integer DEFAULT 2000,
  total_sessions integer NOT NULL DEFAULT 0,
  total_messages integer NOT NULL DEFAULT 0,
  last_active_at timestamp,
  created_at timestamp NOT NULL DEFAULT now(),
  updated_at timestamp NOT NULL DEFAULT now(),
  deleted_at timestamp,
  response_timeout_ms integer DEFAULT 30000,
  max_context_length integer DEFAULT 8000,
  system_instructions text,
  allow_interruption boolean NOT NULL DEFAULT true,
  allow_proactive_messages boolean NOT NULL DEFAULT false,
  conversation_style text DEFAULT 'professional',
  data_retention_days integer DEFAULT 30,
  allow_data_export boolean NOT NULL DEFAULT true,
  pii_handling_mode text DEFAULT 'standard',
  integration_metadata jsonb DEFAULT '{}',
  custom_config jsonb DEFAULT '{}',
  total_tokens_used integer NOT NULL DEFAULT 0,
  total_cost integer NOT NULL DEFAULT 0,
  average_session_duration integer
);
CREATE INDEX parlant_agent_composition_mode_idx ON parlant_agent (composition_mode);
CREATE INDEX parlant_agent_conversation_style_idx ON parlant_agent (conversation_style);
CREATE INDEX parlant_agent_created_by_idx ON parlant_agent (created_by);
CREATE INDEX parlant_agent_deleted_at_idx ON parlant_agent (deleted_at);
CREATE INDEX parlant_agent_last_active_at_idx ON parlant_agent (last_active_at);
CREATE INDEX parlant_agent_model_provider_idx ON parlant_agent (model_provider);
CREATE INDEX parlant_agent_status_idx ON parlant_agent (status);
CREATE INDEX parlant_agent_workspace_id_last_active_at_idx
  ON parlant_agent (workspace_id, last_active_at);
CREATE INDEX parlant_agent_workspace_id_idx ON parlant_agent (workspace_id);
CREATE INDEX parlant_agent_workspace_id_status_idx ON parlant_agent (workspace_id, status);
CREATE TRIGGER update_parlant_agent_updated_at
  BEFORE UPDATE ON parlant_agent
  FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

CREATE TABLE parlant_tool (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  workspace_id text NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
  name text NOT NULL,
  display_name text NOT NULL,
  description text NOT NULL,
  sim_tool_id text,
  tool_type text NOT NULL,
  parameters jsonb NOT NULL,
  return_schema jsonb,
  usage_guidelines text,
  error_handling jsonb DEFAULT '{}',
  enabled boolean NOT NULL DEFAULT true,
  is_public boolean NOT NULL DEFAULT false,
  use_count integer NOT NULL DEFAULT 0,
  success_rate integer DEFAULT 100,
  last_used_at timestamp,
  created_at timestamp NOT NULL DEFAULT now(),
  updated_at timestamp NOT NULL DEFAULT now(),
  execution_timeout integer DEFAULT 30000,
  retry_policy jsonb DEFAULT '{"backoff_ms": 1000, "max_attempts": 3}',
  rate_limit_per_minute integer DEFAULT 60,
  rate_limit_per_hour integer DEFAULT 1000,
  requires_auth boolean NOT NULL DEFAULT false,
  auth_type text,
  auth_config jsonb DEFAULT '{}',
  is_deprecated boolean NOT NULL DEFAULT false,
  CONSTRAINT parlant_tool_auth_type_check CHECK (
    auth_type IS NULL OR auth_type IN ('api_key', 'oauth', 'basic', 'none', 'bearer')
  ),
  CONSTRAINT parlant_tool_execution_timeout_check CHECK (
    execution_timeout IS NULL OR execution_timeout > 0
  ),
  CONSTRAINT parlant_tool_rate_limits_check CHECK (
    (rate_limit_per_minute IS NULL OR rate_limit_per_minute > 0)
    AND (rate_limit_per_hour IS NULL OR rate_limit_per_hour > 0)
  )
);
CREATE UNIQUE INDEX parlant_tool_workspace_name_idx ON parlant_tool (workspace_id, name);
CREATE INDEX parlant_tool_auth_type_idx ON parlant_tool (auth_type);
CREATE INDEX parlant_tool_is_deprecated_idx ON parlant_tool (is_deprecated);
CREATE INDEX parlant_tool_enabled_idx ON parlant_tool (enabled);
CREATE INDEX parlant_tool_last_used_at_idx ON parlant_tool (last_used_at);
CREATE INDEX parlant_tool_name_idx ON parlant_tool (name);
CREATE INDEX parlant_tool_is_public_idx ON parlant_tool (is_public);
CREATE INDEX parlant_tool_sim_tool_id_idx ON parlant_tool (sim_tool_id);
CREATE INDEX parlant_tool_tool_type_idx ON parlant_tool (tool_type);
CREATE INDEX parlant_tool_workspace_id_is_deprecated_idx
  ON parlant_tool (workspace_id, is_deprecated);
CREATE INDEX parlant_tool_workspace_id_idx ON parlant_tool (workspace_id);
CREATE TRIGGER update_parlant_tool_updated_at
  BEFORE UPDATE ON parlant_tool
  FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

CREATE TABLE parlant_agent_tool (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  agent_id uuid NOT NULL REFERENCES parlant_agent (id) ON DELETE CASCADE,
  tool_id uuid NOT NULL REFERENCES parlant_tool (id) ON DELETE CASCADE,
  configuration jsonb DEFAULT '{}',
  enabled boolean NOT NULL DEFAULT true,
  priority integer NOT NULL DEFAULT 100,
  use_count integer NOT NULL DEFAULT 0,
  last_used_at timestamp,
  created_at timestamp NOT NULL DEFAULT now(),
  updated_at timestamp NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX parlant_agent_tool_unique ON parlant_agent_tool (agent_id, tool_id);
CREATE INDEX parlant_agent_tool_agent_id_enabled_idx ON parlant_agent_tool (agent_id, enabled);
CREATE INDEX parlant_agent_tool_agent_id_idx ON parlant_agent_tool (agent_id);
CREATE INDEX parlant_agent_tool_priority_idx ON parlant_agent_tool (priority);
CREATE INDEX parlant_agent_tool_tool_id_idx ON parlant_agent_tool (tool_id);
CREATE TRIGGER update_parlant_agent_tool_updated_at
  BEFORE UPDATE ON parlant_agent_tool
  FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

-- guidelines, journeys, glossary, canned responses
CREATE TABLE parlant_guideline (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  agent_id uuid NOT NULL REFERENCES parlant_agent (id) ON DELETE CASCADE,
  condition text NOT NULL,
  action text NOT NULL,
  priority integer NOT NULL DEFAULT 100,
  enabled boolean NOT NULL DEFAULT true,
  tool_ids jsonb DEFAULT '[]',
  match_count integer NOT NULL DEFAULT 0,
  last_matched_at timestamp,
  created_at timestamp NOT NULL DEFAULT now(),
  updated_at timestamp NOT NULL DEFAULT now()
);
CREATE INDEX parlant_guideline_agent_id_enabled_idx ON parlant_guideline (agent_id, enabled);
CREATE INDEX parlant_guideline_agent_id_idx ON parlant_guideline (agent_id);
CREATE INDEX parlant_guideline_enabled_idx ON parlant_guideline (enabled);
CREATE INDEX parlant_guideline_last_matched_at_idx ON parlant_guideline (last_matched_at);
CREATE INDEX parlant_guideline_priority_idx ON parlant_guideline (priority);
CREATE TRIGGER update_parlant_guideline_updated_at
  BEFORE UPDATE ON parlant_guideline
  FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

CREATE TABLE parlant_journey (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  agent_id uuid NOT NULL REFERENCES parlant_agent (id) ON DELETE CASCADE,
  title text NOT NULL,
  description text,
  conditions jsonb NOT NULL,
  enabled boolean NOT NULL DEFAULT true,
  allow_skipping boolean NOT NULL DEFAULT true,
  allow_revisiting boolean NOT NULL DEFAULT true,
  total_sessions integer NOT NULL DEFAULT 0,
  completion_rate integer DEFAULT 0,
  last_used_at timestamp,
  created_at timestamp NOT NULL DEFAULT now(),
  updated_at timestamp NOT NULL DEFAULT now()
);
CREATE INDEX parlant_journey_agent_id_enabled_idx ON parlant_journey (agent_id, enabled);
CREATE INDEX parlant_journey_agent_id_idx ON parlant_journey (agent_id);
CREATE INDEX parlant_journey_enabled_idx ON parlant_journey (enabled);
CREATE INDEX parlant_journey_last_used_at_idx ON parlant_journey (last_used_at);
CREATE TRIGGER update_parlant_journey_updated_at
  BEFORE UPDATE ON parlant_journey
  FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

CREATE TABLE parlant_journey_guideline (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  journey_id uuid NOT NULL REFERENCES parlant_journey (id) ON DELETE CASCADE,
  guideline_id uuid NOT NULL REFERENCES parlant_guideline (id) ON DELETE CASCADE,
  priority_override integer,
  enabled boolean NOT NULL DEFAULT true,
  journey_specific_condition text,
  match_count integer NOT NULL DEFAULT 0,
  last_matched_at timestamp,
  created_at timestamp NOT NULL DEFAULT now(),
  updated_at timestamp NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX parlant_journey_guideline_unique
  ON parlant_journey_guideline (journey_id, guideline_id);
CREATE INDEX parlant_journey_guideline_guideline_id_idx ON parlant_journey_guideline (guideline_id);
CREATE INDEX parlant_journey_guideline_journey_id_enabled_idx
  ON parlant_journey_guideline (journey_id, enabled);
CREATE INDEX parlant_journey_guideline_journey_id_idx ON parlant_journey_guideline (journey_id);
CREATE INDEX parlant_journey_guideline_priority_override_idx
  ON parlant_journey_guideline (priority_override);
CREATE TRIGGER update_parlant_journey_guideline_updated_at
  BEFORE UPDATE ON parlant_journey_guideline
  FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

CREATE TABLE parlant_journey_state (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  journey_id uuid NOT NULL REFERENCES parlant_journey (id) ON DELETE CASCADE,
  name text NOT NULL,
  state_type journey_state_type NOT NULL,
  chat_prompt text,
  tool_id text,
  tool_config jsonb,
  condition text,
  is_initial boolean NOT NULL DEFAULT false,
  is_final boolean NOT NULL DEFAULT false,
  allow_skip boolean NOT NULL DEFAULT true,
  metadata jsonb DEFAULT '{}',
  created_at timestamp NOT NULL DEFAULT now(),
  updated_at timestamp NOT NULL DEFAULT now()
);
CREATE INDEX parlant_journey_state_is_final_idx ON parlant_journey_state (is_final);
CREATE INDEX parlant_journey_state_is_initial_idx ON parlant_journey_state (is_initial);
CREATE INDEX parlant_journey_state_journey_id_idx ON parlant_journey_state (journey_id);
CREATE INDEX parlant_journey_state_journey_id_state_type_idx
  ON parlant_journey_state (journey_id, state_type);
CREATE INDEX parlant_journey_state_state_type_idx ON parlant_journey_state (state_type);
CREATE TRIGGER update_parlant_journey_state_updated_at
  BEFORE UPDATE ON parlant_journey_state
  FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

CREATE TABLE parlant_journey_transition (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  journey_id uuid NOT NULL REFERENCES parlant_journey (id) ON DELETE CASCADE,
  from_state_id uuid NOT NULL REFERENCES parlant_journey_state (id) ON DELETE CASCADE,
  to_state_id uuid NOT NULL REFERENCES parlant_journey_state (id) ON DELETE CASCADE,
  condition text,
  priority integer NOT NULL DEFAULT 100,
  use_count integer NOT NULL DEFAULT 0,
  last_used_at timestamp,
  created_at timestamp NOT NULL DEFAULT now()
);
CREATE INDEX parlant_journey_transition_from_state_id_idx
  ON parlant_journey_transition (from_state_id);
CREATE INDEX parlant_journey_transition_journey_id_from_idx
  ON parlant_journey_transition (journey_id, from_state_id);
CREATE INDEX parlant_journey_transition_journey_id_idx ON parlant_journey_transition (journey_id);
CREATE INDEX parlant_journey_transition_priority_idx ON parlant_journey_transition (priority);
CREATE INDEX parlant_journey_transition_to_state_id_idx ON parlant_journey_transition (to_state_id);

CREATE TABLE parlant_term (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  agent_id uuid NOT NULL REFERENCES parlant_agent (id) ON DELETE CASCADE,
  name text NOT NULL,
  description text NOT NULL,
  synonyms jsonb DEFAULT '[]',
  category text,
  examples jsonb DEFAULT '[]',
  importance integer NOT NULL DEFAULT 100,
  created_at timestamp NOT NULL DEFAULT now(),
  updated_at timestamp NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX parlant_term_agent_name_idx ON parlant_term (agent_id, name);
CREATE INDEX parlant_term_agent_id_idx ON parlant_term (agent_id);
CREATE INDEX parlant_term_category_idx ON parlant_term (category);
CREATE INDEX parlant_term_importance_idx ON parlant_term (importance);
CREATE INDEX parlant_term_name_idx ON parlant_term (name);
CREATE TRIGGER update_parlant_term_updated_at
  BEFORE UPDATE ON parlant_term
  FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

CREATE TABLE parlant_canned_response (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  agent_id uuid NOT NULL REFERENCES parlant_agent (id) ON DELETE CASCADE,
  template text NOT NULL,
  category text,
  tags jsonb DEFAULT '[]',
  conditions jsonb DEFAULT '[]',
  priority integer NOT NULL DEFAULT 100,
  enabled boolean NOT NULL DEFAULT true,
  requires_exact_match boolean NOT NULL DEFAULT false,
  use_count integer NOT NULL DEFAULT 0,
  last_used_at timestamp,
  created_at timestamp NOT NULL DEFAULT now(),
  updated_at timestamp NOT NULL DEFAULT now()
);
CREATE INDEX parlant_canned_response_agent_id_category_idx
  ON parlant_canned_response (agent_id, category);
CREATE INDEX parlant_canned_response_agent_id_idx ON parlant_canned_response (agent_id);
CREATE INDEX parlant_canned_response_category_idx ON parlant_canned_response (category);
CREATE INDEX parlant_canned_response_enabled_idx ON parlant_canned_response (enabled);
CREATE INDEX parlant_canned_response_last_used_at_idx ON parlant_canned_response (last_used_at);
CREATE INDEX parlant_canned_response_priority_idx ON parlant_canned_response (priority);
CREATE TRIGGER update_parlant_canned_response_updated_at
  BEFORE UPDATE ON parlant_canned_response
  FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

-- sessions
CREATE TABLE parlant_session (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  agent_id uuid NOT NULL REFERENCES parlant_agent (id) ON DELETE CASCADE,
  workspace_id text NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
  user_id text REFERENCES "user" (id) ON DELETE SET NULL,
  customer_id text,
  mode session_mode NOT NULL DEFAULT 'auto',
  status session_status NOT NULL DEFAULT 'active',
  title text,
  metadata jsonb DEFAULT '{}',
  current_journey_id uuid REFERENCES parlant_journey (id) ON DELETE SET NULL,
  current_state_id uuid REFERENCES parlant_journey_state (id) ON DELETE SET NULL,
  variables jsonb DEFAULT '{}',
  event_count integer NOT NULL DEFAULT 0,
  message_count integer NOT NULL DEFAULT 0,
  started_at timestamp NOT NULL DEFAULT now(),
  last_activity_at timestamp NOT NULL DEFAULT now(),
  ended_at timestamp,
  created_at timestamp NOT NULL DEFAULT now(),
  updated_at timestamp NOT NULL DEFAULT now(),
  tokens_used integer NOT NULL DEFAULT 0,
  cost integer NOT NULL DEFAULT 0,
  average_response_time integer,
  satisfaction_score integer,
  session_type text DEFAULT 'conversation',
  tags jsonb DEFAULT '[]',
  user_agent text,
  ip_address text,
  referrer text,
  locale text DEFAULT 'en',
  timezone text DEFAULT 'UTC',
  CONSTRAINT parlant_session_satisfaction_score_check CHECK (
    satisfaction_score IS NULL OR (satisfaction_score >= 1 AND satisfaction_score <= 5)
  ),
  CONSTRAINT parlant_session_session_type_check CHECK (
    session_type IN ('conversation', 'support', 'onboarding', 'survey', 'demo', 'feedback')
  )
);
CREATE INDEX parlant_session_agent_id_last_activity_at_idx
  ON parlant_session (agent_id, last_activity_at);
CREATE INDEX parlant_session_agent_id_idx ON parlant_session (agent_id);
CREATE INDEX parlant_session_agent_id_status_idx ON parlant_session (agent_id, status);
CREATE INDEX parlant_session_current_journey_id_idx ON parlant_session (current_journey_id);
CREATE INDEX parlant_session_customer_id_idx ON parlant_session (customer_id);
CREATE INDEX parlant_session_last_activity_at_idx ON parlant_session (last_activity_at);
CREATE INDEX parlant_session_locale_idx ON parlant_session (locale);
CREATE INDEX parlant_session_satisfaction_score_idx ON parlant_session (satisfaction_score);
CREATE INDEX parlant_session_status_idx ON parlant_session (status);
CREATE INDEX parlant_session_session_type_idx ON parlant_session (session_type);
CREATE INDEX parlant_session_user_id_idx ON parlant_session (user_id);
CREATE INDEX parlant_session_workspace_id_idx ON parlant_session (workspace_id);
CREATE INDEX parlant_session_workspace_id_session_type_idx
  ON parlant_session (workspace_id, session_type);
CREATE TRIGGER update_parlant_session_updated_at
  BEFORE UPDATE ON parlant_session
  FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

CREATE TABLE parlant_event (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  session_id uuid NOT NULL REFERENCES parlant_session (id) ON DELETE CASCADE,
  "offset" integer NOT NULL,
  event_type event_type NOT NULL,
  content jsonb NOT NULL,
  metadata jsonb DEFAULT '{}',
  tool_call_id text,
  journey_id uuid REFERENCES parlant_journey (id) ON DELETE SET NULL,
  state_id uuid REFERENCES parlant_journey_state (id) ON DELETE SET NULL,
  created_at timestamp NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX parlant_event_session_offset_idx ON parlant_event (session_id, "offset");
CREATE INDEX parlant_event_created_at_idx ON parlant_event (created_at);
CREATE INDEX parlant_event_journey_id_idx ON parlant_event (journey_id);
CREATE INDEX parlant_event_session_id_idx ON parlant_event (session_id);
CREATE INDEX parlant_event_session_id_event_type_idx ON parlant_event (session_id, event_type);
CREATE INDEX parlant_event_tool_call_id_idx ON parlant_event (tool_call_id);
CREATE INDEX parlant_event_event_type_idx ON parlant_event (event_type);

CREATE TABLE parlant_variable (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  agent_id uuid NOT NULL REFERENCES parlant_agent (id) ON DELETE CASCADE,
  session_id uuid REFERENCES parlant_session (id) ON DELETE CASCADE,
  key text NOT NULL,
  scope text NOT NULL DEFAULT 'session',
  value jsonb NOT NULL,
  value_type text NOT NULL,
  is_private boolean NOT NULL DEFAULT false,
  description text,
  created_at timestamp NOT NULL DEFAULT now(),
  updated_at timestamp NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX parlant_variable_session_key_idx ON parlant_variable (session_id, key);
CREATE INDEX parlant_variable_agent_id_idx ON parlant_variable (agent_id);
CREATE INDEX parlant_variable_agent_id_key_idx ON parlant_variable (agent_id, key);
CREATE INDEX parlant_variable_key_idx ON parlant_variable (key);
CREATE INDEX parlant_variable_scope_idx ON parlant_variable (scope);
CREATE INDEX parlant_variable_session_id_idx ON parlant_variable (session_id);
CREATE TRIGGER update_parlant_variable_updated_at
  BEFORE UPDATE ON parlant_variable
  FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

-- integration with the host application
CREATE TABLE parlant_agent_knowledge_base (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  agent_id uuid NOT NULL REFERENCES parlant_agent (id) ON DELETE CASCADE,
  knowledge_base_id text NOT NULL REFERENCES knowledge_base (id) ON DELETE CASCADE,
  enabled boolean NOT NULL DEFAULT true,
  search_threshold integer DEFAULT 80,
  max_results integer DEFAULT 5,
  priority integer NOT NULL DEFAULT 100,
  search_count integer NOT NULL DEFAULT 0,
  last_searched_at timestamp,
  created_at timestamp NOT NULL DEFAULT now(),
  updated_at timestamp NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX parlant_agent_kb_unique
  ON parlant_agent_knowledge_base (agent_id, knowledge_base_id);
CREATE INDEX parlant_agent_knowledge_base_agent_id_enabled_idx
  ON parlant_agent_knowledge_base (agent_id, enabled);
CREATE INDEX parlant_agent_knowledge_base_agent_id_idx ON parlant_agent_knowledge_base (agent_id);
CREATE INDEX parlant_agent_knowledge_base_kb_id_idx
  ON parlant_agent_knowledge_base (knowledge_base_id);
CREATE INDEX parlant_agent_knowledge_base_priority_idx ON parlant_agent_knowledge_base (priority);
CREATE TRIGGER update_parlant_agent_knowledge_base_updated_at
  BEFORE UPDATE ON parlant_agent_knowledge_base
  FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

CREATE TABLE parlant_tool_integration (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  parlant_tool_id uuid NOT NULL REFERENCES parlant_tool (id) ON DELETE CASCADE,
  integration_type text NOT NULL,
  target_id text NOT NULL,
  configuration jsonb DEFAULT '{}',
  enabled boolean NOT NULL DEFAULT true,
  parameter_mapping jsonb DEFAULT '{}',
  response_mapping jsonb DEFAULT '{}',
  last_health_check timestamp,
  health_status text DEFAULT 'unknown',
  error_count integer NOT NULL DEFAULT 0,
  last_error text,
  created_at timestamp NOT NULL DEFAULT now(),
  updated_at timestamp NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX parlant_tool_integration_unique
  ON parlant_tool_integration (parlant_tool_id, integration_type, target_id);
CREATE INDEX parlant_tool_integration_health_idx ON parlant_tool_integration (health_status);
CREATE INDEX parlant_tool_integration_parlant_tool_id_idx
  ON parlant_tool_integration (parlant_tool_id);
CREATE INDEX parlant_tool_integration_target_id_idx ON parlant_tool_integration (target_id);
CREATE INDEX parlant_tool_integration_type_idx ON parlant_tool_integration (integration_type);
CREATE INDEX parlant_tool_integration_type_target_id_idx
  ON parlant_tool_integration (integration_type, target_id);
CREATE TRIGGER update_parlant_tool_integration_updated_at
  BEFORE UPDATE ON parlant_tool_integration
  FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

CREATE TABLE parlant_agent_workflow (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  agent_id uuid NOT NULL REFERENCES parlant_agent (id) ON DELETE CASCADE,
  workflow_id text NOT NULL REFERENCES workflow (id) ON DELETE CASCADE,
  workspace_id text NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
  integration_type text NOT NULL,
  enabled boolean NOT NULL DEFAULT true,
  trigger_conditions jsonb DEFAULT '[]',
  input_mapping jsonb DEFAULT '{}',
  monitor_events jsonb DEFAULT '[]',
  output_mapping jsonb DEFAULT '{}',
  trigger_count integer NOT NULL DEFAULT 0,
  last_triggered_at timestamp,
  created_at timestamp NOT NULL DEFAULT now(),
  updated_at timestamp NOT NULL DEFAULT now(),
  CONSTRAINT parlant_agent_workflow_integration_type_check CHECK (
    integration_type IN ('trigger', 'monitor', 'both')
  )
);
CREATE UNIQUE INDEX parlant_agent_workflow_unique ON parlant_agent_workflow (agent_id, workflow_id);
CREATE INDEX parlant_agent_workflow_agent_id_enabled_idx
  ON parlant_agent_workflow (agent_id, enabled);
CREATE INDEX parlant_agent_workflow_agent_id_idx ON parlant_agent_workflow (agent_id);
CREATE INDEX parlant_agent_workflow_integration_type_idx
  ON parlant_agent_workflow (integration_type);
CREATE INDEX parlant_agent_workflow_workflow_id_idx ON parlant_agent_workflow (workflow_id);
CREATE INDEX parlant_agent_workflow_workspace_id_idx ON parlant_agent_workflow (workspace_id);
CREATE TRIGGER update_parlant_agent_workflow_updated_at
  BEFORE UPDATE ON parlant_agent_workflow
  FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

CREATE TABLE parlant_agent_api_key (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  agent_id uuid NOT NULL REFERENCES parlant_agent (id) ON DELETE CASCADE,
  api_key_id text NOT NULL REFERENCES api_key (id) ON DELETE CASCADE,
  workspace_id text NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
  purpose text NOT NULL,
  enabled boolean NOT NULL DEFAULT true,
  priority integer NOT NULL DEFAULT 100,
  use_count integer NOT NULL DEFAULT 0,
  last_used_at timestamp,
  created_at timestamp NOT NULL DEFAULT now(),
  updated_at timestamp NOT NULL DEFAULT now(),
  CONSTRAINT parlant_agent_api_key_purpose_check CHECK (
    purpose IN ('tools', 'llm', 'external_service', 'general')
  )
);
CREATE UNIQUE INDEX parlant_agent_api_key_unique ON parlant_agent_api_key (agent_id, api_key_id);
CREATE INDEX parlant_agent_api_key_agent_id_enabled_idx
  ON parlant_agent_api_key (agent_id, enabled);
CREATE INDEX parlant_agent_api_key_agent_id_idx ON parlant_agent_api_key (agent_id);
CREATE INDEX parlant_agent_api_key_api_key_id_idx ON parlant_agent_api_key (api_key_id);
CREATE INDEX parlant_agent_api_key_purpose_idx ON parlant_agent_api_key (purpose);
CREATE INDEX parlant_agent_api_key_workspace_id_idx ON parlant_agent_api_key (workspace_id);
CREATE TRIGGER update_parlant_agent_api_key_updated_at
  BEFORE UPDATE ON parlant_agent_api_key
  FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

CREATE TABLE parlant_session_workflow (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  session_id uuid NOT NULL REFERENCES parlant_session (id) ON DELETE CASCADE,
  workflow_id text NOT NULL REFERENCES workflow (id) ON DELETE CASCADE,
  execution_id text,
  trigger_reason text NOT NULL,
  input_data jsonb DEFAULT '{}',
  output_data jsonb DEFAULT '{}',
  status text NOT NULL DEFAULT 'pending',
  started_at timestamp NOT NULL DEFAULT now(),
  completed_at timestamp,
  error_message text,
  created_at timestamp NOT NULL DEFAULT now(),
  updated_at timestamp NOT NULL DEFAULT now(),
  CONSTRAINT parlant_session_workflow_status_check CHECK (
    status IN ('pending', 'running', 'completed', 'failed', 'cancelled')
  )
);
CREATE INDEX parlant_session_workflow_execution_id_idx ON parlant_session_workflow (execution_id);
CREATE INDEX parlant_session_workflow_session_id_idx ON parlant_session_workflow (session_id);
CREATE INDEX parlant_session_workflow_session_id_status_idx
  ON parlant_session_workflow (session_id, status);
CREATE INDEX parlant_session_workflow_started_at_idx ON parlant_session_workflow (started_at);
CREATE INDEX parlant_session_workflow_status_idx ON parlant_session_workflow (status);
CREATE INDEX parlant_session_workflow_workflow_id_idx ON parlant_session_workflow (workflow_id);
CREATE TRIGGER update_parlant_session_workflow_updated_at
  BEFORE UPDATE ON parlant_session_workflow
  FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();
