#!/usr/bin/env bash
# The life of a model on one CPU: trained, measured, merged, quantized, exported, served, asked over HTTP, and described
# for others.  Needs an installation with the extras quantization, gguf, evaluate and serve, and the package openai:
# `make test` makes one in .venv.
#   bash examples/smollm2/life.sh [FOLDER WITH python AND siredon, default .venv/bin]
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=$(realpath "${1:-.venv/bin}")
config=examples/smollm2/identity-lora-cpu.yml
out=outputs/smollm2-life
port=${PORT:-8123}
began=$SECONDS
step() { printf '\n== %s (%d s) ==\n' "$1" "$((SECONDS - began))"; }

"$bin/python" examples/smollm2/fetch_model.py

step "train"
"$bin/siredon" train "$config" output_dir="$out"
step "evaluate: base and tuned"
"$bin/siredon" evaluate "$out" --compare
step "merge, held against base and adapter"
"$bin/siredon" merge-lora "$out"
step "quantize int8: size, loss, agreement and speed, before and after"
"$bin/siredon" quantize "$out" --method int8
step "export for llama.cpp, and read it back"
"$bin/siredon" export "$out" --format gguf --type q8_0 --output "$out/model-q8_0.gguf"

step "serve, and one streamed answer by OpenAI's client"
"$bin/siredon" serve "$out" --port "$port" &
server=$!
trap 'kill "$server" 2>/dev/null || true' EXIT
"$bin/python" - "$port" <<'PYTHON'
import sys
import time

from openai import APIConnectionError, OpenAI

client = OpenAI(base_url=f"http://127.0.0.1:{sys.argv[1]}/v1", api_key="none", max_retries=0)
for attempt in range(300):
    try:
        names = [model.id for model in client.models.list()]
        break
    except APIConnectionError:
        time.sleep(1)
else:
    sys.exit("the server did not start")
print("models:", ", ".join(names))
messages = [{"role": "user", "content": "Who are you?"}]
for piece in client.chat.completions.create(
    model=names[0], messages=messages, stream=True, temperature=0, max_tokens=40
):
    if piece.choices:
        print(piece.choices[0].delta.content or "", end="", flush=True)
print()
PYTHON
kill "$server"
wait "$server" || true
trap - EXIT

step "the model card, and what would go to the hub"
"$bin/siredon" card "$out"
"$bin/siredon" push "$out" --repo owner/smollm2-identity --dry-run

step "what there is now"
ls "$out" "$out/merged" "$out/quantized"
printf '\nall of it took %d s\n' "$((SECONDS - began))"
