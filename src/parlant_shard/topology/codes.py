"""The codes of everything that can be wrong with a topology file, one per kind of mistake."""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """A code and, as `meaning`, the line that the documentation has for it."""

    meaning: str

    def __new__(cls, code: str, meaning: str) -> Code:
        member = str.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    FILE = "PS101", "the topology file does not exist or cannot be read"
    ENCODING = "PS102", "the topology file is not UTF-8"
    SYNTAX = "PS103", "the topology file is not valid YAML"
    EMPTY = "PS104", "the topology file is empty"
    NOT_A_MAPPING = "PS105", "the topology file is not a mapping of keys to values"
    VERSION = "PS106", "the topology file is of another version than this release reads"
    UNKNOWN_KEY = "PS107", "a key that no topology file has"
    MISSING_KEY = "PS108", "a key that is required is missing"
    WRONG_TYPE = "PS109", "a value has another type than its key needs"
    DUPLICATE_KEY = "PS110", "a key is written twice in one mapping"
    VARIABLE_NOT_SET = "PS111", "a ${VARIABLE} is not set in the environment"
    VARIABLE_SYNTAX = "PS112", "a reference to a variable is not of the form ${NAME}"
    SECRET_FILE = (
        "PS113",
        "a file that holds a secret cannot be read or is empty",
    )
    BAD_NAME = "PS114", "a name has characters that names of its kind cannot have, or is reserved"
    NAME_TOO_LONG = "PS115", "a name is longer than names of its kind may be"
    NO_ADDRESS = "PS116", "a server has neither dsn nor embedded"
    TWO_ADDRESSES = "PS117", "a server has two sources for its address"
    BAD_DSN = "PS118", "a connection string that libpq cannot read"
    SAME_SERVER = "PS119", "two servers of the topology are one database"
    NOTHING = "PS120", "a mapping that needs at least one entry is empty"
    SHARD_SERVER = "PS121", "a shard is on a server that is not listed"
    COORDINATOR = "PS122", "the coordinator is not one of the servers"
    WORKSPACE_TYPE = "PS123", "a workspace is not a string"
    WORKSPACE_EMPTY = "PS124", "a workspace is empty or cannot be stored as text"
    WORKSPACE_TWICE = "PS125", "a workspace is listed twice on one shard"
    WORKSPACE_ON_TWO = "PS126", "a workspace is listed on two shards"
    BUCKETS_SYNTAX = "PS127", "buckets are not whole numbers or ranges from 0 to 4095"
    BUCKETS_OVERLAP = "PS128", "a bucket is claimed twice"
    BUCKETS_MISSING = "PS129", "buckets are used and some belong to no shard"
    INTERVAL = "PS130", "an interval cannot be read or has the wrong unit"
    PREMAKE = "PS131", "premake is below 1 or above 1,000"
    RETENTION = "PS132", "retention is shorter than one partition"
    SIGNED = "PS133", "isolation.signed without isolation.rls"
    SCHEMA_SOURCE = "PS134", "schema does not name exactly one of preset, files and from"
    SCHEMA_FILES = "PS135", "a pattern under schema.files matches no file"
    PRESET = "PS136", "no preset of this name"
    SCHEMA_SERVER = "PS137", "schema.from names a server that is not listed"
    UNKNOWN_TABLE = "PS138", "a table that the schema does not declare"
    UNKNOWN_COLUMN = "PS139", "a column that the table does not have"
    PARTITION_TYPE = (
        "PS140",
        "the column that a table or window goes by is of a type without time",
    )
    COLLISION = "PS141", "two objects would have the same name in PostgreSQL"
    INDEX_COLUMN = "PS142", "an index column is not of the form: name [asc|desc] [nulls first|last]"
    CHOICE = "PS143", "a value is not one of those that its key knows"
    CONTRADICTION = "PS144", "two settings exclude or need each other"
    PREDICATE = "PS145", "the condition of a partial index is not an SQL expression"
    RLS_ROLE = "PS720", "isolation.rls without isolation.role"
    SIGNING_KEY = "PS721", "a signing key is missing, too short or given twice"
    NO_FOREIGN_KEY = "PS146", "path names a column without a foreign key"
    SIZE = "PS149", "a size is not a number with kB, MB, GB or TB"


BY_VALUE: dict[str, Code] = {code.value: code for code in Code}
CODES: dict[str, str] = {code.value: code.meaning for code in Code}
