# Lists a data set's files and takes those that are missing. Called as: sh -c SCRIPT dataset.sh STEP FOLDER [ARGUMENTS].
#
#   summary           "files COUNT BYTES CHECKSUM", the checksum over all names and sizes
#   list              "free KIB", then "SIZE ./path" for each file
#   digest            input: a path a line; answers "SHA256 path"
#   piece FROM COUNT PATH     prints that part of a file
#   pack PATH...      prints a tar of files
#   have PATH         bytes of the file that have arrived and are not in place yet
#   append PATH       input: the next bytes of a file
#   take              input: a tar of files
#   finish            input: "SHA256 path" a line; puts each into place if it is whole, and says which were not
#   clean             removes what has arrived and is not in place
#
# The first two say "problem missing|denied" where there is no folder, and "unfinished KIB" where one is being filled.
# What is not in place yet lies in FOLDER/.hetero-tui-incoming. Nothing that was there is ever changed or removed.
set -eu
# A container's user is another one: it must be able to read.
umask 022
step=$1 folder=$2
shift 2
incoming=.hetero-tui-incoming

sum() {
    if command -v sha256sum >/dev/null 2>&1; then sha256sum -- "$1"; else shasum -a 256 -- "$1"; fi | cut -c1-64
}

# The fourth column, counted from behind: the first may hold blanks.
free() {
    df -Pk -- "$1" | tail -n 1 | {
        read -r row
        # shellcheck disable=SC2086  # its words are wanted
        set -- $row
        while [ $# -gt 3 ]; do shift; done
        echo "free $1"
    }
}

# Names and sizes, not contents: reading a data set on every host would take longer than training on it.
files() {
    find . -name "$incoming" -prune -o -type f -exec wc -c {} + | grep -v '^ *[0-9]* total$' | sed 's/^ *//' || :
}

case $step in take | append | have) mkdir -p -- "$folder/$incoming" ;; esac
if ! cd -- "$folder" 2>/dev/null; then
    case $step in list | summary) ;; *) echo "there is no folder $folder" >&2 && exit 3 ;; esac
    if [ -e "$folder" ]; then echo "problem denied"; else echo "problem missing"; fi
    [ "$step" = list ] || exit 0
    above=$folder
    while [ ! -d "$above" ]; do above=$(dirname -- "$above"); done
    free "$above"
    exit 0
fi

case $step in list | summary) [ ! -d "$incoming" ] || echo "unfinished $(du -sk "$incoming" | cut -f 1)" ;; esac
case $step in
summary)
    set -- "$(files | LC_ALL=C sort)"
    echo "files $(printf '%s\n' "$1" | awk 'NF { n++; sum += $1 } END { printf "%d %.0f", n, sum }')" \
        "$(printf '%s' "$1" | cksum | tr ' ' -)"
    ;;
list) free . && files ;;
digest) while IFS= read -r path; do echo "$(sum "$path") $path"; done ;;
piece) tail -c "+$(($1 + 1))" -- "$3" | head -c "$2" ;;
pack) exec tar -cf - -- "$@" ;;
have) if [ -f "$incoming/$1" ]; then wc -c <"$incoming/$1"; else echo 0; fi ;;
append)
    case $1 in */*) mkdir -p -- "$incoming/${1%/*}" ;; esac
    cat >>"$incoming/$1"
    ;;
take) exec tar -xmf - -C "$incoming" ;;
finish)
    while IFS= read -r line; do
        digest=${line%% *} path=${line#* }
        if [ "$(sum "$incoming/$path")" != "$digest" ]; then
            rm -f -- "$incoming/$path"
            echo "damaged $path"
        elif [ -e "$path" ] || [ -L "$path" ]; then
            rm -f -- "$incoming/$path"
            echo "taken $path"
        else
            case $path in */*) mkdir -p -- "${path%/*}" ;; esac
            mv -- "$incoming/$path" "$path"
        fi
    done
    ;;
clean) rm -rf -- "$incoming" ;;
*) echo "unknown step $step" >&2 && exit 2 ;;
esac
