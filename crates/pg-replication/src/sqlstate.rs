//! SQLSTATEs that clients distinguish (manual, appendix "PostgreSQL Error Codes"). Constants of type `&str`, to match on
//! [`ServerError::code`](crate::ServerError::code).

/// `character_not_in_repertoire`.
pub const CHARACTER_NOT_IN_REPERTOIRE: &str = "22021";
/// `untranslatable_character`.
pub const UNTRANSLATABLE_CHARACTER: &str = "22P05";
/// `invalid_parameter_value`.
pub const INVALID_PARAMETER_VALUE: &str = "22023";
/// `unique_violation`.
pub const UNIQUE_VIOLATION: &str = "23505";
/// `read_only_sql_transaction`.
pub const READ_ONLY_SQL_TRANSACTION: &str = "25006";
/// `invalid_authorization_specification`; also of a login that `pg_hba.conf` refuses.
pub const INVALID_AUTHORIZATION_SPECIFICATION: &str = "28000";
/// `invalid_password`.
pub const INVALID_PASSWORD: &str = "28P01";
/// `invalid_catalog_name`: the database does not exist.
pub const INVALID_CATALOG_NAME: &str = "3D000";
/// `invalid_schema_name`.
pub const INVALID_SCHEMA_NAME: &str = "3F000";
/// `insufficient_privilege`.
pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
/// `syntax_error`.
pub const SYNTAX_ERROR: &str = "42601";
/// `undefined_column`.
pub const UNDEFINED_COLUMN: &str = "42703";
/// `undefined_object`.
pub const UNDEFINED_OBJECT: &str = "42704";
/// `duplicate_object`.
pub const DUPLICATE_OBJECT: &str = "42710";
/// `undefined_function`.
pub const UNDEFINED_FUNCTION: &str = "42883";
/// `undefined_table`.
pub const UNDEFINED_TABLE: &str = "42P01";
/// `duplicate_schema`.
pub const DUPLICATE_SCHEMA: &str = "42P06";
/// `duplicate_table`.
pub const DUPLICATE_TABLE: &str = "42P07";
/// `disk_full`.
pub const DISK_FULL: &str = "53100";
/// `too_many_connections`; also of walsenders.
pub const TOO_MANY_CONNECTIONS: &str = "53300";
/// `configuration_limit_exceeded`; also for temporary files above `temp_file_limit`.
pub const CONFIGURATION_LIMIT_EXCEEDED: &str = "53400";
/// `object_in_use`; also for a slot that another session uses.
pub const OBJECT_IN_USE: &str = "55006";
/// `lock_not_available`.
pub const LOCK_NOT_AVAILABLE: &str = "55P03";
/// `query_canceled`; also after `statement_timeout`.
pub const QUERY_CANCELED: &str = "57014";
/// `cannot_connect_now`: the server is starting or shutting down.
pub const CANNOT_CONNECT_NOW: &str = "57P03";
