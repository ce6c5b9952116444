"""Talking to a model."""

from __future__ import annotations

from siredon.config.fields import Bool, Float, Int, Section, Str, key, planned


class VllmOptions(Section):
    """`vllm:`, the server of vLLM: for `siredon vllm-serve`, and for `siredon serve --engine vllm`."""

    host: Str = key(
        "Address on which `vllm-serve` listens; only this machine reaches the default.", "127.0.0.1"
    )
    port: Int = key("Port on which `vllm-serve` listens.", 8000, ge=1, le=65535)
    device: Str = planned("Kind of device.", "auto")
    dtype: Str = key("Number format of the weights, such as `bfloat16`; `auto` takes the model's.", "auto")
    tensor_parallel_size: Int | None = key("GPUs that share each layer.", None, ge=1)
    data_parallel_size: Int | None = key("Copies of the model.", None, ge=1)
    gpu_memory_utilization: Float = key("Fraction of GPU memory that it takes.", 0.9, gt=0, le=1)
    max_model_len: Int | None = key("Longest prompt with answer, in tokens.", None, ge=1)
    enable_prefix_caching: Bool | None = key("Reuse the work on beginnings that prompts share.", None)
    enforce_eager: Bool | None = key("Run without CUDA graphs.", None)
    enable_reasoning: Bool | None = key("Return reasoning apart from the answer.", None)
    reasoning_parser: Str | None = key(
        "How reasoning is recognized, by vLLM's name for it, such as `qwen3`.", None
    )
    serve_module: Str | None = planned("Dotted path of a server to run instead.")
    worker_extension_cls: Str | None = key("Dotted path of a class added to vLLM's workers.", None)


class ServingSection(Section):
    """Servers: vLLM's, and the web page of Gradio."""

    vllm: VllmOptions | None = key("The server of vLLM.", None)
    gradio_title: Str | None = key(
        "Heading of the page of `--gradio`; the name of the model without it.", None
    )
    gradio_share: Bool | None = key(
        "Reachable from everywhere, through Gradio's servers; only if it is `true`, where Axolotl does so unasked.",
        None,
    )
    gradio_server_name: Str | None = key(
        "Address on which it listens; only this machine reaches the default, 127.0.0.1.",
        None,
    )
    gradio_server_port: Int | None = key(
        "Port on which it listens; without it a free one from 7860.", None, ge=1, le=65535
    )
    gradio_max_new_tokens: Int | None = key("Longest answer, in tokens, as the page begins.", None, ge=1)
    gradio_temperature: Float | None = key("Sampling temperature, as the page begins.", None, ge=0, le=2)
