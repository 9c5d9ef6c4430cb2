#!/usr/bin/env bash
# Builds what the Dockerfile builds, without an engine: the same commands, in the same order, each stage in a clean folder with nothing
# but what was copied there. The images that stages begin with are not there: cargo is this machine's.
#
#   deploy/rehearse.sh FOLDER     the programs are in FOLDER/out afterwards; FOLDER/target is kept for the next time
set -euo pipefail

[[ $# == 1 ]] || { echo "usage: $0 FOLDER" >&2 && exit 2; }
work=$(mkdir -p "$1" && cd "$1" && pwd)
context=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$context"

export CARGO_TARGET_DIR=$work/target CARGO_INSTALL_ROOT=$work/cargo PATH=$work/cargo/bin:$PATH
rm -rf "$work/stages" "$work/out"
mkdir -p "$work/stages" "$CARGO_TARGET_DIR"

# What .dockerignore lets through, as far as git knows it.
copy_context() {
    sed -n 's/^!//p' .dockerignore | xargs git ls-files -z --cached --others --exclude-standard -- |
        xargs -0 cp --parents --target-directory="$1"
}

stage=
# Lines that end with a backslash go on with the next.
while IFS= read -r line; do
    read -r -a words <<<"$line"
    case ${words[0]-} in
    FROM)
        # The last one has no build commands: it takes the programs.
        [[ ${words[2]-} == AS ]] || break
        stage=$work/stages/${words[3]}
        echo "--- ${words[3]}"
        if [[ -d $work/stages/${words[1]} ]]; then
            cp --archive "$work/stages/${words[1]}" "$stage"
        else
            mkdir "$stage" && ln -s "$CARGO_TARGET_DIR" "$stage/target"
        fi
        ;;
    COPY)
        if [[ ${words[*]:1} == ". ." ]]; then
            copy_context "$stage"
        else
            [[ ${words[1]} == --from=* ]] || { echo "cannot rehearse: $line" >&2 && exit 1; }
            cp "$work/stages/${words[1]#--from=}/${words[2]#/src/}" "$stage/${words[3]}"
        fi
        ;;
    RUN)
        command=${line#RUN }
        echo "+ $command"
        (cd "$stage" && bash -euo pipefail -c "${command//\/out/$work/out}")
        ;;
    WORKDIR | "" | "#"*) ;;
    *) echo "cannot rehearse: $line" >&2 && exit 1 ;;
    esac
done < <(sed -e ':joined' -e '/\\$/{N;s/\\\n//;bjoined' -e '}' Dockerfile)
rm -rf "$work/stages"
ls -l "$work/out"
