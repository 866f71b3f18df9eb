#!/usr/bin/env bash
# Submit one search to a Ray cluster that is up, with this project's code. The arguments are those of tuner.search:
#
#   export RAY_API_SERVER_ADDRESS=http://<head>:8265      # or http://127.0.0.1:8265 through a tunnel
#   configs/clusters/submit.sh --task resnet18 --data-dir /data --gpus-per-trial 0.25 --name resnet18
#   configs/clusters/submit.sh --resume /runs/resnet18
#
# The driver runs on the head, where OUT (/runs) must be a folder that it can write: the working directory, into which
# the code is unpacked, is deleted after the job. SUBMIT has more flags of `ray job submit`, say SUBMIT="--no-wait".
# The cluster's token is looked for where Ray does: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# `ray job` shows a token only if told to; one that the cluster does not ask for does no harm.
if [[ -n ${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-} || -s ~/.ray/auth_token ]]; then
    export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
fi

case " $* " in
    *" --out "* | *" --out="* | *" --resume "* | *" --resume="*) place=() ;;
    *) place=(--out "${OUT:-/runs}") ;;
esac

read -ra submit <<<"${SUBMIT:-}"
exec ray job submit ${submit[@]+"${submit[@]}"} --working-dir . \
    --runtime-env-json '{"excludes": ["/.venv", "/.git", "/runs", "__pycache__", ".*_cache", ".hypothesis"]}' \
    -- python -m tuner.search "$@" ${place[@]+"${place[@]}"} --address auto
