//! SQLSTATEs that outboxd treats in a way of their own (manual, "PostgreSQL Error Codes").

/// `character_not_in_repertoire`.
pub(crate) const CHARACTER_NOT_IN_REPERTOIRE: &str = "22021";
/// `untranslatable_character`.
pub(crate) const UNTRANSLATABLE_CHARACTER: &str = "22P05";
/// `invalid_parameter_value`.
pub(crate) const INVALID_PARAMETER_VALUE: &str = "22023";
/// `unique_violation`.
pub(crate) const UNIQUE_VIOLATION: &str = "23505";
/// `read_only_sql_transaction`.
pub(crate) const READ_ONLY_SQL_TRANSACTION: &str = "25006";
/// `invalid_schema_name`.
pub(crate) const INVALID_SCHEMA_NAME: &str = "3F000";
/// `insufficient_privilege`.
pub(crate) const INSUFFICIENT_PRIVILEGE: &str = "42501";
/// `undefined_column`.
pub(crate) const UNDEFINED_COLUMN: &str = "42703";
/// `undefined_object`.
pub(crate) const UNDEFINED_OBJECT: &str = "42704";
/// `duplicate_object`.
pub(crate) const DUPLICATE_OBJECT: &str = "42710";
/// `undefined_function`.
pub(crate) const UNDEFINED_FUNCTION: &str = "42883";
/// `undefined_table`.
pub(crate) const UNDEFINED_TABLE: &str = "42P01";
/// `duplicate_schema`.
pub(crate) const DUPLICATE_SCHEMA: &str = "42P06";
/// `duplicate_table`.
pub(crate) const DUPLICATE_TABLE: &str = "42P07";
/// `disk_full`.
pub(crate) const DISK_FULL: &str = "53100";
/// `configuration_limit_exceeded`, also for temporary files above `temp_file_limit`.
pub(crate) const CONFIGURATION_LIMIT_EXCEEDED: &str = "53400";
/// `object_in_use`, also for a slot that a client streams from.
pub(crate) const OBJECT_IN_USE: &str = "55006";
/// `lock_not_available`.
pub(crate) const LOCK_NOT_AVAILABLE: &str = "55P03";
/// `query_canceled`, also by `statement_timeout`.
pub(crate) const QUERY_CANCELED: &str = "57014";
/// `cannot_connect_now`: the server shuts down or starts up.
pub(crate) const CANNOT_CONNECT_NOW: &str = "57P03";
