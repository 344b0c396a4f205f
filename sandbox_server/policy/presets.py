"""Names of SQL functions that compute from their arguments and nothing else: they read no file, no other
table, no setting, wait for nothing and change nothing. `functions: {preset: safe_builtin}` allows them."""

from __future__ import annotations

from typing import Final, Literal

_AGGREGATES: Final = """
avg bit_and bit_or bool_and bool_or count every group_concat json_agg json_group_array json_group_object
json_object_agg jsonb_agg jsonb_object_agg max min stddev stddev_pop stddev_samp string_agg sum total
array_agg var_pop var_samp variance corr covar_pop covar_samp regr_slope regr_intercept regr_r2 regr_count
mode percentile_cont percentile_disc grouping any_value
"""
_WINDOWS: Final = (
    "row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value nth_value"
)
_NUMBERS: Final = """
abs ceil ceiling floor round trunc truncate sign mod power pow sqrt cbrt exp ln log log2 log10 sin cos tan
asin acos atan atan2 degrees radians pi div greatest least width_bucket
"""
_TEXTS: Final = """
lower upper initcap length char_length character_length octet_length bit_length trim ltrim rtrim btrim
substr substring left right replace translate reverse position strpos instr locate concat concat_ws
split_part substring_index starts_with ascii chr char unicode hex unhex md5 sha1 sha2 sha256 to_hex encode
decode quote_literal format regexp_replace regexp_matches regexp_substr regexp_like regexp_instr like glob
collate soundex
"""
_TIMES: Final = """
date time datetime julianday strftime unixepoch now current_date current_time current_timestamp localtime
localtimestamp date_trunc date_part extract age make_date make_time make_timestamp make_interval to_char
to_date to_timestamp to_number year month day hour minute second quarter week weekday dayofweek dayofmonth
dayofyear dayname monthname last_day date_format str_to_date date_add date_sub adddate subdate datediff
timediff timestampdiff timestampadd from_unixtime unix_timestamp curdate curtime justify_days justify_hours
justify_interval
"""
_CHOICES: Final = "coalesce nullif ifnull if iif isnull nvl cast convert try_cast typeof case"
_JSON: Final = """
json_extract json_extract_scalar json_value json_query json_array json_object json_array_length json_type
json_valid json_unquote json_contains json_length json_keys json_build_object json_build_array
jsonb_build_object jsonb_build_array json_extract_path json_extract_path_text jsonb_extract_path
jsonb_extract_path_text json_array_elements json_array_elements_text jsonb_array_elements
jsonb_array_elements_text json_each jsonb_each json_each_text jsonb_each_text json_object_keys
jsonb_object_keys json_typeof jsonb_typeof jsonb_array_length to_json to_jsonb row_to_json array_length
cardinality unnest array_position array_to_string string_to_array array_append array_cat
"""

SAFE_BUILTIN: Final = frozenset(
    " ".join((_AGGREGATES, _WINDOWS, _NUMBERS, _TEXTS, _TIMES, _CHOICES, _JSON)).split()
)


def functions(preset: Literal["none", "safe_builtin"]) -> frozenset[str]:
    return SAFE_BUILTIN if preset == "safe_builtin" else frozenset()
