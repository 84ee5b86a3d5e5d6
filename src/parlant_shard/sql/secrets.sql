-- name: keep_out_of_logs
-- Until the end of the transaction: what would write the text of a statement with a password into the server's log or
-- statistics is off, as far as this role may say so (a superuser, or with GRANT SET ON PARAMETER).
SELECT pg_catalog.set_config(s.name, v.value, true)
  FROM (VALUES ('log_statement', 'none'), ('log_min_error_statement', 'panic'),
               ('log_min_duration_statement', '-1'), ('log_min_duration_sample', '-1'),
               ('log_transaction_sample_rate', '0'), ('log_lock_waits', 'off'),
               ('pg_stat_statements.track_utility', 'off')) AS v(name, value)
  JOIN pg_catalog.pg_settings s ON s.name = v.name
 WHERE pg_catalog.has_parameter_privilege(s.name, 'SET');
