"""Functions and types that a routed statement may use, by name.

A function that reads tables by name, runs SQL, changes a setting, reads the server's files or
asks for what all workspaces share (locks, sequences, transaction ids, statistics, privileges) is a
way around every predicate. The list therefore says what is allowed, not what is forbidden.
"""

from __future__ import annotations

_FUNCTIONS = """
abs acos acosd acosh age any_value area array_agg array_append array_cat array_dims array_fill
array_length array_lower array_ndims array_position array_positions array_prepend array_remove
array_replace array_reverse array_sample array_shuffle array_sort array_to_json array_to_string
array_to_tsvector array_upper ascii asin asind asinh atan atan2 atan2d atand atanh avg bit_and
bit_count bit_length bit_or bit_xor bool bool_and bool_or bound_box box bpchar broadcast btrim
cardinality casefold cbrt ceil ceiling center char_length character_length chr circle
clock_timestamp coalesce concat concat_ws convert convert_from convert_to corr cos cosd cosh cot
cotd count covar_pop covar_samp crc32 crc32c cume_dist current_database current_date current_schema
date date_add date_bin date_part date_subtract date_trunc datemultirange daterange decode degrees
dense_rank diagonal diameter div encode enum_first enum_last enum_range erf erfc every exp extract
factorial family first_value float4 float8 floor format gamma gcd gen_random_uuid generate_series
generate_subscripts get_bit get_byte greatest height host hostmask inet_merge inet_same_family
initcap int2 int4 int4multirange int4range int8 int8multirange int8range interval is_normalized
isclosed isempty isfinite isopen json_agg json_agg_strict json_array_elements
json_array_elements_text json_array_length json_build_array json_build_object json_each
json_each_text json_extract_path json_extract_path_text json_object json_object_agg
json_object_agg_strict json_object_agg_unique json_object_agg_unique_strict json_object_keys
json_populate_record json_populate_recordset json_strip_nulls json_to_record json_to_recordset
json_to_tsvector json_typeof jsonb_agg jsonb_agg_strict jsonb_array_elements
jsonb_array_elements_text jsonb_array_length jsonb_build_array jsonb_build_object jsonb_concat
jsonb_contained jsonb_contains jsonb_delete jsonb_delete_path jsonb_each jsonb_each_text
jsonb_exists jsonb_exists_all jsonb_exists_any jsonb_extract_path jsonb_extract_path_text
jsonb_insert jsonb_object jsonb_object_agg jsonb_object_agg_strict jsonb_object_agg_unique
jsonb_object_agg_unique_strict jsonb_object_keys jsonb_path_exists jsonb_path_exists_tz
jsonb_path_match jsonb_path_match_tz jsonb_path_query jsonb_path_query_array
jsonb_path_query_array_tz jsonb_path_query_first jsonb_path_query_first_tz jsonb_path_query_tz
jsonb_populate_record jsonb_populate_record_valid jsonb_populate_recordset jsonb_pretty jsonb_set
jsonb_set_lax jsonb_strip_nulls jsonb_to_record jsonb_to_recordset jsonb_to_tsvector jsonb_typeof
justify_days justify_hours justify_interval lag last_value lcm lead least left length lgamma like
like_escape line ln localtime localtimestamp log log10 lower lower_inc lower_inf lpad lseg ltrim
macaddr make_date make_interval make_time make_timestamp make_timestamptz masklen max md5
merge_action min min_scale mod mode money multirange netmask network normalize notlike now npoints
nth_value ntile nullif num_nonnulls num_nulls numeric nummultirange numnode numrange octet_length
overlaps overlay parse_ident path percent_rank percentile_cont percentile_disc pg_column_size
pg_size_bytes pg_size_pretty pg_typeof phraseto_tsquery pi plainto_tsquery point polygon position
pow power querytree quote_ident quote_literal quote_nullable radians radius random random_normal
range_agg range_intersect_agg range_merge rank regexp_count regexp_instr regexp_like regexp_match
regexp_matches regexp_replace regexp_split_to_array regexp_split_to_table regexp_substr regr_avgx
regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy repeat replace
reverse right round row_number row_to_json rpad rtrim scale set_bit set_byte setweight sha224
sha256 sha384 sha512 sign similar_escape similar_to_escape sin sind sinh slope split_part sqrt
starts_with statement_timestamp stddev stddev_pop stddev_samp string_agg string_to_array
string_to_table strip strpos substr substring sum tan tand tanh text timeofday timezone to_ascii
to_bin to_char to_date to_hex to_json to_jsonb to_number to_oct to_timestamp to_tsquery to_tsvector
transaction_timestamp translate trim_array trim_scale trunc ts_delete ts_filter ts_headline ts_rank
ts_rank_cd tsmultirange tsquery_phrase tsrange tstzmultirange tstzrange tsvector_to_array
unicode_assigned unistr unnest upper upper_inc upper_inf uuid_extract_timestamp
uuid_extract_version uuidv4 uuidv7 var_pop var_samp varchar variance version websearch_to_tsquery
width width_bucket xml_is_well_formed xml_is_well_formed_content xml_is_well_formed_document xmlagg
xmlcomment xmlexists xmltext xpath xpath_exists
"""

# Of extensions that managed PostgreSQL offers: uuid-ossp, pgcrypto, pg_trgm, unaccent, pgvector.
_OF_EXTENSIONS = """
uuid_generate_v1 uuid_generate_v1mc uuid_generate_v3 uuid_generate_v4 uuid_generate_v5 uuid_nil
uuid_ns_dns uuid_ns_oid uuid_ns_url uuid_ns_x500 crypt digest gen_random_bytes gen_salt hmac
similarity show_trgm strict_word_similarity word_similarity unaccent binary_quantize
cosine_distance hamming_distance inner_product jaccard_distance l1_distance l2_distance l2_norm
l2_normalize subvector vector_dims vector_norm
"""

_AGGREGATES = """
any_value array_agg avg bit_and bit_or bit_xor bool_and bool_or corr count covar_pop covar_samp
every json_agg json_agg_strict json_object_agg json_object_agg_strict json_object_agg_unique
json_object_agg_unique_strict jsonb_agg jsonb_agg_strict jsonb_object_agg jsonb_object_agg_strict
jsonb_object_agg_unique jsonb_object_agg_unique_strict max min mode percentile_cont percentile_disc
range_agg range_intersect_agg regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope
regr_sxx regr_sxy regr_syy stddev stddev_pop stddev_samp string_agg sum var_pop var_samp variance
xmlagg
"""

_TYPES = """
bit bool boolean box bpchar bytea char cidr circle date datemultirange daterange float4 float8 inet
int int2 int4 int4multirange int4range int8 int8multirange int8range integer interval json jsonb
jsonpath line lseg macaddr macaddr8 money name numeric nummultirange numrange path point polygon
regconfig regdictionary smallint text time timestamp timestamptz timetz tsmultirange tsquery
tsrange tstzmultirange tstzrange tsvector uuid varbit varchar xml citext hstore ltree vector
halfvec sparsevec
"""

OF_EXTENSIONS = frozenset(_OF_EXTENSIONS.split())
FUNCTIONS = frozenset(_FUNCTIONS.split()) | OF_EXTENSIONS

TYPES = frozenset(_TYPES.split())
AGGREGATES = frozenset(_AGGREGATES.split())

SYSTEM_COLUMNS = frozenset(["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"])

# `x.f` and `(x).f` call the function f where x has no field f. What may stand there without being
# known as a column: columns of functions that return rows, as a rule.
FIELDS = frozenset(["key", "value", "ordinality", "path", "lexeme", "positions", "weights"])

_SUSPECT = (
    *("pg_", "lo_", "reg", "to_reg", "has_", "txid_", "binary_upgrade_", "brin_", "gin_", "inet_"),
    *("dblink", "xid", "oid", "currtid", "current_", "session_", "set_", "row_security", "ts_"),
    *("query_to_", "table_to_", "schema_to_", "database_to_", "cursor_to_", "makeacl", "acl"),
)
_SUSPECT_NAMES = frozenset(
    ["nextval", "currval", "setval", "lastval", "setseed", "version", "loread", "lowrite", "tid"]
)


def is_allowed_call(schema: str | None, name: str, namespace: str) -> bool:
    """Whether a function may be called, by its name and the schema that the text gives it."""
    if schema in {None, "pg_catalog"}:
        return name in FUNCTIONS
    return schema == namespace and name in OF_EXTENSIONS


def may_be_a_field(name: str) -> bool:
    """Whether a name that the statement itself gives to a column is harmless as `x.name`."""
    return name in FUNCTIONS or not (name.startswith(_SUSPECT) or name in _SUSPECT_NAMES)
