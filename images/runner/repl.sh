# The driver of a kept bash: see _interpreters.py. It runs in the program's own process; nothing that
# it reports is trusted.
__sandbox_leave() { (( ${#FUNCNAME[@]} > 2 )) && return 2; return 0; }
# bash has no way to jump out of a script. With extdebug, a DEBUG trap that answers 2 makes it return from
# the function or file that it is in, one after the other, until it is back here.
__sandbox_stop() {
    (( ${#FUNCNAME[@]} > 2 )) || return 0
    __sandbox_stopped=130
    builtin shopt -s extdebug
    builtin set -T
    builtin trap __sandbox_leave DEBUG
}
builtin declare -rf __sandbox_leave __sandbox_stop
while :; do
    builtin trap __sandbox_stop INT
    IFS=' ' builtin read -r -u 60 __sandbox_token __sandbox_pid __sandbox_file __sandbox_path || builtin exit
    __sandbox_pid=/proc/$__sandbox_pid/fd
    builtin mapfile -d '' -t __sandbox_args < "$__sandbox_pid/5"
    builtin unset "${__sandbox_granted[@]%%=*}"
    builtin mapfile -d '' -t __sandbox_granted < "$__sandbox_pid/7"
    (( ${#__sandbox_granted[@]} )) && builtin export "${__sandbox_granted[@]}"
    __sandbox_stopped=
    builtin source "$__sandbox_path" "${__sandbox_args[@]}" \
        0< "$__sandbox_pid/0" 1> "$__sandbox_pid/1" 2> "$__sandbox_pid/2" 60<&- 61>&-
    __sandbox_status=${__sandbox_stopped:-$?}
    builtin trap - DEBUG
    # Options that end a shell or print belong to the cell that has set them.
    builtin set +euxvT +o pipefail
    builtin shopt -u extdebug
    builtin disown -a # they end with the cell, and nobody should hear of it in the next one
    builtin printf '%s %d' "$__sandbox_token" "$__sandbox_status" >&61
done
