# Keeps code on this host by content. Called as: sh -c SCRIPT workdir.sh STEP CACHE TREE, with input on stdin.
#
#   missing  input: a digest a line; says which contents are not here
#   take     input: a tar of contents, each named by its digest; keeps them
#   build    input: the manifest, "digest mode path" a line; makes CACHE/trees/TREE from the contents
#
# Only CACHE is ever touched. Nothing half-made is ever found under its final name.
set -eu
umask 077
step=$1 cache=$2 tree=$3

sum() {
    if command -v sha256sum >/dev/null 2>&1; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -c1-64
}

missing() {
    mkdir -p "$cache/contents" "$cache/trees" "$cache/incoming"
    while read -r digest; do
        if [ -f "$cache/contents/$digest" ]; then touch -c "$cache/contents/$digest"; else echo "$digest"; fi
    done
}

# Contents come as one tar; each is believed when it is what its name says.
take() {
    incoming="$cache/incoming/$tree.$$"
    mkdir -p "$incoming"
    trap 'rm -rf "$incoming"' EXIT
    tar -xmf - -C "$incoming"
    for file in "$incoming"/*; do
        [ -f "$file" ] || continue
        name=${file##*/}
        if [ "$(sum "$file")" != "$name" ]; then
            echo "content $name arrived damaged" >&2
            exit 3
        fi
        mv -f "$file" "$cache/contents/$name"
    done
}

# Is the tree what the manifest says? Somebody may have changed a file of it.
whole() {
    [ -d "$1" ] || return 1
    while IFS= read -r line; do
        digest=${line%% *}
        rest=${line#* }
        path=${rest#* }
        [ -f "$1/$path" ] && [ "$(sum "$1/$path")" = "$digest" ] || return 1
    done <"$2"
}

build() {
    building="$cache/incoming/tree.$tree.$$"
    manifest="$cache/incoming/manifest.$tree.$$"
    trap 'chmod -R u+w "$building" 2>/dev/null || :; rm -rf "$building" "$manifest"' EXIT
    cat >"$manifest"
    final="$cache/trees/$tree"
    if whole "$final" "$manifest"; then
        touch "$final"
        echo kept
        exit 0
    fi
    mkdir -p "$building"
    while IFS= read -r line; do
        digest=${line%% *}
        rest=${line#* }
        mode=${rest%% *}
        path=${rest#* }
        case $path in */*) mkdir -p "$building/${path%/*}" ;; esac
        cp "$cache/contents/$digest" "$building/$path"
        chmod "$mode" "$building/$path"
    done <"$manifest"
    # A container's user is another one: it must be able to read what it may not write.
    chmod -R a+rX,a-w "$building"
    chmod u+w "$building"
    if [ -d "$final" ]; then
        chmod -R u+w "$final"
        mv "$final" "$building.old"
    fi
    mv "$building" "$final"
    [ ! -d "$building.old" ] || rm -rf "$building.old"
    # What nobody has asked for in a month goes; a run touches what it uses.
    find "$cache/contents" -type f -mtime +30 -exec rm -f {} +
    find "$cache/trees" -mindepth 1 -maxdepth 1 -type d -mtime +30 -exec chmod -R u+w {} + -exec rm -rf {} +
    echo built
}

case $step in
missing) missing ;;
take) take ;;
build) build ;;
*) echo "unknown step $step" >&2 && exit 2 ;;
esac
