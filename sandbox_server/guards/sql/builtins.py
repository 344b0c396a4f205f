"""The preset `safe_builtin`: functions that compute from their arguments alone.

None reads files, tables named in strings, settings, sessions or the network; none waits, locks or changes
anything; none makes a large value out of a small one (for those with a width, see `bounds.py`).
"""

from __future__ import annotations

from sandbox_server.guards.sql.models import Dialect
from sandbox_server.guards.sql.words import words

_COMMON = words(
    """
    count sum avg min max total row_number rank dense_rank percent_rank cume_dist ntile lag lead
    first_value last_value nth_value grouping coalesce nullif ifnull if iif case cast greatest least
    lower upper length char_length character_length octet_length trim ltrim rtrim btrim substr substring
    replace instr position strpos left right reverse concat concat_ws lpad rpad ascii chr char hex unhex
    soundex translate abs ceil ceiling floor round trunc truncate sign mod power pow sqrt exp ln log
    log2 log10 pi radians degrees sin cos tan cot asin acos atan atan2 random rand div date time
    datetime timestamp extract year month day hour minute second quarter week current_date current_time
    current_timestamp localtime localtimestamp now
    """
)

_POSTGRES = words(
    """
    array_agg string_agg bool_and bool_or every bit_and bit_or bit_xor any_value corr covar_pop
    covar_samp regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy
    regr_syy stddev stddev_pop stddev_samp variance var_pop var_samp mode percentile_cont
    percentile_disc json_agg jsonb_agg json_object_agg jsonb_object_agg json_arrayagg json_objectagg
    range_agg range_intersect_agg initcap split_part starts_with overlay quote_literal quote_ident
    to_hex md5 sha224 sha256 sha384 sha512 encode decode regexp_replace regexp_match regexp_matches
    regexp_split_to_array regexp_split_to_table regexp_count regexp_instr regexp_like regexp_substr
    normalize casefold string_to_array array_to_string string_to_table to_number bit_length get_byte
    set_byte get_bit bit_count convert_from convert_to unaccent similarity word_similarity levenshtein
    format cbrt factorial gcd lcm width_bucket scale min_scale trim_scale sinh cosh tanh asinh acosh
    atanh erf erfc asind acosd atand atan2d sind cosd tand cotd isfinite age date_part date_trunc
    date_bin date_add date_subtract make_date make_time make_timestamp make_timestamptz make_interval
    to_char to_date to_timestamp justify_days justify_hours justify_interval clock_timestamp
    statement_timestamp transaction_timestamp timezone timeofday array array_append array_cat array_dims
    array_length array_lower array_ndims array_position array_positions array_prepend array_remove
    array_replace array_sort array_upper cardinality trim_array unnest generate_series
    generate_subscripts array_sample array_shuffle row to_json to_jsonb row_to_json array_to_json
    json_build_array jsonb_build_array json_build_object jsonb_build_object json_object jsonb_object
    json_array json_array_length jsonb_array_length json_array_elements jsonb_array_elements
    json_array_elements_text jsonb_array_elements_text json_each jsonb_each json_each_text
    jsonb_each_text json_extract_path jsonb_extract_path json_extract_path_text jsonb_extract_path_text
    json_object_keys jsonb_object_keys json_to_record jsonb_to_record json_to_recordset
    jsonb_to_recordset json_strip_nulls jsonb_strip_nulls json_typeof jsonb_typeof jsonb_set
    jsonb_set_lax jsonb_insert jsonb_pretty jsonb_path_exists jsonb_path_match jsonb_path_query
    jsonb_path_query_array jsonb_path_query_first jsonb_path_exists_tz jsonb_path_query_tz json_exists
    json_value json_query int4range int8range numrange tsrange tstzrange daterange isempty lower_inc
    upper_inc lower_inf upper_inf range_merge to_tsvector to_tsquery plainto_tsquery phraseto_tsquery
    websearch_to_tsquery ts_rank ts_rank_cd ts_headline numnode setweight strip tsvector_to_array
    gen_random_uuid uuidv4 uuidv7 num_nulls num_nonnulls host masklen network broadcast family
    """
)

_MYSQL = words(
    """
    group_concat bit_and bit_or bit_xor std stddev stddev_pop stddev_samp variance var_pop var_samp
    json_arrayagg json_objectagg median percentile_cont percentile_disc any_value lcase ucase mid locate
    field find_in_set elt substring_index strcmp bin oct conv ord crc32 md5 sha sha1 sha2 to_base64
    from_base64 regexp_replace regexp_substr regexp_instr regexp_like quote format make_set
    natural_sort_key curdate curtime sysdate utc_date utc_time utc_timestamp date_add date_sub adddate
    subdate addtime subtime datediff timediff timestampdiff timestampadd date_format time_format
    str_to_date from_days to_days to_seconds sec_to_time time_to_sec from_unixtime unix_timestamp
    dayname dayofmonth dayofweek dayofyear weekday weekofyear yearweek monthname last_day makedate
    maketime microsecond period_add period_diff convert_tz convert get_format to_char add_months
    json_array json_array_append json_array_insert json_compact json_contains json_contains_path
    json_depth json_detailed json_equals json_exists json_extract json_insert json_keys json_length
    json_loose json_merge json_merge_patch json_merge_preserve json_normalize json_object json_overlaps
    json_pretty json_query json_quote json_remove json_replace json_search json_set json_type
    json_unquote json_valid json_value isnull nvl nvl2 decode_oracle interval match against inet_aton
    inet_ntoa inet6_aton inet6_ntoa is_ipv4 is_ipv6 bit_count bit_length binary uuid_to_bin bin_to_uuid
    """
)

_SQLITE = words(
    """
    group_concat string_agg printf format glob like nullif quote typeof unicode unistr unlikely likely
    likelihood julianday strftime unixepoch timediff json jsonb json_array jsonb_array json_array_length
    json_extract jsonb_extract json_insert jsonb_insert json_object jsonb_object json_patch jsonb_patch
    json_remove jsonb_remove json_replace jsonb_replace json_set jsonb_set json_type json_valid
    json_error_position json_pretty json_quote json_group_array jsonb_group_array json_group_object
    jsonb_group_object json_each json_tree generate_series median percentile percentile_cont
    percentile_disc octet_length concat concat_ws acosh asinh atanh cosh sinh tanh
    """
)


SAFE_BUILTIN: dict[Dialect, frozenset[str]] = {
    "postgres": _COMMON | _POSTGRES,
    "mysql": _COMMON | _MYSQL,
    "sqlite": _COMMON | _SQLITE,
}

TABLE_FUNCTIONS: dict[Dialect, frozenset[str]] = {
    "postgres": words(
        "generate_series generate_subscripts unnest json_each jsonb_each json_each_text jsonb_each_text "
        "json_array_elements jsonb_array_elements json_array_elements_text jsonb_array_elements_text "
        "json_object_keys jsonb_object_keys json_to_record jsonb_to_record json_to_recordset "
        "jsonb_to_recordset jsonb_path_query regexp_matches regexp_split_to_table string_to_table"
    ),
    "mysql": frozenset(),
    "sqlite": words("json_each json_tree generate_series"),
}
"""Of the preset, those that may stand in FROM."""
