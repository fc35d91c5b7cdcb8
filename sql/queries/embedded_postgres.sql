-- name: create_database
-- The database of this program in a cluster of its own; runs once, outside any transaction.
CREATE DATABASE ai_sdk_server;
