-- Who draws the tenants' dashboard: reads what is counted of each principal, and nothing that anybody has said.
-- psql "$SINKSERVE_DATABASE_URL" -f deploy/grafana/reader.sql; then ALTER ROLE sinkserve_reader PASSWORD '...';
CREATE ROLE sinkserve_reader LOGIN;
GRANT SELECT ON usage TO sinkserve_reader;
GRANT SELECT (key, principal) ON sessions TO sinkserve_reader;
GRANT SELECT (session_key, size_bytes) ON snapshots TO sinkserve_reader;
GRANT SELECT (principal, state) ON builds TO sinkserve_reader;
GRANT SELECT (name, owner) ON engine_names TO sinkserve_reader;
GRANT SELECT (name, digest, size_bytes) ON engine_files TO sinkserve_reader;
