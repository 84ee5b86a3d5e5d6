-- Primary workspace + status lookup (90% of agent queries)
CREATE INDEX parlant_agent_workspace_status_performance_idx
ON parlant_agent (workspace_id, status, deleted_at, last_active_at DESC)
WHERE deleted_at IS NULL;

-- Text search optimization
CREATE INDEX parlant_agent_workspace_search_idx
ON parlant_agent (workspace_id, name, status)
WHERE deleted_at IS NULL;

-- Configuration filtering
CREATE INDEX parlant_agent_config_filter_idx
ON parlant_agent (workspace_id, model_provider, composition_mode, status);

-- Active session lookup (highest frequency query)
CREATE INDEX parlant_session_workspace_agent_active_idx
ON parlant_session (workspace_id, agent_id, status, last_activity_at DESC)
WHERE status = 'active';

-- Time-series analytics
CREATE INDEX parlant_session_workspace_timeseries_idx
ON parlant_session (workspace_id, created_at DESC, status);

-- User session history
CREATE INDEX parlant_session_user_activity_idx
ON parlant_session (workspace_id, user_id, last_activity_at DESC)
WHERE user_id IS NOT NULL;

-- Session event retrieval (conversation loading)
CREATE INDEX parlant_event_session_type_offset_idx
ON parlant_event (session_id, event_type, offset);

-- Analytics time-range queries
CREATE INDEX parlant_event_created_at_type_idx
ON parlant_event (created_at DESC, event_type);

-- Tool call tracking
CREATE INDEX parlant_event_tool_call_tracking_idx
ON parlant_event (tool_call_id, event_type, created_at DESC)
WHERE tool_call_id IS NOT NULL;

-- Agent content full-text search
CREATE INDEX parlant_agent_fulltext_search_idx
ON parlant_agent USING gin(
  to_tsvector('english',
    coalesce(name, '') || ' ' ||
    coalesce(description, '') || ' ' ||
    coalesce(system_prompt, '')
  )
) WHERE deleted_at IS NULL;

-- Guideline content search
CREATE INDEX parlant_guideline_fulltext_search_idx
ON parlant_guideline USING gin(
  to_tsvector('english',
    coalesce(condition, '') || ' ' ||
    coalesce(action, '')
  )
) WHERE enabled = true;

-- Agent-Session JOIN optimization
CREATE INDEX parlant_agent_session_join_idx
ON parlant_session (agent_id, workspace_id, status, last_activity_at DESC);

-- Session-Event JOIN optimization
CREATE INDEX parlant_session_event_join_idx
ON parlant_event (session_id, created_at DESC, event_type);

-- Three-table workspace joins
CREATE INDEX parlant_workspace_agent_session_join_idx
ON parlant_agent (workspace_id, id, status, last_active_at DESC)
WHERE deleted_at IS NULL;

-- Active sessions only (80% of session queries)
CREATE INDEX parlant_active_sessions_only_idx
ON parlant_session (workspace_id, agent_id, last_activity_at DESC)
WHERE status = 'active';

-- Recently active agents (reduces index size by 70%)
CREATE INDEX parlant_recently_active_agents_idx
ON parlant_agent (workspace_id, last_active_at DESC)
WHERE last_active_at >= CURRENT_DATE - INTERVAL '30 days'
  AND deleted_at IS NULL;

-- Recent events for cleanup/analytics (90% size reduction)
CREATE INDEX parlant_recent_events_only_idx
ON parlant_event (session_id, created_at DESC, event_type)
WHERE created_at >= CURRENT_DATE - INTERVAL '90 days';

-- 1. Get active agents in workspace (35% of queries)
SELECT * FROM parlant_agent
WHERE workspace_id = ? AND status = 'active' AND deleted_at IS NULL;

-- 2. Load active sessions for agent (25% of queries)
SELECT * FROM parlant_session
WHERE agent_id = ? AND status = 'active'
ORDER BY last_activity_at DESC;

-- 3. Get session events (20% of queries)
SELECT * FROM parlant_event
WHERE session_id = ? ORDER BY offset;

-- 4. Agent search (10% of queries)
SELECT * FROM parlant_agent
WHERE workspace_id = ? AND name ILIKE ? AND deleted_at IS NULL;

-- Workspace dashboard metrics
SELECT COUNT(*) agents, AVG(total_sessions) avg_sessions
FROM parlant_agent WHERE workspace_id = ?;

-- Session analytics time-series
SELECT DATE(created_at) date, COUNT(*) sessions
FROM parlant_session
WHERE workspace_id = ? AND created_at >= ?
GROUP BY DATE(created_at);

-- Guidelines management
SELECT * FROM parlant_guideline
WHERE agent_id = ? AND enabled = true
ORDER BY priority DESC;

-- Journey configuration
SELECT * FROM parlant_journey j
LEFT JOIN parlant_journey_state js ON j.id = js.journey_id
WHERE j.agent_id = ?;

-- Workspace-based sharding key
CREATE TABLE parlant_agent_shard_1 (
  -- Same schema as parlant_agent
  CONSTRAINT workspace_shard_check
  CHECK (workspace_id IN ('ws1', 'ws2', 'ws3'))
);

-- Cross-shard query federation
CREATE VIEW parlant_agent_global AS
  SELECT * FROM parlant_agent_shard_1
  UNION ALL
  SELECT * FROM parlant_agent_shard_2;

-- Index usage monitoring
CREATE OR REPLACE FUNCTION monitor_parlant_index_usage()
RETURNS TABLE (index_name TEXT, usage_score NUMERIC) AS $$
BEGIN
  RETURN QUERY
  SELECT indexname::TEXT,
         (idx_scan::NUMERIC / GREATEST(seq_scan, 1))::NUMERIC
  FROM pg_stat_user_indexes
  WHERE schemaname = 'public' AND indexname LIKE 'parlant_%'
  ORDER BY usage_score DESC;
END;
$$ LANGUAGE plpgsql;

-- Automated index cleanup recommendations
CREATE OR REPLACE FUNCTION recommend_index_cleanup()
RETURNS TABLE (recommendation TEXT) AS $$
BEGIN
  -- Identify unused indexes
  RETURN QUERY
  SELECT 'DROP INDEX ' || indexname
  FROM pg_stat_user_indexes
  WHERE schemaname = 'public'
    AND indexname LIKE 'parlant_%'
    AND idx_scan < 100;
END;
$$ LANGUAGE plpgsql;

-- Query execution monitoring
SELECT query, calls, mean_time, rows
FROM pg_stat_statements
WHERE query LIKE '%parlant_%'
ORDER BY mean_time * calls DESC;

-- Index efficiency metrics
SELECT tablename, indexname,
       idx_scan, seq_scan,
       idx_tup_read, seq_tup_read
FROM pg_stat_user_indexes
WHERE tablename LIKE 'parlant_%';

-- Buffer cache hit rates
SELECT schemaname, tablename,
       heap_blks_hit, heap_blks_read,
       ROUND(heap_blks_hit::NUMERIC /
             (heap_blks_hit + heap_blks_read) * 100, 2) as hit_rate
FROM pg_statio_user_tables
WHERE schemaname = 'public' AND tablename LIKE 'parlant_%';

-- Verify workspace isolation
CREATE OR REPLACE FUNCTION verify_workspace_isolation(
  test_workspace_id TEXT
) RETURNS BOOLEAN AS $$
DECLARE
  cross_workspace_count INTEGER;
BEGIN
  -- Check for any cross-workspace data leakage
  SELECT COUNT(*) INTO cross_workspace_count
  FROM parlant_session s1
  JOIN parlant_agent a1 ON s1.agent_id = a1.id
  WHERE s1.workspace_id != a1.workspace_id;

  RETURN (cross_workspace_count = 0);
END;
$$ LANGUAGE plpgsql;

-- Phase 1: Create indexes concurrently (no downtime)
CREATE INDEX CONCURRENTLY parlant_agent_workspace_status_performance_idx
ON parlant_agent (workspace_id, status, deleted_at, last_active_at DESC)
WHERE deleted_at IS NULL;

-- Phase 2: Monitor performance improvement
SELECT pg_stat_reset(); -- Reset statistics
-- Run production traffic for 24 hours
-- Measure improvement metrics

-- Phase 3: Remove old inefficient indexes
DROP INDEX IF EXISTS old_inefficient_index_name;

-- Emergency rollback plan
DO $$
BEGIN
  IF EXISTS (SELECT 1 FROM pg_stat_user_indexes
             WHERE indexname LIKE 'parlant_%_old_backup') THEN
    -- Restore old indexes
    RAISE NOTICE 'Restoring backup indexes';
  END IF;
END $$;

-- Growth trend analysis
CREATE OR REPLACE FUNCTION predict_scaling_needs()
RETURNS TABLE (
  metric TEXT,
  current_value BIGINT,
  projected_6_months BIGINT,
  scaling_recommendation TEXT
) AS $$
BEGIN
  -- Analyze growth trends and predict scaling needs
  RETURN QUERY
  SELECT 'total_agents'::TEXT,
         COUNT(*)::BIGINT,
         (COUNT(*) * 1.5)::BIGINT,
         'Consider read replicas'::TEXT
  FROM parlant_agent;
END;
$$ LANGUAGE plpgsql;
